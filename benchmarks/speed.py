"""Time ILA beside transformers' own CLIP and other video models on the same frames, in turn.

    python benchmarks/speed.py                  # all cases, half an hour on two cores
    python benchmarks/speed.py --cases b32-1 training
    python benchmarks/speed.py --report         # only the table and the pictures, of the file that is there

How it is measured: see ila_hf/analysis/benchmark.py. All models are transformers of the size of ViT-B with random
weights; "fused" is `model.fuse()`, "compiled" is that and `compile_layers`. Cases that are run again replace those of
the file. `ila-hf benchmark` does the same for a model of your own.
"""

import argparse
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch.profiler import ProfilerActivity, profile, record_function
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    TimesformerConfig,
    TimesformerModel,
    VideoMAEConfig,
    VideoMAEModel,
    VivitConfig,
    VivitModel,
    XCLIPVisionConfig,
    XCLIPVisionModel,
)

from ila_hf import ILAVisionConfig, ILAVisionModel
from ila_hf.analysis.benchmark import (
    Measurement,
    Step,
    add_memory,
    keep_freed_memory,
    machine,
    markdown_table,
    measure,
    quantize,
)
from ila_hf.conversion.export_ila import export_onnx, onnx_runner
from ila_hf.inference import compile_layers


RESULTS = Path(__file__).parent / "results"
WIDTHS = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SECONDS = 90  # of a case, about; every case has three rounds or more


def clip(num_frames: int, **fields: Any) -> Any:
    """What the others are compared with: every frame by itself."""
    return CLIPVisionModel(CLIPVisionConfig(**WIDTHS, **fields))


def x_clip(num_frames: int, **fields: Any) -> Any:
    """It takes frames as CLIP does."""
    return XCLIPVisionModel(XCLIPVisionConfig(**WIDTHS, num_frames=num_frames, **fields))


def timesformer(num_frames: int, **fields: Any) -> Any:
    """Divided attention, space and time."""
    return TimesformerModel(TimesformerConfig(**WIDTHS, num_frames=num_frames, **fields))


def videomae(num_frames: int, **fields: Any) -> Any:
    """Joint attention over tubes of two frames."""
    return VideoMAEModel(VideoMAEConfig(**WIDTHS, num_frames=num_frames, **fields))


def vivit(num_frames: int, **fields: Any) -> Any:
    """Joint attention over tubes of two frames."""
    tubelet = [2, fields["patch_size"], fields["patch_size"]]
    size = {name: value for name, value in fields.items() if name == "image_size"}
    return VivitModel(VivitConfig(**WIDTHS, num_frames=num_frames, tubelet_size=tubelet, **size))


def ila(**design: Any) -> Callable[..., Any]:
    """A trunk of ILA of one design."""
    return lambda num_frames, **fields: ILAVisionModel(ILAVisionConfig(**WIDTHS, **fields, **design))


