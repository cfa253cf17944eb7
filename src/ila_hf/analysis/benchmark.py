# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How long a model takes, beside CLIP on the same frames: the command `ila-hf benchmark`.

    ila-hf benchmark --model outputs/mine --batch_size 1 8

times transformers' CLIP vision tower of the same size, the model's own trunk, and the forms that it can take: fused,
compiled, in bfloat16 and int8, all but the first of CLIP, too. Models are timed in an order that is drawn anew for
every round, each between two runs of CLIP, so that what else the machine does falls on both. A ratio is that to their
mean; the table has the median of the ratios and their quartiles. Peak memory is that of all tensors, weights included.
Frames are noise. Freed memory is kept by the process: see [`keep_freed_memory`].
"""

import argparse
import copy
import ctypes
import json
import platform
import random
import statistics
import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.weak import WeakIdKeyDictionary
from tqdm import tqdm
from transformers import CLIPVisionModel, XCLIPVisionModel

from ..configuration_ila import ILAConfig
from ..inference.regions import compile_layers
from ..modeling_ila import ILAVisionModel
from .flops import clip_config


FORMS = ("fused", "compiled", "bfloat16", "int8")
WARM_UP_ROUNDS = 2


@dataclass
class Measurement:
    """What a model took in one case.

    Args:
        case: Of which one measurement is the reference.
        name: Of the model.
        milliseconds: Median time of a step.
        ratio, low, high: To the runs of the reference before and after: median and quartiles.
        mebibytes: Largest total size of the tensors, weights included, or None where it was not measured.
        rounds: How often the step was timed; None in older files.
    """

    case: str
    name: str
    milliseconds: float
    ratio: float
    low: float
    high: float
    mebibytes: float | None = None
    rounds: int | None = None


class TensorMemory(TorchDispatchMode):
    """Size of all tensors, in bytes, where no allocator counts them: `total` now, `peak` at most so far.

    What an operation takes for itself while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = self.peak = 0
        self._known: WeakIdKeyDictionary = WeakIdKeyDictionary()

    def add(self, tensor: torch.Tensor) -> None:
        """Count a tensor until it is gone, unless its memory is that of one that is counted."""
        storage = tensor.untyped_storage()
        if storage not in self._known:
            self._known[storage] = None
            self._change(storage.nbytes())
            weakref.finalize(storage, self._change, -storage.nbytes())

    def _change(self, size: int) -> None:
        self.total += size
        self.peak = max(self.peak, self.total)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self.add, outputs)
        return outputs


class Step:
    """A model and its input: what is timed.

    Args:
        model: Called with the clips.
        clips: Its only argument.
        training: Forward and backward pass, without an optimizer, in place of a forward pass. The loss is that of the
            alignment, if there is one, and the mean square of the output.
    """

    def __init__(self, model: Any, clips: torch.Tensor, training: bool = False):
        self.model, self.clips, self.training = model, clips, training
        if isinstance(model, torch.nn.Module):
            model.train(training)

    def __call__(self) -> None:
        if self.training:
            outputs = self.model(self.clips)
            (outputs[0].float().square().mean() + outputs.get("alignment_loss", 0)).backward()
            self.model.zero_grad()
        else:
            with torch.inference_mode():
                self.model(self.clips)
        if self.clips.is_cuda:
            torch.cuda.synchronize()

    def peak_mebibytes(self) -> float:
        """Largest total size of all tensors during a step."""
        tensors = TensorMemory()
        for tensor in (self.clips, *self.model.parameters(), *self.model.buffers()):
            tensors.add(tensor)
        if self.clips.is_cuda:  # other models are there, too
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            self()
            return (tensors.total + torch.cuda.max_memory_allocated() - before) / 2**20
        with tensors:
            self()
        return tensors.peak / 2**20


def make_step(model: Any, shape: tuple[int, int, int], device: str, training: bool = False) -> Step:
    """A model and noise of its type, B clips of T frames of S × S pixels, or their frames for CLIP and X-CLIP.

    Args:
        model: Put on the device; or a function of clips in float32.
        shape: (B, T, S).
        device: Such as "cuda".
        training: See [`Step`].
    """
    batch, num_frames, size = shape
    clips = torch.randn(batch, num_frames, 3, size, size, device=device)
    if isinstance(model, torch.nn.Module):
        clips = clips.to(next(model.to(device).parameters()).dtype)
    is_of_frames = isinstance(model, CLIPVisionModel | XCLIPVisionModel) and not isinstance(model, ILAVisionModel)
    return Step(model, clips.flatten(0, 1) if is_of_frames else clips, training)


