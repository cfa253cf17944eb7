# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A tiny ILA to train from scratch on a laptop, for demo, benchmarks and tests."""

import argparse
from pathlib import Path
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer, set_seed

from ..configuration_ila import ILAConfig
from ..modeling_ila import ILAForVideoTextClassification
from ..processing_ila import ILAProcessor
from ..video_processing_ila import ILAVideoProcessor


def tiny_tokenizer() -> CLIPTokenizer:
    """CLIP's tokenizer with one token per character instead of its 49 408: any text, no download, 514 tokens."""
    characters = sorted(ByteLevel.alphabet())
    tokens = [*characters, *(character + "</w>" for character in characters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def tiny_config(vision_config: dict[str, Any] | None = None, **kwargs: Any) -> ILAConfig:
    """Three layers of width 64 on 8 frames of 32 pixels in patches of 8, and a text tower of two layers.

    Args:
        vision_config: Fields of [`ILAVisionConfig`] that replace those.
        kwargs: Fields of [`ILAConfig`] that replace those.
    """
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_attention_heads": 2, "projection_dim": 64}
    # CLIP's spread of 0.02 for patches and positions is made for widths of 768 and more; a narrow trunk starts slowly
    vision = {**tower, "num_hidden_layers": 3, "image_size": 32, "patch_size": 8, "initializer_range": 0.1}
    tokenizer = tiny_tokenizer()
    text = {
        **tower,
        "num_hidden_layers": 2,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    fields = {"projection_dim": 64, "num_frames": 8, "alignment_loss_weight": 0.1, **kwargs}
    return ILAConfig(text_config=text, vision_config={**vision, **(vision_config or {})}, **fields)


def tiny_clip() -> CLIPModel:
    """A plain CLIP of the same sizes, with random weights, from which a tiny ILA can start."""
    ours = tiny_config()
    sizes = ("hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "projection_dim")
    names = {
        "text_config": (*sizes, "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"),
        "vision_config": (*sizes, "image_size", "patch_size", "initializer_range"),
    }
    towers: dict[str, Any] = {
        tower: {name: getattr(getattr(ours, tower), name) for name in of} for tower, of in names.items()
    }
    return CLIPModel(CLIPConfig(**towers, projection_dim=ours.projection_dim))


def save_tiny_clip(folder: str | Path, seed: int = 0) -> None:
    """Write a tiny CLIP and its tokenizer to a folder; the seed gives its weights."""
    set_seed(seed)
    tiny_clip().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)


def tiny_processor(config: ILAConfig) -> ILAProcessor:
    """The processor for a tiny model: the same proportions as for the published ones."""
    return ILAProcessor(ILAVideoProcessor.from_config(config), tiny_tokenizer())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf tiny-model`."""
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--architecture", default="paper", choices=["paper", "released"], help="see ILAVisionConfig")
    parser.add_argument("--interaction_token", action="store_true", help="append the interaction token")
    parser.add_argument("--first_frame", default="next", choices=["next", "self"], help='"self" is causal')


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf tiny-model`: save an untrained model with its processor."""
    names = ("architecture", "interaction_token", "first_frame")
    config = tiny_config({name: getattr(arguments, name) for name in names})
    ILAForVideoTextClassification(config).save_pretrained(arguments.output_dir)
    tiny_processor(config).save_pretrained(arguments.output_dir)
