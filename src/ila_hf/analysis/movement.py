# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How far the features of neighbouring frames are from each other: Table 5 of the paper."""

from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers.utils import is_scipy_available

from ..data.video_clips import IGNORED_LABEL
from .observation import load_with_videos, observed


if is_scipy_available():
    from scipy.optimize import linear_sum_assignment


class FrameDistances(NamedTuple):
    """Means over neighbouring frames and clips, cosine distances between 0 and 2.

    Args:
        earth_movers: Of the best one-to-one match of their patches.
        in_place: Of patches at the same place. What it has more than the other is what moved.
    """

    earth_movers: float
    in_place: float


def require_scipy() -> None:
    """Refuse to go on without it."""
    if not is_scipy_available():
        raise ImportError("The earth mover's distance needs scipy: pip install 'ila-hf[laboratory]'.")


def frame_distances(patches: torch.Tensor) -> FrameDistances:
    """The earth mover's distance between neighbouring frames, beside the distance at the same place.

    The paper reports an averaged Wasserstein distance of the last layer and does not define it. This is our reading:
    the patch tokens of the last layer, without class token and appended tokens, have equal weights, and the cost is
    the cosine distance. With as many patches in both frames the best plan is an assignment, so that the distance is
    exact. Computed in float64.

    Beware of two things. Of a model that was trained with the alignment loss, a low value is partly what the loss asks
    for; and a model whose features do not depend on the frame reaches 0.

    Args:
        patches (B, T, N, D): See [`patches_of_frames`].

    Raises:
        ImportError: Without scipy.
        ValueError: For another rank, and for fewer than two frames.
    """
    require_scipy()
    if patches.ndim != 4 or patches.shape[1] < 2:
        raise ValueError(f"`patches` must be (B, T, N, D) of at least two frames, got {tuple(patches.shape)}.")
    unit = nn.functional.normalize(patches.detach().cpu().double(), dim=-1)
    costs = (1 - unit[:, :-1] @ unit[:, 1:].transpose(2, 3)).flatten(0, 1)  # (B·(T-1), N, N)
    matched = []
    for cost in costs.numpy():
        rows, columns = linear_sum_assignment(cost)
        matched.append(cost[rows, columns].mean())
    in_place = costs.diagonal(dim1=1, dim2=2).mean()
    return FrameDistances(float(sum(matched) / len(matched)), float(in_place))


@torch.no_grad()
def patches_of_frames(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """The patch tokens of the last layer for every frame, in evaluation: (B, T, 3, H, W) -> (B, T, N, D).

    Args:
        model: Of this package; CLIP, X-CLIP or another vision transformer of transformers that sees frames one by one,
            with or without a class token; TimeSformer; or VideoMAE and ViViT, whose tubes of frames take the place of
            frames: neighbours are then neighbouring tubes.
        pixel_values: Normalised clips.

    Raises:
        ValueError: For a model without patch tokens of every frame or tube, and for clips of X-CLIP of another length
            than its own.
    """
    batch, num_frames = pixel_values.shape[:2]
    trunk = getattr(model, "vision_model", None) or getattr(model, "base_model", model)
    if not hasattr(trunk.config, "patch_size") and not hasattr(trunk.config, "tubelet_size"):
        raise ValueError(f"{type(trunk).__name__} has no patches: its configuration names no `patch_size`.")
    sees_clips = any(hasattr(trunk.config, name) for name in ("temporal_module", "attention_type", "tubelet_size"))
    config, size = trunk.config, pixel_values.shape[-2:]
    tube = getattr(config, "tubelet_size", 1)  # of ViViT frames, height and width
    depth, *sides = tube if isinstance(tube, list | tuple) else (tube, config.patch_size, config.patch_size)
    count = (size[0] // sides[0]) * (size[1] // sides[1])  # N
    num_steps = num_frames // depth
    inputs = pixel_values if sees_clips else pixel_values.flatten(0, 1)
    own_frames = getattr(config, "num_frames", num_frames)
    if not sees_clips and own_frames != num_frames:  # X-CLIP's messages would go from one clip to another
        raise ValueError(
            f"{type(trunk).__name__} groups frames by its `num_frames`, {own_frames}: clips must have as many, got "
            f"{num_frames}."
        )
    with observed(trunk):
        hidden: Any = trunk(inputs, return_dict=True).last_hidden_state
    if hidden.ndim == 3 and hasattr(config, "tubelet_size"):
        if hidden.shape[1] in (num_steps * count, 1 + num_steps * count):  # time, then patches
            hidden = hidden[:, -num_steps * count :].unflatten(1, (num_steps, count))
    elif hidden.ndim == 3 and hidden.shape[:2] == (batch, 1 + count * num_frames):  # TimeSformer: patches, then time
        hidden = hidden[:, 1:].unflatten(1, (count, num_frames)).transpose(1, 2)
    elif hidden.ndim == 3 and len(hidden) == batch * num_frames:  # frame by frame
        hidden = hidden.unflatten(0, (batch, num_frames))
    if hidden.ndim != 4 or hidden.shape[1] != num_steps or not count <= hidden.shape[2] <= count + 8:
        raise ValueError(
            f"{type(trunk).__name__} has no tokens of every frame: its output is {tuple(hidden.shape)} for "
            f"{num_frames} frames of {count} patches."
        )
    patches: torch.Tensor = hidden[:, :, -count:]
    return patches


def video_distances(model: str, videos: str, batch_size: int = 8) -> FrameDistances:
    """[`frame_distances`] of a saved model on labelled videos, without those that cannot be read.

    Args:
        model: Folder or Hub id of a classification model with its video processor.
        videos: Folder or list, see [`load_videos`].
        batch_size: Videos that are read at once.

    Raises:
        ImportError: Without scipy.
        ValueError: As [`load_videos`] and [`frame_distances`] do, and if no video can be read.
    """
    classifier, _, loader = load_with_videos(model, videos, batch_size)
    device = next(classifier.parameters()).device
    found = []
    for batch in loader:
        for clip in batch["pixel_values"][batch["labels"] != IGNORED_LABEL].to(device):
            views = clip if clip.ndim == 5 else clip[None]  # (V, T, 3, H, W)
            found.append(frame_distances(patches_of_frames(classifier, views)))
    if not found:
        raise ValueError(f"There must be at least one video that can be read, got none in {videos!r}.")
    return FrameDistances(*map(fmean, zip(*found, strict=True)))
