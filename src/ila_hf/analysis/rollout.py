# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Attention rollout: what the class token of a frame has from its patches, through all layers."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from .observation import observed, patch_grid, run_clips, trunk_of


@torch.no_grad()
def attention_rollout(model: Any, pixel_values: torch.Tensor) -> torch.Tensor:
    """Attention rollout from the class token to the patches (Abnar and Zuidema, https://arxiv.org/abs/2005.00928).

    The product over the layers of (A + I) / 2, A being the mean over the heads of the attention weights. Appended
    tokens are keys only: no row of a later layer belongs to them. Their columns are left out and the rows brought back
    to a sum of 1. What else frames learn of each other, by residuals, adapters or attention over time, is not in it.
    Where the layers attend to all frames (`temporal_module="joint"`), the rows of the T class tokens are summed.

    Eager attention, which has weights, is switched on for it, and then what was there before.

    Args:
        model: Any model of this package with a trunk.
        pixel_values (B, T, 3, H, W): Normalised clips.

    Returns:
        (S, B, T, h, w), float32, for the S layers: the rollout through the first layers up to each.

    Raises:
        ValueError: If a temporal module changes its layer so that its attention is not run once, on the tokens of a
            frame or on those of all frames.
    """
    trunk, grid = trunk_of(model), patch_grid(model, pixel_values)
    batch, num_frames = pixel_values.shape[:2]
    count = 1 + grid[0] * grid[1]  # L
    weights: dict[int, torch.Tensor] = {}
    maps = []
    # What the tokens of a frame have from those of the same frame, (B, T, L, L), or of all frames, (B, T, L, T·L)
    rollout = torch.eye(count, device=pixel_values.device).expand(batch, num_frames, -1, -1)

    def take_weights(index: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            if index in weights:
                raise _unusual_attention(trunk, index, "it is run more than once")
            weights[index] = _attention_of_tokens(trunk, index, output[1], (batch, num_frames, count))

        return hook

    def take_layer(index: int) -> Callable[..., None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            nonlocal rollout
            if index not in weights:
                raise _unusual_attention(trunk, index, "it is not run")
            attention = weights.pop(index)
            half = (attention + torch.eye(attention.shape[-1], device=attention.device)) / 2
            if half.ndim == 4:  # within frames
                rollout = half @ rollout.to(half.device)
            else:
                rollout = (half @ _over_all_frames(rollout).flatten(1, 2).to(half.device)).unflatten(1, (-1, count))
            rows = rollout[:, :, 0]  # (B, T, L) or (B, T, T·L)
            if rows.shape[2] != count:
                rows = rows.sum(1).unflatten(1, (-1, count))
            maps.append(rows[:, :, 1:].unflatten(2, grid).cpu())

        return hook

    with observed(model), _eager_attention(trunk), ExitStack() as hooks:
        for index, layer in enumerate(trunk.encoder.layers):
            hooks.enter_context(layer.self_attn.register_forward_hook(take_weights(index)))
            hooks.enter_context(layer.register_forward_hook(take_layer(index)))
        run_clips(trunk, pixel_values)
    return torch.stack(maps)


@contextmanager
def _eager_attention(trunk: Any) -> Iterator[None]:
    before = trunk.config._attn_implementation
    trunk.set_attn_implementation("eager")
    try:
        yield
    finally:
        trunk.set_attn_implementation(before)


def _unusual_attention(trunk: Any, index: int, what: str) -> ValueError:
    name = type(trunk.encoder.layers[index].temporal).__name__
    return ValueError(
        f"Attention rollout needs the attention of every layer once, over the tokens of a frame or of all frames. In "
        f"layer {index}, which {name} changes, {what}."
    )


def _attention_of_tokens(trunk: Any, index: int, weights: Any, size: tuple[int, int, int]) -> torch.Tensor:
    """Mean over the heads, without appended tokens, rows of sum 1: (B, T, L, L), or (B, T·L, T·L) over all frames."""
    batch, num_frames, count = size
    shape = tuple(weights.shape) if isinstance(weights, torch.Tensor) else ()
    if len(shape) == 4 and (shape[0], shape[2]) == (batch * num_frames, count) and shape[3] >= count:
        mean = weights.float().mean(1)[:, :, :count].unflatten(0, (batch, num_frames))
    elif len(shape) == 4 and (shape[0], *shape[2:]) == (batch, num_frames * count, num_frames * count):
        mean = weights.float().mean(1)
    else:
        raise _unusual_attention(trunk, index, f"its weights are {shape or weights!r}")
    normed: torch.Tensor = mean / mean.sum(-1, keepdim=True)
    return normed


def _over_all_frames(rollout: torch.Tensor) -> torch.Tensor:
    """(B, T, L, L), or (B, T, L, T·L) already -> (B, T, L, T·L), where frames have nothing of others."""
    batch, num_frames, count, columns = rollout.shape
    if columns == num_frames * count:
        return rollout
    spread = rollout.new_zeros(batch, num_frames, count, num_frames, count)
    for frame in range(num_frames):
        spread[:, frame, :, frame] = rollout[:, frame]
    return spread.flatten(3)
