# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Export to ONNX and to torch's own format: the command `ila-hf export`.

Exported are graphs of one input, `pixel_values` (B, T, 3, S, S), for any B:

    classifier   logits (B, K); the class texts are encoded once, and the graph has no text tower
    vision       last_hidden_state (B, T, L, D), pooler_output (B, T, D)

or, of a causal classifier, a graph of one frame: `pixel_values` (B, 1, 3, S, S) and the state of B streams to logits
(B, K) and the state that follows, see [`ILAStreamGraph`].

docs/export.md shows how to run them. ONNX files are of opset 20 unless told otherwise. In model.pt2 weights are raw
bytes and the graph is json; the example inputs, which torch would pickle, are left out. Weights are float32 and on the
CPU. The graph computes attention with torch's scaled dot product, whatever the model is set to.

The command compares each file with the model on random clips, those of streams frame by frame: a difference of more
than 1e-4 is an error. It is relative to the largest value of the output, or to 1 if that is larger: logits reach tens
in seven digits of float32.

The exporters of transformers are not used: they take models whole, text tower included, and 5.11 has none.
"""

import argparse
import importlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import torch
from torch.export import Dim, ExportedProgram
from transformers import AutoConfig, AutoModelForVideoClassification

from ..configuration_ila import ILAConfig
from ..inference.graph import (
    ILAClassifierGraph,
    ILAStreamGraph,
    ILAVisionGraph,
    Outputs,
    inference_graph,
    stream_graph,
)
from ..modeling_ila import ILAPreTrainedModel, ILAVisionModel
from ..video_processing_ila import ILAVideoProcessor


OPSET = 20
MIN_OPSET = 18
TOLERANCE = 1e-4
# ImageNet's mean and standard deviation turn [0, 1] into values from -2.12 to 2.64
PIXEL_RANGE = 2.64
# Convolutions ask whether 32 bits can index a clip, and torch 2.9 cannot tell that of any T
MIN_DYNAMIC_FRAMES, MAX_DYNAMIC_FRAMES = 3, 1024
# What the names of the state of streams begin with, as of what goes in and of what comes out
PAST, PRESENT = "past.", "present."
FILES = {"onnx": "model.onnx", "torch_export": "model.pt2"}


def export_program(
    model: ILAPreTrainedModel,
    num_frames: int | None = None,
    image_size: int | None = None,
    dynamic_frames: bool = False,
    stream: bool = False,
) -> ExportedProgram:
    """Trace a model with `torch.export`.

    Args:
        model: See [`inference_graph`].
        num_frames: T of the graph. Default: that of the configuration, 8 for an [`ILAVisionModel`] alone.
        image_size: S of the graph, frames of S × S. Default: that of the configuration.
        dynamic_frames: Clips of any T from 3 to 1024.
        stream: Take the next frame of streams and their state, a dict of tensors, instead of clips.

    Returns:
        A program of `pixel_values` with B, and on request T, free; its outputs are a dict of tensors.

    Raises:
        ValueError: For a model that cannot be exported, and for more or fewer frames than the graph can take. For
            streams also for a model that is not causal, or no classifier, and for clips of any T.
    """
    clips = example_clips(model.config, 2, num_frames, image_size)
    if stream:
        if dynamic_frames:
            raise ValueError("A graph of streams takes one frame at a time: `dynamic_frames` is for clips.")
        return _without_traces(_export_stream(stream_graph(model, num_frames, image_size), clips[:, :1]))
    module = inference_graph(model, image_size)
    if dynamic_frames and not MIN_DYNAMIC_FRAMES <= clips.shape[1] <= MAX_DYNAMIC_FRAMES:
        allowed = f"{MIN_DYNAMIC_FRAMES} to {MAX_DYNAMIC_FRAMES}"
        raise ValueError(f"A graph of any T takes {allowed} frames, got {clips.shape[1]}.")
    return _without_traces(torch.export.export(module, (clips,), dynamic_shapes=_dynamic_shapes(dynamic_frames)))


def _export_stream(module: ILAStreamGraph, frames: torch.Tensor) -> ExportedProgram:
    state = module.initial_state(frames)
    return torch.export.export(module, (frames, state), dynamic_shapes=_dynamic_shapes(False, list(state)))


def _without_traces(program: ExportedProgram) -> ExportedProgram:
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would tell the paths of this machine in every file
    return program


def _dynamic_shapes(dynamic_frames: bool, state: Sequence[str] = ()) -> dict[str, Any]:
    dimensions = {0: Dim("batch", min=1)}
    if dynamic_frames:
        dimensions[1] = Dim("frames", min=MIN_DYNAMIC_FRAMES, max=MAX_DYNAMIC_FRAMES)
    shapes: dict[str, Any] = {"pixel_values": dimensions}
    return {**shapes, "state": dict.fromkeys(state, dimensions)} if state else shapes


def save_program(program: ExportedProgram, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a program as .pt2, without pickled content; its example inputs are dropped.

    Args:
        program: Of [`export_program`].
        path: File to write, ending in .pt2.
        metadata: Written as the extra file "metadata.json".
    """
    program.example_inputs = None
    torch.export.save(program, path, extra_files={"metadata.json": json.dumps(metadata or {})})


