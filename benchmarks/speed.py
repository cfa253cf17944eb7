"""Time ILA and other video models on the same frames, each between two runs of transformers' own CLIP.

    python benchmarks/speed.py                  # all cases, an hour on two cores
    python benchmarks/speed.py --cases b32-1 training
    python benchmarks/speed.py --device cuda    # writes speed_cuda.json, and draws only where it is told to
    python benchmarks/speed.py --report         # only the table and the pictures, of the file that is there

How it is measured: see ila_hf/analysis/benchmark.py. All models are transformers of the size of ViT-B with random
weights; "fused" is `model.fuse()`, "compiled" is that and `compile_layers`. Cases that are run again replace those of
the file, which says for every case what it ran on. `ila-hf benchmark` does the same for a model of your own.
"""

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import matplotlib.pyplot as plt
import torch
from torch.autograd import DeviceType
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
    add_memory,
    form_of,
    keep_freed_memory,
    machine,
    machine_line,
    make_step,
    markdown_table,
    measure,
)
from ila_hf.conversion.export_ila import export_onnx, onnx_runner
from ila_hf.inference import compile_layers


RESULTS = Path(__file__).parent / "results"
WIDTHS = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}


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


def formed(make: Callable[..., Any], form: str) -> Callable[..., Any]:
    """The same in one of the forms of `ila-hf benchmark`."""
    return lambda num_frames, **fields: form_of(make(num_frames, **fields), form)


def checkpointed(make: Callable[..., Any]) -> Callable[..., Any]:
    """The same with activation checkpointing."""

    def enable(num_frames: int, **fields: Any) -> Any:
        model = make(num_frames, **fields)
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        return model

    return enable


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
            run = onnx_runner(path)
            return lambda clips: run(clips.flatten(0, 1))

    return export


Makers = dict[str, Callable[..., Any]]
Columns = dict[str, dict[str, float]]  # milliseconds, by model and operator
OTHERS: Makers = {"X-CLIP": x_clip, "TimeSformer": timesformer, "VideoMAE": videomae, "ViViT": vivit}
DESIGNS: Makers = {
    "ILA": ila(),
    "ILA + interaction token": ila(interaction_token=True),
    "ILA, released": ila(architecture="released"),
}


def in_form(makers: Makers, form: str) -> Makers:
    """All of them in a form, under its name."""
    return {f"{name}, {form}": formed(make, form) for name, make in makers.items()}


CLIP: Makers = {"CLIP": clip}
PAIR: Makers = {"CLIP": clip, "ILA": ila()}
ALL: Makers = {**CLIP, **OTHERS, **DESIGNS, **in_form(DESIGNS, "fused")}
OVER_LENGTHS: Makers = {
    **{name: ALL[name] for name in ("CLIP", "TimeSformer", "VideoMAE", "ILA", "ILA, fused")},
    "joint attention": ila(temporal_module="joint"),
}
OVER_FRAMES: Makers = {**ALL, "joint attention": OVER_LENGTHS["joint attention"]}
COMPILED: Makers = in_form({**CLIP, **DESIGNS}, "compiled")
TYPES: Makers = {**CLIP, **in_form({**CLIP, **DESIGNS}, "bfloat16"), **in_form({**CLIP, **DESIGNS}, "int8")}
TYPES_IN_BATCHES: Makers = {**CLIP, **in_form(PAIR, "bfloat16"), **in_form(PAIR, "int8")}
ONNX: Makers = {**{f"{name}, onnxruntime": on_onnxruntime(make) for name, make in {**CLIP, **DESIGNS}.items()}, **PAIR}
FRAMES = ("8-frames", "16-frames", "32-frames")
# name -> models, P, whether they train, B, T, S
CASES: dict[str, tuple[Makers, int, bool, tuple[int, int, int]]] = {
    "b32-1": (ALL, 32, False, (1, 8, 224)),
    "b32-8": (ALL, 32, False, (8, 8, 224)),
    "b16-1": (ALL, 16, False, (1, 8, 224)),
    "training": ({**CLIP, **OTHERS, **DESIGNS}, 32, True, (2, 8, 224)),
    **{case: (OVER_FRAMES, 32, False, (1, int(case.split("-")[0]), 224)) for case in FRAMES},
    **{f"{(size // 32) ** 2}-patches": (OVER_LENGTHS, 32, False, (1, 8, size)) for size in (160, 224, 320, 448)},
    "compiled-b32": (COMPILED, 32, False, (1, 8, 224)),
    "compiled-b16": (COMPILED, 16, False, (1, 8, 224)),
    "compiled-b32-8": (COMPILED, 32, False, (8, 8, 224)),
    "types": (TYPES, 32, False, (1, 8, 224)),
    "types-8": (TYPES_IN_BATCHES, 32, False, (8, 8, 224)),
    "onnxruntime": (ONNX, 32, False, (1, 8, 224)),
    "checkpointing": ({"ILA": ila(), "ILA, checkpointing": checkpointed(ila())}, 32, True, (4, 8, 224)),
}
IN_THE_TABLE = ("b32-1", "b32-8", "b16-1", "training")
SMALLER_TABLES = ("compiled-b32", "compiled-b32-8", "compiled-b16", "types", "types-8", "onnxruntime", "checkpointing")
# design -> the ratios to CLIP that we aimed at: of one clip, and of a training step of B/32
BOUNDS: dict[str, dict[str, float]] = {
    "ILA": {"B/32": 1.08, "B/16": 1.06, "training": 1.09},
    "ILA + interaction token": {"B/32": 1.09, "B/16": 1.07, "training": 1.11},
    "ILA, released": {"B/32": 1.25, "B/16": 1.25},
}
CASES_OF_BOUNDS = {"B/32": ("b32-1", "compiled-b32"), "B/16": ("b16-1", "compiled-b16"), "training": ("training", "")}
LENGTHS = tuple(case for case in CASES if case.endswith(("-frames", "-patches")))
# What all lengths are compared with: CLIP on a clip of eight frames of 49 patches
SHORT = "CLIP, 8 × 49"
WITH_MEMORY = (*IN_THE_TABLE, "checkpointing", *FRAMES)


