"""Train four tiny models side by side on the same clips and compare their held-out accuracy over the steps.

    python benchmarks/compare_architectures.py --output_dir outputs/compare

The clips are drawn as those of `ila-hf motion-videos`, but kept in memory and not encoded; "no alignment" is CLIP's
trunk with the same integration transformer over the frames. Writes compare_architectures.json and .png and prints the
table that the README shows. 50 % is what a bag of frames can reach: every motion has its opposite among the classes.
"""

import argparse
import json
from pathlib import Path

import matplotlib
import numpy as np
import torch
from tqdm import tqdm

from ila_hf import ILAForVideoTextClassification, sample_frame_indices
from ila_hf.motion_videos import MOTIONS, draw_clip, load_backgrounds
from ila_hf.tiny import tiny_config, tiny_processor, tiny_tokenizer


matplotlib.use("Agg")
import matplotlib.pyplot as plt


VARIANTS = {
    "no alignment": {"alignment_layers": []},
    "paper": {},
    "paper + interaction token": {"interaction_token": True},
    "released": {"architecture": "released"},
}


def make_clips(first: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised clips (count, 8, 3, 32, 32) and their classes."""
    processor, backgrounds = tiny_processor(tiny_config()).video_processor, load_backgrounds()
    clips, labels = [], []
    for index in tqdm(range(first, first + count), desc="Drawing clips", unit="clip"):
        frames, motion, _ = draw_clip(index, seed, backgrounds)
        frames = np.ascontiguousarray(frames[sample_frame_indices(len(frames), 8)])
        clips.append(processor(frames, return_tensors="pt").pixel_values[0].half())
        labels.append(MOTIONS.index(motion))
    return torch.stack(clips), torch.tensor(labels)


@torch.no_grad()
def accuracy(model: ILAForVideoTextClassification, clips: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of clips classified correctly."""
    model.eval()
    predictions = torch.cat([model(batch.float()).logits.argmax(1) for batch in clips.split(100)])
    model.train()
    return float((predictions == labels).float().mean())


def train(name: str, data: dict, arguments: argparse.Namespace) -> dict[int, float]:
    """Train one variant; returns its held-out accuracy every `eval_steps` steps."""
    torch.manual_seed(arguments.seed)
    model = ILAForVideoTextClassification(tiny_config(VARIANTS[name]))
    model.set_class_texts(MOTIONS, tiny_tokenizer())
    model.freeze("text")  # as the paper's Kinetics-400 recipe does
    model.train()
    optimizer = torch.optim.AdamW(
        (p for p in model.parameters() if p.requires_grad), lr=arguments.learning_rate, weight_decay=0.01
    )
    generator = torch.Generator().manual_seed(arguments.seed)
    curve = {}
    progress = tqdm(range(1, arguments.steps + 1), desc=name)
    for step in progress:
        batch = torch.randint(len(data["train_labels"]), (32,), generator=generator)
        loss = model(data["train"][batch].float(), labels=data["train_labels"][batch]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step % arguments.eval_steps == 0:
            curve[step] = accuracy(model, data["test"], data["test_labels"])
            progress.set_postfix(accuracy=curve[step])
    return curve


def table(results: dict, steps: list[int]) -> str:
    """Markdown table of the accuracy after given numbers of steps."""
    lines = ["| model | " + " | ".join(f"{step} steps" for step in steps) + " |"]
    lines.append("|---|" + "---|" * len(steps))
    for name, curve in results.items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * curve[step]:.1f}" for step in steps) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train, print, plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--eval_steps", type=int, default=50)
    parser.add_argument("--train_clips", type=int, default=12000)
    parser.add_argument("--test_clips", type=int, default=800)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    arguments = parser.parse_args()
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    data = {}
    data["train"], data["train_labels"] = make_clips(0, arguments.train_clips, arguments.seed)
    data["test"], data["test_labels"] = make_clips(arguments.train_clips, arguments.test_clips, arguments.seed)
    results = {name: train(name, data, arguments) for name in arguments.variants}
    (output / "compare_architectures.json").write_text(
        json.dumps({"arguments": vars(arguments), "results": results}, indent=2)
    )
    for name, curve in results.items():
        plt.plot(list(curve), [100 * value for value in curve.values()], label=name)
    plt.axhline(50, color="grey", linestyle=":", label="bag of frames")
    plt.xlabel("steps of 32 clips")
    plt.ylabel("held-out top-1, %")
    plt.legend()
    plt.savefig(output / "compare_architectures.png", dpi=120)
    shown = [s for s in (100, 200, 300, 500, 700, 1000) if s <= arguments.steps and s % arguments.eval_steps == 0]
    print(table(results, shown))


if __name__ == "__main__":
    main()
