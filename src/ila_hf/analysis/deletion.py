# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Whether a map of the patches tells what a score depends on: the patches that it highlights are hidden."""

from typing import Any, NamedTuple

import torch
from torch import nn

from .observation import check_classifies, chosen_classes, observed, patch_grid, run_clips, trunk_of


class DeletionCheck(NamedTuple):
    """What hiding the highlighted patches takes from a score, beside hiding as many at random; see [`deletion_check`].

    Args:
        class_ids (B,): The classes whose scores are compared.
        score (B,): Logit of the class, float32; so for the following.
        drop (B,): By how much it falls where the highlighted patches are hidden.
        random_mean (B,), random_std (B,): Mean and standard deviation of the fall over the random draws.
        hidden: How many patches of every frame are hidden.
        draws: How many random draws there are.
    """

    class_ids: torch.Tensor
    score: torch.Tensor
    drop: torch.Tensor
    random_mean: torch.Tensor
    random_std: torch.Tensor
    hidden: int
    draws: int


@torch.no_grad()
def deletion_check(
    model: Any,
    pixel_values: torch.Tensor,
    attribution: torch.Tensor,
    class_id: int | None = None,
    share: float = 0.2,
    draws: int = 10,
    seed: int = 0,
) -> DeletionCheck:
    """Hide what a map highlights, and compare the fall of the score with that of hiding as much at random.

    In every frame the patches with the highest values are replaced by the mean colour of the frame; equal values are
    ordered at random. At random, they are moved elsewhere: one permutation of the places for all frames, so that what
    is hidden stays, or moves, in time as much as what the map highlights. The score is the logit of the class. A map
    that tells what the score depends on makes it fall by more than random patches do; one that does not, tells
    something else.

    Args:
        model: A classification model.
        pixel_values (B, T, 3, H, W): Normalised clips.
        attribution (B, T, h, w): A map of the patches.
        class_id: Default: the class with the highest score, for each clip.
        share: Of the patches of a frame, in (0, 1); at least one is hidden, and one stays.
        draws: Of random patches, at least 2.
        seed: Of the draws. The same seed gives the same.

    Raises:
        ValueError: For a map that does not fit the clips or is not finite, and for a share, draws or a class out of
            range.
    """
    check_classifies(model)
    expected = (*pixel_values.shape[:2], *patch_grid(model, pixel_values))
    if tuple(attribution.shape) != expected:
        raise ValueError(f"`attribution` must be (B, T, h, w) = {expected}, got {tuple(attribution.shape)}.")
    if not attribution.isfinite().all():  # NaN would be highlighted first
        raise ValueError("`attribution` must be finite, got NaN or infinity.")
    if not 0 < share < 1:
        raise ValueError(f"`share` must be between 0 and 1, got {share}.")
    if draws < 2:
        raise ValueError(f"`draws` must be at least 2, got {draws}.")
    patch_size = trunk_of(model).config.patch_size
    generator = torch.Generator().manual_seed(seed)
    values = attribution.detach().float().cpu().flatten(2)  # (B, T, N)
    hidden = min(max(1, round(share * values.shape[2])), values.shape[2] - 1)  # of all, every choice is the same

    order = torch.rand(values.shape, generator=generator).argsort(2)
    highlighted = order.gather(2, values.gather(2, order).argsort(dim=2, descending=True, stable=True))
    with observed(model):
        logits = run_clips(model, pixel_values).logits
        classes = chosen_classes(class_id, logits)

        def score(clips: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = run_clips(model, clips).logits.gather(1, classes[:, None])[:, 0].float().cpu()
            return scores

        def drop(places: torch.Tensor) -> torch.Tensor:
            return whole - score(hide_patches(pixel_values, places, patch_size))

        whole: torch.Tensor = logits.gather(1, classes[:, None])[:, 0].float().cpu()
        mask = torch.zeros_like(values, dtype=torch.bool)
        size = attribution.shape[2:]
        mask = mask.scatter(2, highlighted[:, :, :hidden], True)
        fall = drop(mask.unflatten(2, size))
        moved = [mask[:, :, torch.randperm(mask.shape[2], generator=generator)] for _ in range(draws)]
        random = torch.stack([drop(places.unflatten(2, size)) for places in moved])
    return DeletionCheck(classes.cpu(), whole, fall, random.mean(0), random.std(0), hidden, draws)


def hide_patches(pixel_values: torch.Tensor, places: torch.Tensor, patch_size: int) -> torch.Tensor:
    """Clips (B, T, 3, H, W) with the mean colour of the frame in the patches where `places` (B, T, h, w) are True."""
    pixels = places.repeat_interleave(patch_size, 2).repeat_interleave(patch_size, 3)
    height, width = pixel_values.shape[-2:]  # of which a rest may belong to no patch
    pixels = nn.functional.pad(pixels, (0, width - pixels.shape[3], 0, height - pixels.shape[2]))
    colours = pixel_values.mean((3, 4), keepdim=True)
    return torch.where(pixels[:, :, None].to(pixel_values.device), colours, pixel_values)