def run_case(case: str, rounds: int, seconds: float, device: str) -> list[Measurement]:
    """Build the models of a case, time them, and measure their memory."""
    torch.compiler.reset()  # shapes that were seen before would make those of this case dynamic
    makers, patch, training, shape = CASES[case]
    steps = {}
    if case in LENGTHS:
        torch.manual_seed(0)
        steps[SHORT] = make_step(clip(8, patch_size=32, image_size=224), (1, 8, 224), device)
    for name, make in makers.items():
        torch.manual_seed(0)
        model = make(shape[1], patch_size=patch, image_size=shape[2])
        steps[name] = make_step(model, shape, device, training)
    found = measure(case, dict(steps), rounds, seconds)
    if case in WITH_MEMORY:
        add_memory(found, steps)
    return found


def time_compilation(device: str) -> dict[str, float]:
    """Seconds until a compiled trunk of one layer and of twelve has run for the first time."""
    found = {}
    for layers in (1, 1, 12):  # the first compilation of a process loads what the others find; it is not kept
        torch.compiler.reset()
        model = ILAVisionModel(ILAVisionConfig(**{**WIDTHS, "num_hidden_layers": layers}, patch_size=32)).eval().fuse()
        compile_layers(model)
        step = make_step(model, (1, 8, 224), device)
        start = perf_counter()
        with torch._inductor.utils.fresh_cache():
            step()
        found[f"{layers} layers"] = round(perf_counter() - start, 1)
    return found


class Probe:
    """A step whose operators are timed, one run at a time.

    On a GPU the time is that of the kernels, without that between them.
    """

    def __init__(self, make: Callable[..., Any], patch: int, device: str, batch: int = 1, training: bool = False):
        self.step = make_step(make(8, patch_size=patch, image_size=224), (batch, 8, 224), device, training)
        for layer in self.step.model.encoder.layers:
            if getattr(layer, "temporal", None) is not None:
                layer.temporal.forward = record_function("alignment")(layer.temporal.forward)
        self.step()

    def __call__(self) -> tuple[Counter[str], Counter[str]]:
        """Milliseconds by operator, in the whole trunk and in what aligns the frames."""
        is_cuda = self.step.clips.is_cuda
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if is_cuda else [])]) as profiler:
            self.step()
        # Kernels are events, too; their time is already that of the operators which start them
        events = [event for event in profiler.events() if event.device_type == DeviceType.CPU]

        def times(pending: list[Any], with_children: bool) -> Counter[str]:
            found: Counter[str] = Counter()
            while pending:
                event = pending.pop()
                time = event.self_device_time_total if is_cuda else event.self_cpu_time_total
                is_node = event.name.startswith("autograd::") or event.name.endswith("Backward0")
                found["autograd" if is_node else event.name.removeprefix("aten::")] += time / 1000
                pending += event.cpu_children if with_children else []
            return found

        return times(list(events), False), times([event for event in events if event.name == "alignment"], True)


