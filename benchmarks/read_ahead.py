"""How busy a pipeline keeps the model: reading ahead, where reading and the model take as long.

    python benchmarks/read_ahead.py
    python benchmarks/read_ahead.py --report     # only the table, of the file that is there

Clips are drawn, written as mp4 and classified one by one. The model, of random weights, gets as many layers as make it
as slow as reading a clip. Reading and model have one thread each. Measured in turn: one after the other; only reading,
which tells the best that can be, the larger of its share and the rest; the pipeline, which reads the next batch in a
thread; the pipeline with one worker process.
"""

import argparse
import functools
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import torch
from transformers import pipeline

from ila_hf import ILAConfig, ILAForVideoClassification, ILAVideoProcessor
from ila_hf.analysis.benchmark import Measurement, machine, markdown_table, measure
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import draw_clip


RESULTS = Path(__file__).parent / "results" / "read_ahead.json"
SIZE = 1280  # of the frames, at which reading takes as long as a trunk of two layers


def write_clips(folder: Path, count: int) -> list[str]:
    """Drawn clips, enlarged, as mp4."""
    files = []
    for i in range(count):
        frames, _, fps = draw_clip(i)
        large = torch.nn.functional.interpolate(torch.tensor(frames.copy()).permute(0, 3, 1, 2).float(), size=SIZE)
        files.append(str(folder / f"{i}.mp4"))
        write_video(files[-1], large.permute(0, 2, 3, 1).byte().numpy(), fps)
    return files


def make_model(layers: int) -> ILAForVideoClassification:
    """A trunk of some layers of the width of ViT-B/32, with a linear head."""
    torch.manual_seed(0)
    vision = {"num_hidden_layers": layers}
    return ILAForVideoClassification(ILAConfig.from_preset("ila-base-patch32", vision_config=vision)).eval()


def seconds(step: Callable[[], Any]) -> float:
    """Of the median of five runs."""
    times = []
    for _ in range(5):
        start = perf_counter()
        step()
        times.append(perf_counter() - start)
    return statistics.median(times)


def balanced_model(processor: ILAVideoProcessor, file: str) -> ILAForVideoClassification:
    """As many layers as take as long as reading a clip."""
    clips = processor(file, return_tensors="pt")["pixel_values"]
    reading = seconds(lambda: processor(file, return_tensors="pt"))
    with torch.inference_mode():
        two, six = (seconds(functools.partial(make_model(layers), clips)) for layers in (2, 6))
    return make_model(max(1, round(2 + (reading - two) * 4 / (six - two))))


def one_after_the_other(model: ILAForVideoClassification, processor: ILAVideoProcessor, files: list[str]) -> None:
    """What a loop does."""
    with torch.inference_mode():
        for file in files:
            model(processor(file, return_tensors="pt")["pixel_values"])


def run(folder: Path, count: int, rounds: int) -> dict[str, Any]:
    """Time all ways in turn."""
    torch.set_num_threads(1)
    files = write_clips(folder, count)
    processor = ILAVideoProcessor(size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224})
    model = balanced_model(processor, files[0])
    classify = pipeline("video-classification", model=model, video_processor=processor)
    steps = {
        "one after the other": functools.partial(one_after_the_other, model, processor, files),
        "only reading": lambda: [processor(file, return_tensors="pt") for file in files],
        "pipeline": lambda: list(classify(files)),
        "pipeline, one worker": lambda: list(classify(files, num_workers=1)),
    }
    found = measure(f"{count} files", steps, rounds)
    return {
        "machine": machine(),
        "layers": model.config.vision_config.num_hidden_layers,
        "measurements": [asdict(each) for each in found],
    }


def main() -> None:
    """Time, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=30, help="clips (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output_file", type=Path, default=RESULTS)
    parser.add_argument("--report", action="store_true", help="only print the table of the file that is there")
    arguments = parser.parse_args()
    if not arguments.report:
        with TemporaryDirectory() as folder:
            found = run(Path(folder), arguments.count, arguments.rounds)
        arguments.output_file.write_text(json.dumps(found, indent=1) + "\n")
    rows = json.loads(arguments.output_file.read_text())["measurements"]
    print(markdown_table(Measurement(**row) for row in rows))


if __name__ == "__main__":
    main()
