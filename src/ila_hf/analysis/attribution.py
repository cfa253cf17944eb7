# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Where a model looks: alignment masks, attention rollout and Grad-CAM as maps of the patches.

Tensors only; deletion.py checks the maps, visualization.py draws them. Layers are numbered from 0, as in
`alignment_layers`; negative numbers count from the last. The model is run in evaluation, without `torch.compile`, and
left as it was.

Notation as in modeling_ila.py; M pairs of frames as in alignment_ila.py.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ..alignment_ila import ILAPairs
from ..temporal_ila import ILAAlignedResidual, ILAAligningModule
from .observation import check_classifies, chosen_classes, layer_number, observed, patch_grid, run_clips, trunk_of
from .rollout import attention_rollout


AttributionKind = Literal["masks", "attention", "cam"]


class LayerAlignment(NamedTuple):
    """How one layer aligns the frames of clips.

    Args:
        frames: Numbers of the previous and the current frame of each of the M pairs. A frame may be paired with
            itself.
        points (B, M, 2, 2): Of the previous and the current frame, (x, y) in [-1, 1] (Eq. 5).
        masks (B, T, h, w), optional: By which the layer multiplies the features of each frame (Eq. 6, 7), float32. In
            the paper's architecture that of the frame's own pair, in the released one the mean over its pairs.
    """

    frames: list[tuple[int, int]]
    points: torch.Tensor
    masks: torch.Tensor | None


@torch.no_grad()
def layer_alignments(model: Any, pixel_values: torch.Tensor) -> dict[int, LayerAlignment]:
    """Interactive points and masks of every layer that aligns frames.

    Args:
        model: Any model of this package with a trunk.
        pixel_values (B, T, 3, H, W): Normalised clips. With one frame, it is paired with itself.

    Raises:
        ValueError: If no layer aligns frames.
    """
    trunk, grid = trunk_of(model), patch_grid(model, pixel_values)
    outputs: dict[int, Any] = {}
    pairs: dict[int, ILAPairs] = {}

    def keep(where: dict[int, Any], index: int) -> Callable[..., None]:
        return lambda module, inputs, output: where.update({index: output})

    with observed(model), ExitStack() as hooks:
        for index, layer in enumerate(trunk.encoder.layers):
            if layer.temporal is not None:
                hooks.enter_context(layer.temporal.register_forward_hook(keep(outputs, index)))
            if isinstance(layer.temporal, ILAAligningModule):
                hooks.enter_context(layer.temporal.alignment.register_forward_hook(keep(pairs, index)))
        run_clips(trunk, pixel_values, output_alignments=True)
        found = {}
        for index, output in outputs.items():
            if index in pairs:
                temporal = trunk.encoder.layers[index].temporal
                found[index] = _alignment_of_pairs(temporal, pairs[index], grid, pixel_values.shape[1])
            elif output.get("interactive_points") is not None and output["interactive_points"].shape[1] > 0:
                found[index] = _alignment_of_diagnostics(output)
    if not found:
        raise ValueError("No layer of the model has interactive points: it aligns no frames.")
    return found


def _alignment_of_pairs(temporal: Any, pairs: ILAPairs, grid: tuple[int, int], num_frames: int) -> LayerAlignment:
    """Of ILA's own modules: what the layer computes with, also for a frame that is paired with itself."""
    masks = temporal.alignment.mask(pairs.points, *grid)  # (B, M, 2, h, w)
    if isinstance(temporal, ILAAlignedResidual):
        own = temporal.per_frame(pairs, masks[:, :, 0], masks[:, :, 1])
    else:
        own = pairs.own(masks)
    numbers = torch.arange(num_frames)[None]
    before = None if pairs.before is None else numbers[:, :1]
    previous, current = pairs.frames(numbers, before, pairs.reference)
    return LayerAlignment(list(zip(previous[0].tolist(), current[0].tolist(), strict=True)), pairs.points, own)


def _alignment_of_diagnostics(output: Any) -> LayerAlignment:
    """Of other modules: what they tell of the T - 1 pairs of neighbouring frames."""
    points, masks = output["interactive_points"], output.get("alignment_masks")
    if masks is not None:
        masks = torch.cat([masks[:, :1, 0], masks[:, :, 1]], dim=1)
    return LayerAlignment([(t, t + 1) for t in range(points.shape[1])], points, masks)


@torch.no_grad()
def layer_features(model: Any, pixel_values: torch.Tensor) -> list[torch.Tensor]:
    """The patch tokens that leave every layer, each (B, T, h, w, D), of clips (B, T, 3, H, W)."""
    with observed(model):
        states = run_clips(trunk_of(model), pixel_values, output_hidden_states=True, return_dict=True).hidden_states
    return [tokens[:, :, 1:].unflatten(2, patch_grid(model, pixel_values)) for tokens in states[1:]]


