"""Train five tiny models on the same clips, over several seeds, and compare their held-out accuracy over the steps.

    python benchmarks/compare_architectures.py --set easy    # about 25 minutes on one core
    python benchmarks/compare_architectures.py --set hard    # about 40 minutes; may run beside the other
    python benchmarks/compare_architectures.py --report      # only the tables and the picture, of the runs made so far

The clips are those of `ila-hf motion-videos --kind easy` or `hard`, but kept in memory and not encoded. 50 % is what a
bag of frames can reach: every class has its opposite, drawn as the same clips played backwards. Data, sizes,
optimizer, schedule, steps and batches are the same for all; a seed sets the clips, the initial weights and the order.

- "no alignment" is CLIP's trunk with our integration transformer over the frames and our text prompt.
- "X-CLIP" is transformers' own `XCLIPModel` of the same width, depth, heads, patches and frames: its message token
  attends to all frames in every layer; integration and prompt are its own. As in ours, patches and positions start
  with a spread of 0.1 and the prompt with 0.02 (its configuration sets none, and transformers would then take 1). What
  no field of it changes: its temporal positions start with a spread of 1, ours with 0.02.
- "paper", "paper + interaction token" and "released" are ours; their loss includes that of the alignment, weight 0.1.

The random text towers are frozen. Sizes and speeds of the hard set were chosen on "paper + interaction token", so that
one model learns it within the steps: that this one does is no finding, how the others compare is.

Every finished run is written to compare_architectures_<set>.json at once; started again with the same arguments, the
script makes only the runs that are missing.
"""

import argparse
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
import transformers
from torch import nn
from tqdm import tqdm
from transformers import XCLIPConfig, XCLIPModel, get_cosine_schedule_with_warmup
from transformers.modeling_outputs import ImageClassifierOutput

from ila_hf import ILAForVideoTextClassification, sample_frame_indices
from ila_hf.analysis.ablation import show_mean
from ila_hf.data.whole_files import replace_text
from ila_hf.demo.drawing import load_backgrounds
from ila_hf.demo.motion_videos import MOTION_SETS, SPLIT_STRIDE
from ila_hf.demo.tiny import tiny_config, tiny_processor, tiny_tokenizer


matplotlib.use("Agg")
import matplotlib.pyplot as plt


# name -> fields of the vision configuration; None: transformers' X-CLIP
MODELS: dict[str, dict[str, Any] | None] = {
    "no alignment": {"alignment_layers": []},
    "X-CLIP": None,
    "paper": {},
    "paper + interaction token": {"interaction_token": True},
    "released": {"architecture": "released"},
}
STEPS = {"easy": 400, "hard": 600}
SETTINGS = ("steps", "eval_steps", "train_clips", "test_clips", "batch_size", "learning_rate", "threads")


class XCLIPForClassTexts(nn.Module):
    """transformers' X-CLIP, sized as the tiny ILA, with fixed class texts."""

    def __init__(self, class_texts: Sequence[str]):
        super().__init__()
        self.model = XCLIPModel(x_clip_config())
        self.texts = tiny_tokenizer()(list(class_texts), padding=True, return_tensors="pt")

    def forward(self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None) -> ImageClassifierOutput:
        logits = self.model(pixel_values=pixel_values, **self.texts).logits_per_video
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutput(loss=loss, logits=logits)


