# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a model costs, counted by `torch.utils.flop_counter` on the meta device: nothing is computed. `ila-hf flops`.

ila-hf flops --model M        # of a model, part by part
ila-hf flops --model ila-base-patch16 --vision_config '{"alignment_join": "add"}'    # of any configuration
ila-hf flops --table 4        # of the rows of a table of the paper, beside what it publishes
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, CLIPVisionConfig, CLIPVisionModel

from ..configuration_ila import PRESET_NAMES, ILAConfig, ILAVisionConfig
from ..evl_decoder_ila import make_integration
from ..modeling_ila import ILAForVideoClassification, ILAForVideoTextClassification, ILAVisionModel
from .paper_tables import TABLES, PaperRow


# Parts of the trunk, by what the names of their modules contain
_PARTS = {
    "embeddings": "embeddings",
    "attention": "self_attn",
    "MLP": "mlp",
    "temporal modules": "temporal",
}
# A published figure that is further away is not met
_MET = 0.05


def trunk_flops(config: ILAConfig) -> float:
    """Multiply-adds, in 1e9, of the visual trunk for one view of `num_frames` frames."""
    return _count(ILAVisionModel, config.vision_config, 1, config.num_frames)


def clip_flops(config: ILAConfig) -> float:
    """The same of CLIP's vision transformer, which sees as many frames, each by itself."""
    return _count(CLIPVisionModel, clip_config(config.vision_config), config.num_frames)


def flops_by_part(config: ILAConfig, linear: bool = False) -> dict[str, float]:
    """The same of a whole classification model, part by part.

    The text tower is not counted: class texts are encoded once.

    Args:
        config: Of the model, with as many classes as it has.
        linear: It is an [`ILAForVideoClassification`]; else its classes are texts.

    Returns:
        "trunk", of which "embeddings", "attention", "MLP" and "temporal modules" are parts; "head", what comes after
        it, of which "integration" is a part; and "all". What AIM computes with the layer's own attention is in the
        trunk, and in no part.
    """
    own = config.vision_config
    with torch.device("meta"):
        model: Any = (ILAForVideoClassification if linear else ILAForVideoTextClassification)(config)
        model.eval()
        clip = torch.empty(1, config.num_frames, own.num_channels, own.image_size, own.image_size)
        texts = torch.empty(config.num_labels, config.projection_dim)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            outputs = model.get_video_features(clip, return_dict=True)
            if linear:
                model.classifier(outputs.pooler_output)
            else:
                model.video_text_logits(outputs, texts)
    counts = {name: sum(each.values()) / 2e9 for name, each in counter.get_flop_counts().items()}
    name = ILAVisionModel.__name__
    of_trunk = {key: count for key, count in counts.items() if key.startswith(name)}  # the head has MLPs, too
    parts = {part: _sum_of(word, of_trunk) for part, word in _PARTS.items()}
    trunk, whole = counts[name], counts["Global"]
    integration = counts[type(model.integration).__name__]
    return {"trunk": trunk, **parts, "head": whole - trunk, "integration": integration, "all": whole}


def _sum_of(word: str, counts: dict[str, float]) -> float:
    """Of the modules with a name, those within others of that name and within temporal modules left out."""
    found = 0.0
    for name, count in counts.items():
        names = name.split(".")
        is_outermost = word not in names[:-1] and "temporal" not in names[:-1]
        if names[-1] == word and is_outermost:
            found += count
        elif word == "temporal" and names[-2:-1] == ["temporal"] and ".".join(names[:-1]) not in counts:
            found += count  # the layer has called a part of its temporal module
    return found


def parameters_by_part(config: ILAConfig) -> dict[str, float]:
    """Parameters, in 1e6: "trunk" and its parts, and "integration", as in [`flops_by_part`]."""
    with torch.device("meta"):
        sizes = {name: each.numel() / 1e6 for name, each in ILAVisionModel(config.vision_config).named_parameters()}
        integration = sum(each.numel() / 1e6 for each in make_integration(config).parameters())
    found = {"trunk": sum(sizes.values())}
    for part, word in _PARTS.items():
        own = [size for name, size in sizes.items() if word in name.split(".")]
        nested = [size for name, size in sizes.items() if word in name.split(".") and "temporal" in name.split(".")]
        found[part] = sum(own) - (0.0 if word == "temporal" else sum(nested))
    return {**found, "integration": integration}