def fused(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same, fused."""
    return lambda num_frames, **fields: make(num_frames, **fields).eval().fuse()


def compiled(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same by layers, and fused if it is ILA."""

    def compile_any(num_frames: int, **fields: Any) -> Any:
        model = make(num_frames, **fields).eval()
        if isinstance(model, ILAVisionModel):
            return compile_layers(model.fuse())
        for layer in model.encoder.layers:
            layer.compile()
        return model

    return compile_any


def in_type(make: Callable[..., Any], form: str) -> Callable[..., Any]:
    """The same in bfloat16 or int8."""
    return lambda num_frames, **fields: (
        make(num_frames, **fields).bfloat16() if form == "bfloat16" else quantize(make(num_frames, **fields))
    )


def on_onnxruntime(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same exported and run by onnxruntime, with as many threads as torch."""

    def export(num_frames: int, **fields: Any) -> Any:
        model = make(num_frames, **fields).eval()
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            if isinstance(model, ILAVisionModel):
                export_onnx(model, path, num_frames)
                return onnx_runner(path)
            frames = torch.zeros(num_frames, 3, model.config.image_size, model.config.image_size)
            torch.onnx.export(model, (frames,), path, input_names=["pixel_values"], dynamo=True, verbose=False)
            return onnx_runner(path)

    return export


TOKEN = ila(interaction_token=True)
RELEASED = ila(architecture="released")
OTHERS = {"X-CLIP": x_clip, "TimeSformer": timesformer, "VideoMAE": videomae, "ViViT": vivit}
DESIGNS = {"ILA": ila(), "ILA + interaction token": TOKEN, "ILA, released": RELEASED}
FUSED = {f"{name}, fused": fused(make) for name, make in DESIGNS.items()}
TAKES_FRAMES = ("CLIP", "X-CLIP")  # (B·T, 3, H, W)
ALL = {"CLIP": clip, **OTHERS, **DESIGNS, **FUSED}
OVER_LENGTHS = {
    "CLIP": clip,
    "TimeSformer": timesformer,
    "VideoMAE": videomae,
    "ILA": ila(),
    "ILA, fused": fused(ila()),
}
TYPES = {
    "CLIP": clip,
    **{
        f"{name}, {form}": in_type(make, form)
        for form in ("bfloat16", "int8")
        for name, make in (("CLIP", clip), ("ILA", ila()))
    },
}
# name -> models, P, S, B, T, whether it trains
CASES: dict[str, tuple[dict[str, Callable[..., Any]], int, int, int, int, bool]] = {
    "b32-1": (ALL, 32, 224, 1, 8, False),
    "b32-8": (ALL, 32, 224, 8, 8, False),
    "b16-1": (ALL, 16, 224, 1, 8, False),
    "training": ({"CLIP": clip, **OTHERS, **DESIGNS}, 32, 224, 2, 8, True),
    **{f"{T}-frames": (OVER_LENGTHS, 32, 224, 1, T, False) for T in (8, 16, 32)},
    **{f"{(S // 32) ** 2}-patches": (OVER_LENGTHS, 32, S, 1, 8, False) for S in (160, 224, 320, 448)},
    "compiled-b32": (
        {"CLIP, compiled": compiled(clip), **{f"{name}, compiled": compiled(make) for name, make in DESIGNS.items()}},
        *(32, 224, 1, 8, False),
    ),
    "compiled-b16": (
        {"CLIP, compiled": compiled(clip), **{f"{name}, compiled": compiled(make) for name, make in DESIGNS.items()}},
        *(16, 224, 1, 8, False),
    ),
    "types": (TYPES, 32, 224, 1, 8, False),
    "onnxruntime": (
        {"CLIP, onnxruntime": on_onnxruntime(clip), "ILA, onnxruntime": on_onnxruntime(ila())},
        *(32, 224, 1, 8, False),
    ),
}
IN_THE_TABLE = ("b32-1", "b32-8", "b16-1", "training")
SMALLER_TABLES = ("compiled-b32", "compiled-b16", "types", "onnxruntime")


def run_case(case: str, rounds: int, device: str) -> list[Measurement]:
    """Build the models of a case, time them in turn, and measure their memory."""
    models, patch, size, batch, num_frames, training = CASES[case]
    steps = {}
    for name, make in models.items():
        torch.manual_seed(0)
        model = make(num_frames, patch_size=patch, image_size=size)
        model = model.to(device) if isinstance(model, torch.nn.Module) else model
        clips = torch.randn(batch, num_frames, 3, size, size, device=device)
        clips = clips.bfloat16() if "bfloat16" in name else clips
        steps[name] = Step(model, clips.flatten(0, 1) if name.startswith(TAKES_FRAMES) else clips, training)
    found = measure(case, dict(steps), rounds, SECONDS)
    if case in IN_THE_TABLE:
        add_memory(found, steps)
    return found


def time_compilation() -> dict[str, float]:
    """Seconds until a compiled trunk of one layer and of twelve has run for the first time."""
    found = {}
    for layers in (1, 12):
        torch._dynamo.reset()
        model = ILAVisionModel(ILAVisionConfig(**{**WIDTHS, "num_hidden_layers": layers}, patch_size=32)).eval().fuse()
        compile_layers(model)
        start = perf_counter()
        with torch.inference_mode(), torch._inductor.utils.fresh_cache():
            model(torch.zeros(1, 8, 3, 224, 224))
        found[f"{layers} layers"] = round(perf_counter() - start, 1)
    return found


def checkpointing() -> dict[str, Any]:
    """A training step with and without activation checkpointing: peak memory and time, B/32, four clips."""
    steps = {}
    for name in ("plain", "checkpointing"):
        model = ila()(8, patch_size=32)
        if name == "checkpointing":
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        steps[name] = Step(model, torch.randn(4, 8, 3, 224, 224), training=True)
    found = measure("checkpointing", dict(steps), 8, SECONDS)
    add_memory(found, steps)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters()) / 2**20
    return {"weights_mebibytes": round(weights, 1), "measurements": [asdict(each) for each in found]}


def profile_alignment(rounds: int = 10) -> dict[str, dict[str, float]]:
    """Milliseconds of a clip, by operator, in what aligns the frames (B/32, T = 8), and of the whole trunk."""
    found = {}
    clips = torch.randn(1, 8, 3, 224, 224)
    for name, make in {"ILA": ila(), "ILA, fused": fused(ila())}.items():
        model = make(8, patch_size=32).eval()
        for layer in model.encoder.layers:
            layer.temporal.forward = record_function("alignment")(layer.temporal.forward)
        with torch.inference_mode():
            model(clips)
            with profile(activities=[ProfilerActivity.CPU]) as profiler:
                for _ in range(rounds):
                    model(clips)
        times: Counter[str] = Counter()
        pending = [event for event in profiler.events() if event.name == "alignment"]
        while pending:
            event = pending.pop()
            times[event.name.removeprefix("aten::")] += event.self_cpu_time_total
            pending += event.cpu_children
        total = sum(event.self_cpu_time_total for event in profiler.events())
        counted = {
            "the whole trunk": total,
            "all of the alignment": sum(times.values()),
            **dict(times.most_common(10)),
        }
        found[name] = {operator: round(time / 1000 / rounds, 2) for operator, time in counted.items()}
    return found


def profile_table(found: dict[str, dict[str, float]]) -> str:
    """Rows are operators, columns models."""
    operators = list(dict.fromkeys(operator for column in found.values() for operator in column))
    lines = ["| milliseconds of a clip | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for operator in operators:
        cells = (f"{column[operator]:.1f}" if operator in column else "" for column in found.values())
        lines.append(f"| {operator if ' ' in operator else f'`{operator}`'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measurements(found: dict[str, Any], cases: tuple[str, ...]) -> list[Measurement]:
    """Those of some cases, of the content of the file."""
    return [Measurement(**each) for case in cases for each in found["cases"].get(case, ())]


def tables(found: dict[str, Any]) -> str:
    """The tables of docs/speed.md."""
    parts = [markdown_table(measurements(found, IN_THE_TABLE))]
    parts += [markdown_table(measurements(found, (case,))) for case in SMALLER_TABLES if case in found["cases"]]
    parts += [profile_table(found["profile"])] if "profile" in found else []
    return "\n\n".join(parts)


def draw(found: dict[str, Any], folder: Path) -> None:
    """Ratios to CLIP, and time over frames and patches."""
    shown = [each for each in measurements(found, ("b16-1",)) if each.name not in ("CLIP", "ViViT")]
    figure, axes = plt.subplots(figsize=(7, 2.8), layout="constrained")
    colours = ["tab:orange" if each.name.startswith("ILA") else "tab:gray" for each in shown]
    bars = axes.barh([each.name for each in shown], [each.ratio for each in shown], color=colours)
    axes.bar_label(bars, fmt="%.2f", padding=3)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel("time of a clip, as a multiple of CLIP's")
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / "speed.svg", metadata={"Date": None})
    figure, both = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained", sharey=True)
    for axes, unit in zip(both, ("frames", "patches"), strict=True):
        cases = [case for case in found["cases"] if case.endswith(unit)]
        for name in OVER_LENGTHS:
            own = [each for each in measurements(found, tuple(cases)) if each.name == name]
            axes.plot(
                [int(each.case.split("-")[0]) for each in own], [each.milliseconds for each in own], "o-", label=name
            )
        axes.set_xlabel(f"{unit} of a {'clip' if unit == 'frames' else 'frame'}")
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_ylabel("milliseconds")
    both[0].legend(frameon=False)
    figure.savefig(folder / "speed_over_length.svg", metadata={"Date": None})


OTHER_CASES = {"compilation": time_compilation, "checkpointing": checkpointing, "profile": profile_alignment}


def main() -> None:
    """Time, write, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *OTHER_CASES])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output_file", type=Path, default=RESULTS / "speed.json")
    parser.add_argument("--picture_dir", type=Path, default=Path(__file__).parent.parent / "docs")
    parser.add_argument("--report", action="store_true", help="only print the tables and draw")
    arguments = parser.parse_args()
    keep_freed_memory()
    file: Path = arguments.output_file
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"cases": {}}
    for case in [] if arguments.report else arguments.cases or [*CASES, *OTHER_CASES]:
        if case in CASES:
            found["cases"][case] = [asdict(each) for each in run_case(case, arguments.rounds, arguments.device)]
        else:
            found[case] = OTHER_CASES[case]()
        found["machine"] = machine()
        file.write_text(json.dumps(found, indent=1) + "\n")
    print(tables(found))
    draw(found, arguments.picture_dir)


if __name__ == "__main__":
    main()