def x_clip_config() -> XCLIPConfig:
    """The sizes and the spread of the tiny ILA."""
    ours = tiny_config()
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers")
    text = (*sizes, "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
    vision = (*sizes, "image_size", "patch_size", "initializer_range")
    integration = {
        "num_frames": ours.num_frames,
        "mit_hidden_size": ours.projection_dim,
        "mit_intermediate_size": 4 * ours.projection_dim,
        "mit_num_attention_heads": ours.head_num_attention_heads,
        "mit_num_hidden_layers": ours.mit_num_hidden_layers,
    }
    return XCLIPConfig(
        text_config={name: getattr(ours.text_config, name) for name in text},
        vision_config={name: getattr(ours.vision_config, name) for name in vision} | integration,
        projection_dim=ours.projection_dim,
        prompt_layers=ours.prompt_num_hidden_layers,
        prompt_alpha=ours.prompt_alpha,
        prompt_num_attention_heads=ours.head_num_attention_heads,
        initializer_range=ours.initializer_range,
    )


def build_model(name: str, class_texts: Sequence[str]) -> nn.Module:
    """An untrained model with a frozen text tower: `model(pixel_values, labels=...)` has `loss` and `logits`."""
    fields = MODELS[name]
    if fields is None:
        model: nn.Module = XCLIPForClassTexts(class_texts)
    else:
        model = ILAForVideoTextClassification(tiny_config(fields))
        model.set_class_texts(class_texts, tiny_tokenizer())
    for parameter_name, parameter in model.named_parameters():
        if "text_model." in parameter_name or "text_projection." in parameter_name:
            parameter.requires_grad_(False)
    return model.train()


def count_parameters(model: nn.Module) -> dict[str, int]:
    """All parameters, and those that train."""
    return {
        "all": sum(parameter.numel() for parameter in model.parameters()),
        "trained": sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
    }


def make_clips(set_name: str, first: int, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised clips (count, 8, 3, 32, 32) in half precision and their classes (count,)."""
    draw, classes = MOTION_SETS[set_name].draw, MOTION_SETS[set_name].classes
    processor, backgrounds = tiny_processor(tiny_config()).video_processor, load_backgrounds()
    clips, labels = [], []
    for index in tqdm(range(first, first + count), desc="Drawing clips", unit="clip", mininterval=10):
        frames, label, _ = draw(index, seed, backgrounds)
        frames = np.ascontiguousarray(frames[sample_frame_indices(len(frames), 8)])
        clips.append(processor(frames, return_tensors="pt").pixel_values[0].half())
        labels.append(classes.index(label))
    return torch.stack(clips), torch.tensor(labels)


@torch.no_grad()
def accuracy(model: nn.Module, clips: torch.Tensor, labels: torch.Tensor) -> float:
    """Share of clips classified correctly."""
    model.eval()
    predictions = torch.cat([model(batch.float()).logits.argmax(1) for batch in clips.split(100)])
    model.train()
    return round(float((predictions == labels).double().mean()), 6)


def train(
    model: nn.Module, name: str, seed: int, data: dict[str, tuple], arguments: argparse.Namespace
) -> dict[str, float]:
    """Train a model; returns its held-out accuracy by step."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=arguments.learning_rate, weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, arguments.steps // 20, arguments.steps)
    order = torch.Generator().manual_seed(seed)
    clips, labels = data["train"]
    curve = {}
    for step in tqdm(range(1, arguments.steps + 1), desc=f"{name}, seed {seed}", mininterval=10):
        batch = torch.randint(len(labels), (arguments.batch_size,), generator=order)
        model(clips[batch].float(), labels=labels[batch]).loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % arguments.eval_steps == 0:
            curve[str(step)] = accuracy(model, *data["test"])
    return curve


def load_results(file: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """What the file holds, or the frame of a new file.

    Raises:
        ValueError: If its runs were made with other settings or versions.
    """
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    if not file.exists():
        return {"arguments": settings, "versions": versions, "parameters": {}, "cpu_seconds": {}, "results": {}}
    found = json.loads(file.read_text())
    for name, value in (settings | versions).items():
        held = (found["arguments"] | found["versions"])[name]
        if held != value:
            raise ValueError(f"{file} holds runs with {name}={held}, not {value}: give --output_dir another folder.")
    return found


def run_missing(
    arguments: argparse.Namespace,
    file: Path,
    names: Iterable[str],
    run: Callable[[str, int, dict[str, tuple], dict[str, Any]], dict[str, Any]],
) -> None:
    """Make the runs that a file does not hold, seed by seed; each is written when it is done.

    Args:
        arguments: Of [`parse_run_arguments`].
        file: Of the results.
        names: Of the runs of every seed.
        run: Makes one, after torch has its seed: name, seed, clips, and the content of the file -> its result.
    """
    torch.set_num_threads(arguments.threads)
    found = load_results(file, {"set": arguments.set, **{name: getattr(arguments, name) for name in SETTINGS}})
    file.parent.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        missing = [name for name in names if str(seed) not in found["results"].get(name, {})]
        if not missing:
            continue
        data = {
            "train": make_clips(arguments.set, 0, arguments.train_clips, seed),
            "test": make_clips(arguments.set, SPLIT_STRIDE, arguments.test_clips, seed),
        }
        for name in missing:
            start = time.process_time()
            torch.manual_seed(seed)
            found["results"].setdefault(name, {})[str(seed)] = run(name, seed, data, found)
            found["cpu_seconds"].setdefault(name, {})[str(seed)] = round(time.process_time() - start, 1)
            replace_text(file, json.dumps(found, indent=2) + "\n")


def compare(arguments: argparse.Namespace) -> None:
    """Make the runs of a set that are missing."""
    classes = MOTION_SETS[arguments.set].classes

    def run(name: str, seed: int, data: dict[str, tuple], found: dict[str, Any]) -> dict[str, float]:
        model = build_model(name, classes)
        found["parameters"][name] = count_parameters(model)
        return train(model, name, seed, data, arguments)

    run_missing(arguments, arguments.output_dir / f"compare_architectures_{arguments.set}.json", arguments.models, run)


def mean_and_deviation(curves: dict[str, dict[str, float]]) -> dict[int, tuple[float, float]]:
    """Mean and sample standard deviation (0 for one seed) over the seeds, in %, by step."""
    statistics = {}
    for step in next(iter(curves.values())):
        values = [100 * curve[step] for curve in curves.values()]
        statistics[int(step)] = float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return statistics


def table(found: dict[str, Any]) -> str:
    """Markdown table of a set: top-1 in %, mean ± sample standard deviation, after up to six numbers of steps."""
    names = [name for name in MODELS if name in found["results"]]
    steps = list(next(iter(found["results"][names[0]].values())))
    shown = steps[:: -math.ceil(len(steps) / 6)][::-1]
    lines = ["| model | trained parameters | seeds | " + " | ".join(f"{step} steps" for step in shown) + " |"]
    lines.append("|---|" + "---|" * (len(shown) + 2))
    for name in names:
        curves = found["results"][name].values()
        cells = [f"{found['parameters'][name]['trained'] / 1e6:.2f} M", str(len(curves))]
        cells += [show_mean([100 * curve[step] for curve in curves], 1) for step in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(output_dir: Path) -> None:
    """Print the table of every set that has runs and draw compare_architectures.png."""
    files = {name: output_dir / f"compare_architectures_{name}.json" for name in STEPS}
    sets = {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}
    if not sets:
        raise ValueError(f"{output_dir} holds no compare_architectures_<set>.json: make runs first, with --set.")
    figure, all_axes = plt.subplots(1, len(sets), figsize=(6 * len(sets), 4.5), squeeze=False, layout="constrained")
    for axes, (set_name, found) in zip(all_axes[0], sets.items(), strict=True):
        print(f"{set_name} set\n\n{table(found)}\n")
        for i, name in enumerate(MODELS):
            if name not in found["results"]:
                continue
            statistics = mean_and_deviation(found["results"][name])
            mean, deviation = np.array(list(statistics.values())).T
            axes.plot(list(statistics), mean, label=name, color=f"C{i}")
            axes.fill_between(list(statistics), mean - deviation, mean + deviation, color=f"C{i}", alpha=0.2, lw=0)
        axes.axhline(50, color="grey", linestyle=":", label="best of a bag of frames")
        axes.set(title=f"{set_name} set", xlabel=f"steps of {found['arguments']['batch_size']} clips", ylim=(0, 101))
    all_axes[0][0].set_ylabel("held-out top-1, %: mean ± deviation")
    figure.legend(*all_axes[0][-1].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(output_dir / "compare_architectures.png", dpi=110)
    plt.close(figure)


def parse_run_arguments(parser: argparse.ArgumentParser, steps: dict[str, int]) -> argparse.Namespace:
    """Add what scripts with such runs have in common, and parse.

    Args:
        parser: With the arguments of the script itself.
        steps: Of each set, if not told otherwise.
    """
    parser.add_argument("--set", choices=list(steps), default=next(iter(steps)))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help=f"default: {steps}")
    parser.add_argument("--eval_steps", type=int, default=50)
    parser.add_argument("--train_clips", type=int, default=8000)
    parser.add_argument("--test_clips", type=int, default=480)
    parser.add_argument("--batch_size", type=int, default=32)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--threads", type=int, default=1, help="another number rounds, and so learns, differently")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--report", action="store_true", help="only show the runs made so far")
    arguments = parser.parse_args()
    arguments.steps = arguments.steps or steps[arguments.set]
    if arguments.steps % arguments.eval_steps:
        parser.error(f"--steps {arguments.steps} must be a multiple of --eval_steps {arguments.eval_steps}")
    return arguments


def main() -> None:
    """Make the missing runs, then report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    arguments = parse_run_arguments(parser, STEPS)
    if not arguments.report:
        compare(arguments)
    report(arguments.output_dir)


if __name__ == "__main__":
    main()