def table_of_model(config: ILAConfig, linear: bool = False) -> str:
    """What `ila-hf flops --model` prints, as markdown."""
    flops, parameters = flops_by_part(config, linear), parameters_by_part(config)
    lines = ["| part | FLOPs, 1e9 | parameters, 1e6 |", "|---|---|---|"]
    for part, count in flops.items():
        lines.append(f"| {part} | {count:.2f} | {f'{parameters[part]:.1f}' if part in parameters else ''} |")
    return "\n".join(lines)


def table_of_paper(rows: Sequence[PaperRow]) -> str:
    """What `ila-hf flops --table` prints, as markdown: counted beside published.

    Parameters are those of the trunk, and of EVL's decoder, which is what EVL adds to it.
    """
    lines = [
        "| | top-1 | published | trunk | difference | with the head | difference | parameters, 1e6 | |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        config = row.config()
        flops = flops_by_part(config)
        differences = []
        for count in (flops["trunk"], flops["all"]):
            differences.append(None if row.flops is None else count / row.flops - 1)
        shown = ["" if each is None else f"{100 * each:+.1f} %" for each in differences]
        is_met = row.flops is None or any(each is not None and abs(each) <= _MET for each in differences)
        note = "" if is_met else f"not met: {row.note}" if row.note else "not met"
        shares = [row.name, row.top1, None if row.flops is None else f"{row.flops:g}"]
        for count, difference in zip((flops["trunk"], flops["all"]), shown, strict=True):
            shares += [f"{count:.1f}", difference]
        sizes = parameters_by_part(config)
        size = sizes["trunk"] + (sizes["integration"] if config.integration_module == "evl" else 0.0)
        shares += [f"{size:.1f}", note]
        lines.append("| " + " | ".join("" if share is None else str(share) for share in shares) + " |")
    return "\n".join(lines)


def _fields(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text)
    except ValueError:
        fields = None
    if not isinstance(fields, dict):
        raise argparse.ArgumentTypeError(f'needed is a json object such as {{"alignment_join": "add"}}, got {text!r}')
    return fields


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf flops`."""
    parser.add_argument("--model", help="folder or Hub id of a model, or the name of a preset: of it, part by part")
    parser.add_argument("--vision_config", type=_fields, help="of a preset: fields to replace, as json")
    parser.add_argument("--num_frames", type=int, help="frames of a clip (default: the model's)")
    parser.add_argument(
        "--table", nargs="+", choices=list(TABLES), help="tables of the paper (default: all, without --model)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf flops`.

    Raises:
        ValueError: For a model and a table, fields of what is no preset, and a model of another kind.
    """
    if arguments.model is not None:
        if arguments.table is not None:
            raise ValueError("Pass `model` or `table`.")
        if arguments.model in PRESET_NAMES:
            unknown = (arguments.vision_config or {}).keys() - ILAVisionConfig().to_dict().keys()
            if unknown:
                raise ValueError(
                    f"`vision_config` has fields that ILAVisionConfig has not: {', '.join(sorted(unknown))}."
                )
            try:
                config = ILAConfig.from_preset(arguments.model, vision_config=arguments.vision_config)
            except StrictDataclassError as error:
                raise ValueError(f"`vision_config`: {error.__cause__ or error}") from error
        elif arguments.vision_config is not None:
            raise ValueError(f"`vision_config` is for presets: {', '.join(PRESET_NAMES)}.")
        else:
            config = AutoConfig.from_pretrained(arguments.model)
        if not isinstance(config, ILAConfig):
            raise ValueError(f"{arguments.model!r} is no ILA model but of the type {config.model_type!r}.")
        config.num_frames = arguments.num_frames or config.num_frames
        linear = ILAForVideoClassification.__name__ in (config.architectures or [])
        linear |= arguments.model in PRESET_NAMES and arguments.model.endswith("ssv2")
        print(table_of_model(config, linear))
        return
    for name in ("num_frames", "vision_config"):
        if getattr(arguments, name) is not None:
            raise ValueError(f"`{name}` is for `model`: the rows of the tables have theirs.")
    for name in arguments.table or TABLES:
        print(f"Table {name}\n\n{table_of_paper(TABLES[name])}\n")


def clip_config(config: ILAVisionConfig) -> CLIPVisionConfig:
    """Configuration of CLIP's vision transformer of the same size."""
    own = CLIPVisionConfig().to_dict().keys() - {"model_type", "architectures"}
    return CLIPVisionConfig(**{name: value for name, value in config.to_dict().items() if name in own})


def _count(model_class: type[torch.nn.Module], config: Any, *batch: int) -> float:
    with torch.device("meta"):
        model = model_class(config).eval()
        frames = torch.empty(*batch, config.num_channels, config.image_size, config.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(frames)
    return float(counter.get_total_flops()) / 2e9  # it counts a multiplication and an addition as two
