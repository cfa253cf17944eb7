# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What `make demo` shows of the model it has trained: held-out accuracy, a clip classified, a picture of it.

python examples/demo_report.py --model outputs/demo/model --videos outputs/demo/videos/validation
"""

import argparse
import csv
import json
from pathlib import Path

from transformers import AutoModelForVideoClassification, AutoVideoProcessor, pipeline

from ila_hf.motion_videos import OPPOSITES
from ila_hf.visualization import visualize_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--videos", required=True, type=Path)
    arguments = parser.parse_args()

    # 1. What the training script measured
    metrics = json.loads((arguments.model / "eval_results.json").read_text())
    print(f"\nHeld-out top-1: {100 * metrics['eval_top1']:.1f} %  (50 % without the order of the frames)")
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
    classify = pipeline("video-classification", model=str(arguments.model))
    print(f"\n{clip}:")
    for answer in classify(str(clip), top_k=3):
        print(f"  {answer['label'].replace('_', ' '):<24} {answer['score']:.3f}")

    # 3. Draw the interactive points on its frames
    model = AutoModelForVideoClassification.from_pretrained(arguments.model)
    picture = arguments.model / "interactive_points.png"
    visualize_video(model, AutoVideoProcessor.from_pretrained(arguments.model), clip).save(picture)
    print(f"\nThe points of every layer on the frames of this clip: {picture}")


if __name__ == "__main__":
    main()