def export_onnx(
    model: ILAPreTrainedModel,
    path: str | Path,
    num_frames: int | None = None,
    image_size: int | None = None,
    dynamic_frames: bool = False,
    opset: int = OPSET,
    stream: bool = False,
) -> None:
    """Write a model as ONNX, with labels, T and S in its metadata.

    The state of streams is in the inputs `past.*` and the outputs `present.*`, of the same shapes.

    Args:
        model: See [`inference_graph`].
        path: File to write.
        num_frames, image_size, dynamic_frames, stream: See [`export_program`].
        opset: Version of the operators, from 18 to the newest that onnxscript can translate to.

    Raises:
        ImportError: Without the packages of the extra `export`.
        ValueError: For another opset and as [`export_program`].
    """
    newest = _require_package("onnx").defs.onnx_opset_version()
    _require_package("onnxscript")
    if not MIN_OPSET <= opset <= newest:
        raise ValueError(f"`opset` must be {MIN_OPSET} to {newest}, got {opset}.")
    program = export_program(model, num_frames, image_size, dynamic_frames, stream)
    output_names = (
        ILAVisionGraph.output_names if isinstance(model, ILAVisionModel) else ILAClassifierGraph.output_names
    )
    state = _state_names(program)
    exported = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=["pixel_values", *(PAST + name for name in state)],
        output_names=[*output_names, *(PRESENT + name for name in state)],
        dynamic_shapes=_dynamic_shapes(dynamic_frames, state),  # their names
        verbose=False,
    )
    assert exported is not None  # it is for the older exporter alone
    reached = exported.model.opset_imports.get("")
    if reached != opset:  # torch merely logs it
        raise ValueError(f"onnxscript cannot translate to `opset` {opset}, it stays at {reached}: take a lower one.")
    exported.model.metadata_props.update(export_metadata(model, num_frames, image_size, stream))
    exported.save(path)


def _state_names(program: ExportedProgram) -> list[str]:
    """Of the state that the program takes, in the order of its inputs."""
    inputs = program.example_inputs
    assert inputs is not None
    (arguments, _) = inputs
    return list(arguments[1]) if len(arguments) > 1 else []


def export_metadata(
    model: ILAPreTrainedModel, num_frames: int | None = None, image_size: int | None = None, stream: bool = False
) -> dict[str, str]:
    """What a user of the file needs to know: class of the model, T, S and a classifier's labels as a json list.

    Of streams, T is the length of the clip that a prediction looks back on, and "stream" is "true".
    """
    clips = example_clips(model.config, 1, num_frames, image_size)
    metadata = {
        "model_class": type(model).__name__,
        "num_frames": str(clips.shape[1]),
        "image_size": str(clips.shape[3]),
        **({"stream": "true"} if stream else {}),
    }
    if not isinstance(model, ILAVisionModel):
        labels = model.config.id2label
        metadata["labels"] = json.dumps([labels[i] for i in range(len(labels))], ensure_ascii=False)
    return metadata


def example_clips(
    config: Any, batch: int, num_frames: int | None = None, image_size: int | None = None
) -> torch.Tensor:
    """Random clips (B, T, 3, S, S) over the whole range of normalised pixels.

    Raises:
        ValueError: For a T or S below 1.
    """
    vision_config = getattr(config, "vision_config", config)
    frames = getattr(config, "num_frames", ILAConfig.num_frames) if num_frames is None else num_frames
    size = vision_config.image_size if image_size is None else image_size
    for name, value in {"num_frames": frames, "image_size": size}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    noise = torch.rand(batch, frames, 3, size, size, generator=torch.Generator().manual_seed(batch))
    return PIXEL_RANGE * (2 * noise - 1)