def keep_freed_memory() -> None:
    """Let glibc keep what is freed, as other allocators do.

    By default it gives large blocks back and takes fresh ones, page by page, and which model of several pays for that
    is chance.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    # M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD of malloc.h
    for parameter, value in ((-4, 0), (-1, 2**31 - 1), (-2, 2**26)):
        ctypes.CDLL(None).mallopt(parameter, value)


def measure(
    case: str,
    steps: dict[str, Callable[[], Any]],
    rounds: int,
    seconds: float | None = None,
    warm_up: int = WARM_UP_ROUNDS,
) -> list[Measurement]:
    """Time steps, each between two runs of the first, which is the reference.

    How fast a machine is that is not alone changes within seconds; neighbours see the same.

    Args:
        case: Name of the measurements.
        steps: What is timed, by name.
        rounds: How often each step is timed, in an order that is drawn anew every time.
        seconds: Begin no further round after this time, but for three.
        warm_up: Rounds before that are not timed; whole programs need none.
    """
    for _ in range(warm_up):
        for step in steps.values():
            step()
    taken: dict[str, list[float]] = {name: [] for name in steps}
    ratios: dict[str, list[float]] = {name: [] for name in steps}

    def timed(name: str) -> float:
        start = time.perf_counter()
        steps[name]()
        taken[name].append(time.perf_counter() - start)
        return taken[name][-1]

    reference, *others = steps
    order, begin = random.Random(0), time.perf_counter()
    before = timed(reference)
    for done in tqdm(range(rounds), desc=case, mininterval=5):
        if seconds is not None and done >= 3 and time.perf_counter() - begin > seconds:
            break
        for name in order.sample(others, len(others)):
            own, after = timed(name), timed(reference)
            ratios[name].append(2 * own / (before + after))
            before = after
    found = [
        Measurement(case, reference, _milliseconds(taken[reference]), 1.0, 1.0, 1.0, rounds=len(taken[reference]))
    ]
    for name in others:
        quartiles = statistics.quantiles(ratios[name], n=4, method="inclusive")
        low, median, high = (round(ratio, 3) for ratio in quartiles)
        found.append(Measurement(case, name, _milliseconds(taken[name]), median, low, high, rounds=len(taken[name])))
    return found


def _milliseconds(times: list[float]) -> float:
    return round(1000 * statistics.median(times), 2)


def add_memory(measurements: Iterable[Measurement], steps: dict[str, Step]) -> None:
    """Enter the peak memory of a step.

    A compiled model's tensors are not seen one by one on the CPU. An int8 weight is a tensor made of others, whose
    size its own storage does not tell, on any device.
    """
    for measurement in measurements:
        step = steps[measurement.name]
        is_seen = step.clips.is_cuda or not measurement.name.endswith("compiled")
        if is_seen and not measurement.name.endswith("int8"):
            measurement.mebibytes = round(step.peak_mebibytes(), 1)


def machine() -> dict[str, Any]:
    """Processor or graphics card, threads and versions: what a time depends on."""
    processor = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            processor = line.partition(":")[2].strip()
            break
    found = {"processor": processor, "threads": torch.get_num_threads()}
    if torch.cuda.is_available():
        found["graphics card"] = torch.cuda.get_device_name()
    return {**found, "torch": torch.__version__, "transformers": transformers.__version__}


def machine_line(found: dict[str, Any]) -> str:
    """What [`machine`] found, in a line."""
    return ", ".join(f"{name} {value}" for name, value in found.items())


def markdown_table(measurements: Iterable[Measurement]) -> str:
    """Rows are models, columns cases; the reference of a case has its time, the others ratios and quartiles."""
    cells: dict[str, dict[str, str]] = {}
    cases: list[str] = []
    for each in measurements:
        is_reference = each.case not in cases
        cases += [each.case] if is_reference else []
        text = f"{each.milliseconds:g} ms" if is_reference else f"{each.ratio:.2f} ({each.low:.2f}-{each.high:.2f})"
        memory = "" if each.mebibytes is None else f", {each.mebibytes:.0f} MiB"
        cells.setdefault(each.name, {})[each.case] = text + memory
    lines = ["| | " + " | ".join(cases) + " |", "|---|" + "---|" * len(cases)]
    lines += [f"| {name} | " + " | ".join(row.get(case, "") for case in cases) + " |" for name, row in cells.items()]
    return "\n".join(lines)


def form_of(model: Any, form: str) -> Any:
    """A copy of a trunk, or of CLIP's vision tower, in one of `FORMS`; see [`quantize`] for int8."""
    model = copy.deepcopy(model).eval()
    is_ila = isinstance(model, ILAVisionModel)
    if form in ("fused", "compiled") and is_ila:
        model.fuse()
    if form == "compiled" and is_ila:
        compile_layers(model)
    elif form == "compiled":
        for layer in model.encoder.layers:
            layer.compile()
    if form == "int8":
        quantize(model)
    return model.bfloat16() if form == "bfloat16" else model


