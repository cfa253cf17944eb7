# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What looking into a model shares: its trunk, its layers by number, videos for it, and running it without a trace."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from datasets import Dataset
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from ..checks_ila import check_clips
from ..data.video_clips import ClipReader, VideoClips, collate_clips
from ..data.video_data import load_videos
from ..modeling_ila import ILAForVideoTextClassification, ILAModel, ILAVisionModel


def trunk_of(model: Any) -> Any:
    """The visual trunk of a model, which may be a trunk itself."""
    return getattr(model, "vision_model", model)


def load_with_videos(model: str, videos: str, batch_size: int) -> tuple[nn.Module, Dataset, DataLoader[Any]]:
    """A saved model, labelled videos, and their clips in batches; of one that cannot be read the label is -100."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = AutoModelForVideoClassification.from_pretrained(model).to(device)
    rows = load_videos(videos, [classifier.config.id2label[i] for i in range(classifier.config.num_labels)])
    reader = ClipReader(AutoVideoProcessor.from_pretrained(model), train=False, on_error="wrong")
    return classifier, rows, DataLoader(VideoClips(rows, reader), batch_size=batch_size, collate_fn=collate_clips)


def patch_grid(model: Any, pixel_values: torch.Tensor) -> tuple[int, int]:
    """Rows and columns of patches, (h, w), of clips (B, T, 3, H, W).

    Raises:
        ValueError: As the models do, for what is no clip.
    """
    return check_clips(pixel_values, trunk_of(model).config)


def layer_number(model: Any, layer: int) -> int:
    """The number of a layer, counted from 0.

    Raises:
        ValueError: If there is no such layer.
    """
    count = len(trunk_of(model).encoder.layers)
    if not -count <= layer < count:
        raise ValueError(f"`layer` must be in [{-count}, {count - 1}] for {count} layers, got {layer}.")
    return layer % count


@contextmanager
def observed(model: Any) -> Iterator[None]:
    """The model in evaluation, with weights that take no gradient, and as it is written: hooks must see its parts."""
    modes = [(module, module.training) for module in model.modules()]
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter in trained:
            parameter.requires_grad_(True)


def run_clips(model: Any, pixel_values: torch.Tensor, **kwargs: Any) -> Any:
    """Positions are interpolated for frames of another size than the configuration's."""
    if set(pixel_values.shape[-2:]) != {trunk_of(model).config.image_size}:
        kwargs["interpolate_pos_encoding"] = True
    return model(pixel_values=pixel_values, **kwargs)


def chosen_classes(class_id: int | None, logits: torch.Tensor) -> torch.Tensor:
    """(B,): one class for all clips, or the one that each has the highest score for."""
    if class_id is None:
        return logits.argmax(1)
    if not 0 <= class_id < logits.shape[1]:
        raise ValueError(f"`class_id` must be in [0, {logits.shape[1] - 1}], got {class_id}.")
    return torch.full((len(logits),), class_id, device=logits.device)


def check_classifies(model: Any) -> None:
    """Refuse models without scores of classes."""
    is_similarity = isinstance(model, ILAModel) and not isinstance(model, ILAForVideoTextClassification)
    if is_similarity or isinstance(model, ILAVisionModel):
        raise ValueError(f"Scores of classes need a classification model, got {type(model).__name__}.")


@torch.no_grad()
def predicted_class(model: Any, pixel_values: torch.Tensor) -> int:
    """The id of the class with the highest score, of one clip (1, T, 3, H, W)."""
    check_classifies(model)
    with observed(model):
        return int(run_clips(model, pixel_values).logits.argmax(1))
