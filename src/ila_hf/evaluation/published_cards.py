# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Cards of the ten published variants, with the figures of the paper.

    ila-hf model-cards --output_dir model_cards

The words are in published_card_template.md, the figures here.
"""

import argparse
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import ModelCard, ModelCardData

from ..configuration_ila import PRESET_NAMES, ILAConfig
from .model_card import TAGS, ZERO_SHOT_TAG, backbone_name, render_card


TEMPLATE = Path(__file__).with_name("published_card_template.md")


class _DataSet(NamedTuple):
    name: str
    id: str
    labels: str  # what `ila-hf convert --labels` takes
    bias: str
    licence: str


_K400 = _DataSet(
    "Kinetics-400",
    "kinetics-400",
    "kinetics400",
    "Kinetics-400 is made of YouTube videos: people and places are a skewed sample, and scenes give classes away.",
    "Kinetics-400 is a list of YouTube videos: the annotations are under CC BY 4.0, the videos remain their owners'.",
)
_SSV2 = _DataSet(
    "Something-Something v2",
    "something-something-v2",
    "ssv2",
    "In Something-Something v2 crowd workers handle everyday objects. Classes name sides: do not flip its videos.",
    "Something-Something v2 comes under a data licence for research: read it before any other use.",
)


class _Figures(NamedTuple):
    base_model: str
    top1: float  # and top-5: in % of 4 clips × 3 crops
    top5: float
    flops: float  # of one view, in 1e9 multiply-adds
    counted: float  # of our visual trunk, as `trunk_flops` counts them


# Tables 1-3 of the paper
FIGURES = {
    "ila-base-patch32": _Figures("openai/clip-vit-base-patch32", 81.3, 95.0, 40, 37.3),
    "ila-base-patch32-16-frames": _Figures("openai/clip-vit-base-patch32", 82.4, 95.8, 75, 74.9),
    "ila-base-patch16": _Figures("openai/clip-vit-base-patch16", 84.0, 96.6, 149, 148.7),
    "ila-base-patch16-16-frames": _Figures("openai/clip-vit-base-patch16", 85.7, 97.2, 295, 298.5),
    "ila-large-patch14": _Figures("openai/clip-vit-large-patch14", 88.0, 98.1, 673, 675.6),
    "ila-large-patch14-336-16-frames": _Figures("openai/clip-vit-large-patch14-336", 88.7, 97.8, 3130, 3186.6),
    "ila-base-patch16-ssv2": _Figures("openai/clip-vit-base-patch16", 65.0, 89.2, 214, 214.1),
    "ila-base-patch16-16-frames-ssv2": _Figures("openai/clip-vit-base-patch16", 66.8, 90.3, 438, 438.7),
    "ila-large-patch14-ssv2": _Figures("openai/clip-vit-large-patch14", 67.8, 90.5, 907, 891.2),
    "ila-large-patch14-336-16-frames-ssv2": _Figures("openai/clip-vit-large-patch14-336", 70.2, 91.8, 3723, 4226.4),
}


def published_card(preset: str) -> ModelCard:
    """The card of a published variant.

    Args:
        preset: One of `ila_hf.PRESET_NAMES`.

    Raises:
        ValueError: If there is no such preset; the message lists them.
    """
    config, figures = ILAConfig.from_preset(preset), FIGURES[preset]
    has_text = not preset.endswith("-ssv2")
    data_set = _K400 if has_text else _SSV2
    metadata = ModelCardData(
        language="en" if has_text else None,
        license="unknown",
        library_name="transformers",
        pipeline_tag="video-classification",
        tags=[*TAGS, *([ZERO_SHOT_TAG] if has_text else [])],
        base_model=figures.base_model,
        datasets=[data_set.id],
    )
    fields = {
        **figures._asdict(),
        "preset": preset,
        "has_text": has_text,
        "data_set": data_set,
        "backbone": backbone_name(config),
        "num_frames": config.num_frames,
        "size": config.vision_config.image_size,
    }
    return render_card(metadata, TEMPLATE, fields)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf model-cards`."""
    parser.add_argument("--output_dir", required=True, help="folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf model-cards`: a card for each published variant."""
    for preset in PRESET_NAMES:
        published_card(preset).save(Path(arguments.output_dir) / f"{preset}.md")
    print(f"Wrote {len(PRESET_NAMES)} model cards to {arguments.output_dir}.")