def _session(path: str | Path) -> Any:
    """An ONNX file on onnxruntime's CPU provider, with as many threads as torch has."""
    onnxruntime = _require_package("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # by default all cores, whatever torch was told
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def onnx_runner(path: str | Path) -> Callable[[torch.Tensor], Outputs]:
    """An ONNX file on onnxruntime's CPU provider, as a function of `pixel_values`; with as many threads as torch.

    Raises:
        ImportError: Without onnxruntime.
    """
    session = _session(path)
    names = [output.name for output in session.get_outputs()]

    def run_session(pixel_values: torch.Tensor) -> Outputs:
        arrays = session.run(names, {"pixel_values": pixel_values.numpy()})
        return {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}

    return run_session


class OnnxStream:
    """An ONNX file of streams on onnxruntime's CPU provider, with as many threads as torch.

    Args:
        path: What [`export_onnx`] has written with `stream=True`.

    Raises:
        ImportError: Without onnxruntime.
        ValueError: For a file of clips.
    """

    def __init__(self, path: str | Path):
        self.session = _session(path)
        self._inputs = [each for each in self.session.get_inputs() if each.name.startswith(PAST)]
        if not self._inputs:
            raise ValueError(f"{str(path)!r} takes clips, not streams: export it with `stream=True`.")

    def initial_state(self, batch: int = 1) -> Outputs:
        """Of B streams that begin: zeros in the shapes of the inputs."""
        types = {"tensor(int64)": torch.int64, "tensor(float)": torch.float}
        return {
            each.name.removeprefix(PAST): torch.zeros(batch, *each.shape[1:], dtype=types[each.type])
            for each in self._inputs
        }

    def __call__(self, frames: torch.Tensor, state: Outputs) -> tuple[torch.Tensor, Outputs]:
        """Logits (B, K) after the next frames (B, 1, 3, S, S), and the state that follows."""
        given = {PAST + name: tensor.numpy() for name, tensor in state.items()}
        names = ["logits", *(PRESENT + name for name in state)]
        logits, *present = self.session.run(names, {"pixel_values": frames.numpy(), **given})
        return torch.from_numpy(logits), dict(zip(state, map(torch.from_numpy, present), strict=True))


@torch.no_grad()
def largest_difference(
    run_exported: Callable[[torch.Tensor], Outputs], model: ILAPreTrainedModel, clips: list[torch.Tensor]
) -> tuple[float, float]:
    """Compare an exported model with the model itself, in float32.

    Args:
        run_exported: Of [`onnx_runner`], or `program.module()`.
        model: What was exported.
        clips: Batches of `pixel_values`.

    Returns:
        The largest difference of an output, absolute and relative; the latter to the largest value of that output, or
        to 1 if that is larger.
    """
    module = inference_graph(model, clips[0].shape[3])
    differences = []
    for pixel_values in clips:
        found = run_exported(pixel_values)
        for name, expected in module(pixel_values).items():
            absolute = (found[name] - expected).abs().max()
            differences.append(torch.stack([absolute, absolute / expected.abs().max().clamp(min=1)]))
    absolute, relative = torch.stack(differences).amax(0).tolist()  # nan, too, comes through
    return absolute, relative


def frame_by_frame(
    step: Callable[[torch.Tensor, Outputs], tuple[torch.Tensor, Outputs]], initial_state: Callable[[int], Outputs]
) -> Callable[[torch.Tensor], Outputs]:
    """A graph of streams as one of clips: clips (B, T, 3, S, S) go through frame by frame -> logits after the last."""

    def run_stream(pixel_values: torch.Tensor) -> Outputs:
        state, logits = initial_state(len(pixel_values)), torch.empty(0)
        for frames in pixel_values.split(1, dim=1):
            logits, state = step(frames.contiguous(), state)
        return {"logits": logits}

    return run_stream


def _require_package(name: str) -> Any:
    """Import a package of the extra `export`, or tell how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ImportError(f'Export to ONNX needs {name}: pip install "ila-hf[export]"') from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf export`."""
    parser.add_argument("--model", required=True, help="folder or Hub id of an ILA model")
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--format", nargs="+", default=["onnx"], choices=list(FILES), help="one or both")
    parser.add_argument("--part", default="classifier", choices=["classifier", "vision"], help="what to export")
    parser.add_argument("--opset", type=int, default=OPSET, help="of the ONNX file (default: %(default)s)")
    parser.add_argument("--num_frames", type=int, help="frames of a clip (default: the model's)")
    parser.add_argument("--image_size", type=int, help="height and width of the frames (default: the model's)")
    parser.add_argument("--dynamic_frames", action="store_true", help="accept clips of any 3 to 1024 frames")
    parser.add_argument("--stream", action="store_true", help="take a frame at a time, and the state of streams")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf export`: write the files and compare them with the model on random clips of two batch sizes.

    A file that differs is not kept.

    Raises:
        ValueError: If the relative difference of an output is more than 1e-4; see [`largest_difference`].
    """
    folder = Path(arguments.output_dir)
    is_vision = arguments.part == "vision"
    model = (ILAVisionModel if is_vision else AutoModelForVideoClassification).from_pretrained(arguments.model)
    # The configuration of a vision tower does not know T
    config = AutoConfig.from_pretrained(arguments.model)
    num_frames = getattr(config, "num_frames", None) if arguments.num_frames is None else arguments.num_frames
    shape: dict[str, Any] = {"num_frames": num_frames, "image_size": arguments.image_size}
    kind: dict[str, Any] = {"dynamic_frames": arguments.dynamic_frames, "stream": arguments.stream}
    clips = [example_clips(model.config, batch, **shape) for batch in (1, 3)]
    if arguments.dynamic_frames:
        clips.append(example_clips(model.config, 2, clips[0].shape[1] + 3, arguments.image_size))
    folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.format:
        with TemporaryDirectory(dir=folder) as unchecked:
            path = Path(unchecked, FILES[name])
            if name == "onnx":
                export_onnx(model, path, opset=arguments.opset, **kind, **shape)
                run_exported = _stream_of_onnx(path) if arguments.stream else onnx_runner(path)
            else:
                save_program(
                    export_program(model, **kind, **shape),
                    path,
                    export_metadata(model, **shape, stream=arguments.stream),
                )
                run_exported = torch.export.load(path).module()
                if arguments.stream:
                    run_exported = _stream_of_program(run_exported, stream_graph(model, **shape), clips[0])
            absolute, relative = largest_difference(run_exported, model, clips)
            found = f"{absolute:.1e}, {relative:.1e} relative to the largest output"
            if not relative <= TOLERANCE:
                raise ValueError(
                    f"{path.name} is not kept: it differs from the model by {found}, over {TOLERANCE:.0e}."
                )
            for file in Path(unchecked).iterdir():  # weights of more than 2 GB lie beside
                file.replace(folder / file.name)
        print(f"Wrote {folder / path.name}: largest difference from the model {found}.")
    model.config.save_pretrained(folder)
    exported_processor(arguments.model, config, clips[0]).save_pretrained(folder)


def _stream_of_onnx(path: Path) -> Callable[[torch.Tensor], Outputs]:
    stream = OnnxStream(path)
    return frame_by_frame(stream, stream.initial_state)


def _stream_of_program(
    program: Callable[..., Outputs], graph: ILAStreamGraph, clips: torch.Tensor
) -> Callable[[torch.Tensor], Outputs]:
    def step(frames: torch.Tensor, state: Outputs) -> tuple[torch.Tensor, Outputs]:
        outputs = dict(program(frames, state))
        return outputs.pop("logits"), outputs

    return frame_by_frame(step, lambda batch: graph.initial_state(clips[:1, :1].expand(batch, -1, -1, -1, -1)))


def exported_processor(name: str, config: Any, clips: torch.Tensor) -> ILAVideoProcessor:
    """The video processor of a model, or what its configuration tells of it, for one clip of this T and S."""
    try:
        processor = ILAVideoProcessor.from_pretrained(name)
    except OSError:  # saved without
        processor = ILAVideoProcessor.from_config(
            config if isinstance(config, ILAConfig) else ILAConfig(vision_config=config)
        )
    size = clips.shape[3]
    fields: dict[str, Any] = {"num_frames": clips.shape[1], "num_clips": 1, "num_crops": 1}
    if processor.crop_size["height"] != size:
        fields["size"] = {"shortest_edge": round(size * 256 / 224)}
        fields["crop_size"] = {"height": size, "width": size}
    return cast("ILAVideoProcessor", ILAVideoProcessor.from_dict(processor.to_dict(), **fields))