def principal_colours(features: torch.Tensor) -> torch.Tensor:
    """The first three principal components of the patches of a clip, as red, green and blue.

    They are those of all frames together, so that a colour means the same in every frame. Each is scaled from its 1st
    to its 99th percentile. Its sign, which is arbitrary, is that of its largest weight.

    Args:
        features (T, h, w, D): Of one clip.

    Returns:
        (T, h, w, 3) in [0, 1], float32. Components that features of few dimensions do not have are 0.
    """
    patches = features.detach().flatten(0, 2).cpu().double()  # (T·N, D)
    centred = patches - patches.mean(0)
    _, vectors = torch.linalg.eigh(centred.t() @ centred)  # (D, D), the largest last
    axes = vectors.t().flip(0)[:3]
    largest = axes.gather(1, axes.abs().argmax(1, keepdim=True))
    components = centred @ (axes * largest.sign()).t()  # (T·N, up to 3)
    low, high = torch.quantile(components, torch.tensor([0.01, 0.99], dtype=torch.double), dim=0)
    # Where features do not vary, rounding is all that is left
    spread = torch.where(high - low > 1e-9 * patches.abs().max(), high - low, torch.inf)
    colours = ((components - low) / spread).clamp(0, 1)
    colours = nn.functional.pad(colours, (0, 3 - colours.shape[1]))
    per_patch: torch.Tensor = colours.unflatten(0, features.shape[:3]).float()
    return per_patch


def grad_cam(
    model: Any, pixel_values: torch.Tensor, class_id: int | None = None, layer: int | None = None
) -> torch.Tensor:
    """Grad-CAM of the score of a class on the patches that leave a layer (https://arxiv.org/abs/1610.02391).

    max(0, Σ_d α_d z_d) for every patch z, where α is the mean of the gradient of the class's logit over the patches of
    the frame: every frame has its own α, as it has its own class token.

    Args:
        model: A classification model.
        pixel_values (B, T, 3, H, W): Normalised clips.
        class_id: Default: the class with the highest score, for each clip.
        layer: Default: the last but one. The last one's patches reach the score by the text prompt only, or by EVL's
            decoder.

    Returns:
        (B, T, h, w), float32, not negative.

    Raises:
        ValueError: For a layer or a class that there is not, and for a score that does not depend on the patches.
    """
    check_classifies(model)
    layers = trunk_of(model).encoder.layers
    index = max(len(layers) - 2, 0) if layer is None else layer_number(model, layer)
    kept = []

    def cut(module: Any, inputs: Any, output: Any) -> Any:
        features, *others = output if isinstance(output, tuple) else (output,)  # with queries and keys for EVL
        kept.append(features.detach().requires_grad_())
        return (kept[0], *others) if others else kept[0]

    with observed(model), torch.enable_grad():
        with layers[index].register_forward_hook(cut):
            logits = run_clips(model, pixel_values).logits
        chosen = logits.gather(1, chosen_classes(class_id, logits)[:, None])
        (gradient,) = torch.autograd.grad(chosen.sum(), kept)
    gradient, patches = gradient[:, :, 1:].float(), kept[0].detach()[:, :, 1:].float()  # (B, T, N, D)
    if not gradient.any():
        raise ValueError(f"The score does not depend on the patches that leave layer {index}: take an earlier layer.")
    cam = (gradient.mean(2, keepdim=True) * patches).sum(3).clamp(min=0)  # (B, T, N)
    maps: torch.Tensor = cam.unflatten(2, patch_grid(model, pixel_values)).cpu()
    return maps


def attribution_maps(
    model: Any,
    pixel_values: torch.Tensor,
    kind: AttributionKind,
    layers: Sequence[int] | None = None,
    class_id: int | None = None,
) -> dict[int, torch.Tensor]:
    """Maps of one kind by layer, each (B, T, h, w), float32, on the CPU.

    Args:
        model, pixel_values, class_id: As in [`layer_alignments`], [`attention_rollout`] and [`grad_cam`].
        kind: "masks" of the alignment, "attention" rolled out up to the layer, or "cam", Grad-CAM.
        layers: Default: all that have one; for "cam" that of [`grad_cam`].

    Raises:
        ValueError: For another kind, and for layers that have none.
    """
    numbers = None if layers is None else [layer_number(model, layer) for layer in layers]
    maps: dict[int, torch.Tensor]
    if kind == "masks":
        found = layer_alignments(model, pixel_values)
        maps = {index: each.masks.float().cpu() for index, each in found.items() if each.masks is not None}
    elif kind == "attention":
        maps = dict(enumerate(attention_rollout(model, pixel_values)))
    elif kind == "cam":
        count = len(trunk_of(model).encoder.layers)
        numbers = [max(count - 2, 0)] if numbers is None else numbers
        maps = {index: grad_cam(model, pixel_values, class_id, index) for index in numbers}
    else:
        raise ValueError(f'`kind` must be "masks", "attention" or "cam", got {kind!r}.')
    return choose_layers(maps, numbers)


def choose_layers(by_layer: dict[int, Any], numbers: Sequence[int] | None) -> dict[int, Any]:
    """Those of some layers, in their order.

    Raises:
        ValueError: For a layer that has none.
    """
    for number in numbers or ():
        if number not in by_layer:
            raise ValueError(f"Layer {number} does not align frames; those that do are {sorted(by_layer)}.")
    return {number: by_layer[number] for number in (by_layer if numbers is None else numbers)}