def quantize(model: Any) -> Any:
    """Let the linear layers of any model run in int8, in place, with inputs that are rounded as they come.

    Raises:
        ImportError: Without torchao.
    """
    try:
        torchao: Any = import_module("torchao.quantization")
    except ModuleNotFoundError as error:
        raise ImportError('int8 needs torchao: pip install "ila-hf[quantization]"') from error
    torchao.quantize_(model, torchao.Int8DynamicActivationInt8WeightConfig(set_inductor_config=False))
    return model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf benchmark`."""
    parser.add_argument("--model", required=True, help="folder or Hub id of an ILA model")
    parser.add_argument("--batch_size", type=int, nargs="+", default=[1], help="clips of a batch (default: 1)")
    parser.add_argument("--num_frames", type=int, nargs="+", help="frames of a clip (default: the model's)")
    parser.add_argument("--forms", nargs="*", choices=FORMS, help="also time these (default: fused)")
    parser.add_argument("--training", action="store_true", help="time training steps, without an optimizer")
    parser.add_argument(
        "--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=20, help="times that each model runs (default: %(default)s)")
    parser.add_argument("--output_file", type=Path, help="json of all figures")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf benchmark`: time, print machine and table, write.

    Raises:
        ValueError: For a batch, clip or number of rounds that is too small, or forms that do not train.
    """
    if arguments.rounds < 2:
        raise ValueError(f"`--rounds` must be at least 2, got {arguments.rounds}: the table has quartiles.")
    for name in ("batch_size", "num_frames"):
        wrong = [value for value in getattr(arguments, name) or () if value < 1]
        if wrong:
            raise ValueError(f"`--{name}` must be at least 1, got {wrong[0]}.")
    if arguments.training and arguments.forms:
        raise ValueError(f"Fused, compiled and rounded models are for inference, got --forms {arguments.forms[0]}.")
    forms = ([] if arguments.training else ["fused"]) if arguments.forms is None else arguments.forms
    keep_freed_memory()
    config = transformers.AutoConfig.from_pretrained(arguments.model)
    model = ILAVisionModel.from_pretrained(arguments.model, dtype=torch.float)
    vision: Any = model.config
    models: dict[str, Any] = {"CLIP": CLIPVisionModel(clip_config(vision)), "ILA": model}
    for form in forms:
        if form != "fused":
            models[f"CLIP, {form}"] = form_of(models["CLIP"], form)
        models[f"ILA, {form}"] = form_of(model, form)
    found: list[Measurement] = []
    for num_frames in arguments.num_frames or [getattr(config, "num_frames", ILAConfig.num_frames)]:
        for batch in arguments.batch_size:
            torch.compiler.reset()  # compiled for this shape, where another would make the code dynamic
            shape = (batch, num_frames, vision.image_size)
            steps = {
                name: make_step(each, shape, arguments.device, arguments.training) for name, each in models.items()
            }
            case = f"{batch} × {num_frames} frames"
            measurements = measure(case, dict(steps), arguments.rounds)
            add_memory(measurements, steps)
            found += measurements
    where = machine()
    print(f"{machine_line(where)}\n\n{markdown_table(found)}")
    if arguments.output_file:
        content = {"machine": where, "measurements": [asdict(each) for each in found]}
        arguments.output_file.write_text(json.dumps(content, indent=1) + "\n")