def profiled(probes: dict[str, Probe], rounds: int) -> dict[str, tuple[Counter[str], Counter[str]]]:
    """Milliseconds by operator of each, as if the machine were always as fast as in the median run of the first.

    As in `ila_hf.analysis.benchmark.measure`, each is between two runs of the first, whose total says how fast the
    machine is.
    """
    reference, *others = probes
    taken: dict[str, list[tuple[float, tuple[Counter[str], Counter[str]]]]] = {name: [] for name in probes}

    order, before = random.Random(0), probes[reference]()
    for _ in range(rounds):
        for name in order.sample(others, len(others)):
            own, after = probes[name](), probes[reference]()
            taken[name].append(((before[0].total() + after[0].total()) / 2, own))
            taken[reference].append((after[0].total(), after))
            before = after
    typical = median(speed for speed, _ in taken[reference])

    def at_one_speed(name: str, part: int) -> Counter[str]:
        names = {operator for _, times in taken[name] for operator in times[part]}
        return Counter(
            {each: typical * median(times[part][each] / speed for speed, times in taken[name]) for each in names}
        )

    return {name: (at_one_speed(name, 0), at_one_speed(name, 1)) for name in probes}


def columns(total: str, found: dict[str, Counter[str]], first: dict[str, dict[str, float]] | None = None) -> Columns:
    """Of all models the same operators, those that are among the ten longest of any, and the sum of the others."""
    shown = dict.fromkeys(name for times in found.values() for name, _ in times.most_common(10))
    rows: Columns = {}
    for model, times in found.items():
        parts = {name: times[name] for name in shown}
        sums = {**(first or {}).get(model, {}), total: times.total()}
        rest = {"all other operators": times.total() - sum(parts.values())}
        rows[model] = {name: round(time, 2) for name, time in (sums | parts | rest).items()}
    return rows


def profile_alignment(device: str, rounds: int = 10) -> Columns:
    """Milliseconds of a clip, by operator, in what aligns the frames (B/32, T = 8), and of the whole trunk."""
    makers = {**CLIP, "ILA": ila(), "ILA, fused": formed(ila(), "fused")}
    found = profiled({name: Probe(make, 32, device) for name, make in makers.items()}, rounds)
    del found["CLIP"]  # it aligns nothing
    trunks = {name: {"the whole trunk": trunk.total()} for name, (trunk, _) in found.items()}
    return columns("all of the alignment", {name: aligning for name, (_, aligning) in found.items()}, trunks)


def profile_trunks(device: str, rounds: int = 5) -> Columns:
    """Milliseconds of a clip, by operator, in the whole trunk: CLIP and all designs, of B/32 and B/16 (T = 8)."""
    found: dict[str, Counter[str]] = {}
    for patch in (32, 16):
        makers = {**CLIP, **DESIGNS, **in_form(DESIGNS, "fused")}
        probes = {f"{name}, B/{patch}": Probe(make, patch, device) for name, make in makers.items()}
        found |= {name: trunk for name, (trunk, _) in profiled(probes, rounds).items()}
    return columns("the whole trunk", found)


def profile_training(device: str, rounds: int = 5) -> Columns:
    """Milliseconds of a training step of B/32 on two clips, by operator: CLIP and all designs (T = 8)."""
    makers = {**CLIP, **DESIGNS}
    probes = {f"{name}, training": Probe(make, 32, device, batch=2, training=True) for name, make in makers.items()}
    return columns("the whole trunk", {name: trunk for name, (trunk, _) in profiled(probes, rounds).items()})


