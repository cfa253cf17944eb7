# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What `make demo` shows of the model it has trained: held-out accuracy, a clip classified, a stream, a picture.

python examples/demo_report.py --model outputs/demo/model --videos outputs/demo/videos/validation
"""

import argparse
import csv
import json
from pathlib import Path

import torch
from transformers import pipeline

from ila_hf import ILAVideoProcessor, Stream, Timeline, read_video
from ila_hf.analysis.frame_order import score_videos
from ila_hf.analysis.visualization import visualize_video
from ila_hf.demo.motion_clips import OPPOSITES
from ila_hf.inference import TimelineEntry


def make_film(processor: ILAVideoProcessor, videos: Path) -> tuple[list[torch.Tensor], list[TimelineEntry]]:
    """One clip of every class, a second each: its frames (3, H, W), T a second, and when which is shown."""
    film: list[torch.Tensor] = []
    truth = []
    for second, folder in enumerate(sorted(path for path in videos.iterdir() if path.is_dir())):
        film += read_video(min(folder.glob("*.mp4")), processor.sample_frames)[0]
        truth.append(TimelineEntry(folder.name, second, second + 1, 1.0))
    return film, truth


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--videos", required=True, type=Path)
    arguments = parser.parse_args()

    # 1. What the training script measured
    metrics = json.loads((arguments.model / "eval_results.json").read_text())
    print(f"\nHeld-out top-1: {100 * metrics['eval_top1']:.1f} %")
    classify = pipeline("video-classification", model=str(arguments.model))
    model, processor = classify.model, classify.video_processor
    scores = score_videos(str(arguments.model), str(arguments.videos), batch_size=50)
    shuffled = 100 * scores.shuffled_top1
    print(f"The same clips with their frames in random order: {shuffled:.1f} % (a bag of frames: at most 50 %)")
    with (arguments.model / "confusion_matrix.csv").open(newline="") as file:
        rows = {row.pop("true \\ predicted"): row for row in csv.DictReader(file)}
    print("Confusion of opposite motions (a clip of the one taken for the other):")
    for one, other in OPPOSITES:
        for true, predicted in ((one, other), (other, one)):
            row = rows[true.replace(" ", "_")]
            count, total = int(row[predicted.replace(" ", "_")]), sum(map(int, row.values()))
            print(f"  {true:>24} taken for {predicted:<24} {count:3} of {total}")

    # 2. Reload and classify one file
    clip = sorted(arguments.videos.glob("*/*.mp4"))[0]
    print(f"\n{clip}:")
    for answer in classify(str(clip), top_k=3):
        print(f"  {answer['label'].replace('_', ' '):<24} {answer['score']:.3f}")

    # 3. Stream a film of one held-out clip of every motion, one after the other
    film, truth = make_film(processor, arguments.videos)
    stream = Stream(model, processor, top_k=len(truth))
    found = Timeline.from_predictions(stream(film, source_fps=processor.num_frames), min_seconds=0.3)
    print("\nA film of held-out clips, a second each, streamed. What is shown, and what the stream has seen:")
    for entry in truth:
        seen = [other for other in found if entry.start <= (other.start + other.end) / 2 < entry.end]
        times = (f"{other.label.replace('_', ' ')} {other.start:.2f}-{other.end:.2f} s" for other in seen)
        print(f"  {entry.label.replace('_', ' '):<24} {entry.start}-{entry.end} s   {', '.join(times)}")

    # 4. Draw the interactive points on its frames
    picture = arguments.model / "interactive_points.png"
    visualize_video(model, processor, clip).save(picture)
    print(f"\nThe points of every layer on the frames of this clip: {picture}")


if __name__ == "__main__":
    main()
