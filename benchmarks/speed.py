"""Time ILA beside transformers' own CLIP on the same frames, in turn, and write how many times as long it takes.

    python benchmarks/speed.py                  # all cases, a quarter of an hour on two cores
    python benchmarks/speed.py --cases forward-b32-1 --rounds 40
    python benchmarks/speed.py --report         # only the table, of the file that is there

Each round runs every model once, in an order that is drawn anew, so that what else the machine does falls on all of
them. A ratio is that of one round; the table has their median and the quartiles. Weights are random, frames are noise.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm
from transformers import CLIPVisionConfig, CLIPVisionModel

from ila_hf import ILAVisionConfig, ILAVisionModel


SIZES = {"b32": {"patch_size": 32}, "b16": {"patch_size": 16}}
WIDTHS = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
# name -> fields of the configuration; None: transformers' CLIP, which the others are compared with
MODELS: dict[str, dict[str, Any] | None] = {
    "CLIP": None,
    "paper": {},
    "paper + interaction token": {"interaction_token": True},
    "released": {"architecture": "released"},
}
# name -> what is timed, the size, clips of a batch
CASES = {
    "forward-b32-1": ("forward", "b32", 1),
    "forward-b32-4": ("forward", "b32", 4),
    "forward-b16-1": ("forward", "b16", 1),
    "training-b32-2": ("training", "b32", 2),
}
NUM_FRAMES = 8


def make_step(name: str, job: str, size: str, batch: int) -> Callable[[], None]:
    """What is timed: a forward pass, or a training step without its optimizer."""
    torch.manual_seed(0)
    fields = MODELS[name]
    clips = torch.randn(batch, NUM_FRAMES, 3, 224, 224)
    if fields is None:
        model: Any = CLIPVisionModel(CLIPVisionConfig(**WIDTHS, **SIZES[size]))
        clips = clips.flatten(0, 1)
    else:
        model = ILAVisionModel(ILAVisionConfig(**WIDTHS, **SIZES[size], **fields))
    model.train(job == "training")

    def forward() -> None:
        with torch.inference_mode():
            model(clips)

    def training() -> None:
        outputs = model(clips)
        loss = outputs.pooler_output.float().square().mean() + outputs.get("alignment_loss", 0)
        loss.backward()
        model.zero_grad()

    return training if job == "training" else forward


def time_case(case: str, models: list[str], rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of CLIP, and the ratios of the others to it in the same round: median and quartiles."""
    steps = {name: make_step(name, *CASES[case]) for name in models}
    for step in steps.values():
        for _ in range(2):
            step()
    ratios: dict[str, list[float]] = {name: [] for name in models}
    seconds, order = [], random.Random(0)
    for _ in tqdm(range(rounds), desc=case, mininterval=5):
        taken = {}
        for name in order.sample(models, len(models)):
            start = time.perf_counter()
            steps[name]()
            taken[name] = time.perf_counter() - start
        seconds.append(taken["CLIP"])
        for name in models:
            ratios[name].append(taken[name] / taken["CLIP"])
    results = {}
    for name in models:
        low, median, high = statistics.quantiles(ratios[name], n=4)
        results[name] = {"ratio": round(median, 3), "low": round(low, 3), "high": round(high, 3)}
    results["CLIP"]["milliseconds"] = round(1000 * statistics.median(seconds), 1)
    return results


def table(found: dict[str, Any]) -> str:
    """Markdown: median of the ratios, and their quartiles."""
    lines = ["| | " + " | ".join(found["cases"]) + " |", "|---|" + "---|" * len(found["cases"])]
    for name in MODELS:
        cells = []
        for results in found["cases"].values():
            if name == "CLIP":
                cells.append(f"{results[name]['milliseconds']:g} ms")
            else:
                cells.append(
                    "{ratio:.3f} ({low:.3f} to {high:.3f})".format(**results[name]) if name in results else ""
                )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Time, write, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output_file", type=Path, default=Path(__file__).parent / "results" / "speed.json")
    parser.add_argument("--report", action="store_true", help="only print the table")
    arguments = parser.parse_args()
    if not arguments.report:
        torch.set_num_threads(arguments.threads)
        models = ["CLIP", *(name for name in arguments.models if name != "CLIP")]
        found = {
            "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
            "machine": {"processor": platform.processor() or platform.machine(), "threads": arguments.threads},
            "frames": NUM_FRAMES,
            "rounds": arguments.rounds,
            "cases": {case: time_case(case, models, arguments.rounds) for case in arguments.cases},
        }
        arguments.output_file.write_text(json.dumps(found, indent=1) + "\n")
    print(table(json.loads(arguments.output_file.read_text())))


if __name__ == "__main__":
    main()