def profile_table(found: Columns) -> str:
    """Rows are operators, columns models."""
    operators = list(next(iter(found.values()), {}))
    lines = ["| milliseconds of a step | " + " | ".join(found) + " |", "|---|" + "---|" * len(found)]
    for operator in operators:
        cells = (f"{column[operator]:.1f}" for column in found.values())
        lines.append(f"| {operator if ' ' in operator else f'`{operator}`'} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios_beside_bounds(found: dict[str, Any]) -> dict[str, tuple[float, list[float | None]]]:
    """What we aimed at, and the ratios of a design as it is, fused, and compiled beside compiled CLIP."""
    rows = {}
    for design, bounds in BOUNDS.items():
        for size, bound in bounds.items():
            plain, compiled = CASES_OF_BOUNDS[size]
            ratios = {each.name: each.ratio for each in measurements(found, (plain, compiled))}
            forms = (design, f"{design}, fused", f"{design}, compiled")
            rows[f"{design}, {size}"] = (bound, [ratios.get(form) for form in forms])
    return rows


def bounds_table(found: dict[str, Any]) -> str:
    """What we aimed at, and what is, in bold where it is reached."""
    lines = ["| | bound | as it is | fused | compiled |", "|---|---|---|---|---|"]
    for name, (bound, ratios) in ratios_beside_bounds(found).items():
        shown = ("" if ratio is None else f"**{ratio:.2f}**" if ratio <= bound else f"{ratio:.2f}" for ratio in ratios)
        lines.append(f"| {name} | {bound} | {' | '.join(shown)} |")
    return "\n".join(lines)


def measurements(found: dict[str, Any], cases: tuple[str, ...]) -> list[Measurement]:
    """Those of some cases, of the content of the file."""
    return [Measurement(**each) for case in cases for each in found["cases"].get(case, ())]


def typical_milliseconds(found: dict[str, Any], case: str, name: str) -> float:
    """Of a length: the ratio of a model to the clip that all are compared with, times the median time of that."""
    short = median(measurements(found, (each,))[0].milliseconds for each in LENGTHS if each in found["cases"])
    return short * next(each.ratio for each in measurements(found, (case,)) if each.name == name)


def tables(found: dict[str, Any]) -> str:
    """The tables of docs/speed.md."""
    parts = [markdown_table(measurements(found, IN_THE_TABLE))]
    parts += [markdown_table(measurements(found, (case,))) for case in SMALLER_TABLES if case in found["cases"]]
    over_frames = measurements(found, FRAMES)
    parts += [markdown_table(over_frames)] if over_frames else []
    parts += [bounds_table(found)]
    parts += [profile_table(found[name]) for name in ("profile", "operators", "training_operators") if name in found]
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
            times = [typical_milliseconds(found, case, name) for case in cases]
            axes.plot([int(case.split("-")[0]) for case in cases], times, "o-", label=name)
        axes.set_xlabel(f"{unit} of a {'clip' if unit == 'frames' else 'frame'}")
        axes.set_xlim(0)
        axes.set_ylim(0)
        axes.spines[["top", "right"]].set_visible(False)
    both[0].set_ylabel("milliseconds")
    both[0].legend(frameon=False)
    figure.savefig(folder / "speed_over_length.svg", metadata={"Date": None})


OTHER_CASES: dict[str, Callable[[str], dict[str, Any]]] = {
    "compilation": time_compilation,
    "profile": profile_alignment,
    "operators": profile_trunks,
    "training_operators": profile_training,
}


def machines(found: dict[str, Any]) -> str:
    """A line for every machine, with what it ran."""
    cases: dict[str, list[str]] = {}
    for case, where in found["machines"].items():
        cases.setdefault(machine_line(where), []).append(case)
    return "\n".join(f"{where}: {', '.join(names)}" for where, names in cases.items())


def main() -> None:
    """Time, write, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=[*CASES, *OTHER_CASES])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=90, help="of a case, about; but three rounds or more")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output_file", type=Path, help="default: results/speed.json, of a GPU speed_cuda.json")
    parser.add_argument("--picture_dir", type=Path, help="default: docs, of a GPU none")
    parser.add_argument("--report", action="store_true", help="only print the tables and draw")
    arguments = parser.parse_args()
    keep_freed_memory()
    device = torch.device(arguments.device).type
    file: Path = arguments.output_file or RESULTS / ("speed.json" if device == "cpu" else f"speed_{device}.json")
    picture_dir = arguments.picture_dir or (Path(__file__).parent.parent / "docs" if device == "cpu" else None)
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"cases": {}, "machines": {}}
    for case in [] if arguments.report else arguments.cases or [*CASES, *OTHER_CASES]:
        if case == "onnxruntime" and device != "cpu":
            print("onnxruntime is left out: here it runs on the CPU only.")
            continue
        if case in CASES:
            found["cases"][case] = [
                asdict(each) for each in run_case(case, arguments.rounds, arguments.seconds, arguments.device)
            ]
        else:
            found[case] = OTHER_CASES[case](arguments.device)
        found["machines"][case] = machine()
        file.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{tables(found)}\n\n{machines(found)}")
    if picture_dir is not None:
        draw(found, picture_dir)


if __name__ == "__main__":
    main()
