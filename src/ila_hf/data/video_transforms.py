# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Augmentation of the training recipes (Table 14), on torchvision: one random draw for all frames of a clip."""

import re
from collections.abc import Sequence
from typing import Any, cast

import torch
from torchvision.transforms import v2

from ..video_processing_ila import ILAVideoProcessor


# Words in the names of classes that a mirrored video would make wrong
_SIDES = re.compile(r"(left|right)(wards?|most)?|(counter|anti)?clockwise")


class MultiScaleCrop(v2.Transform):  # type: ignore[misc]
    """Cut a random rectangle out of the four corners or the centre, and resize it to a square.

    Its height and width are each a random one of `scales` times the short side, neighbours in the list at most; as in
    Wang et al., *Towards Good Practices for Very Deep Two-Stream ConvNets* (arXiv 1507.02159).

    Args:
        size: S, in pixels.
        scales: Parts of the short side, in (0, 1], descending.

    Raises:
        ValueError: For scales that are not.
    """

    _transformed_types = (torch.Tensor,)

    def __init__(self, size: int, scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66)):
        super().__init__()
        if not scales or not all(0 < scale <= 1 for scale in scales):
            raise ValueError(f"`scales` must be in (0, 1], got {scales!r}.")
        self.size, self.scales = size, tuple(scales)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The rectangle: top, left, height and width in pixels."""
        frame_height, frame_width = v2.functional.get_size(flat_inputs[0])
        sides = [max(round(min(frame_height, frame_width) * scale), 1) for scale in self.scales]
        pairs = [(h, w) for i, h in enumerate(sides) for j, w in enumerate(sides) if abs(i - j) <= 1]
        height, width = pairs[int(torch.randint(len(pairs), ()))]
        y, x = ((0, 0), (0, 1), (1, 0), (1, 1), (0.5, 0.5))[int(torch.randint(5, ()))]
        top, left = round(y * (frame_height - height)), round(x * (frame_width - width))
        return {"top": top, "left": left, "height": height, "width": width}

    def transform(self, inpt: torch.Tensor, params: dict[str, Any]) -> torch.Tensor:
        """Crop and resize (..., H, W) to (..., S, S)."""
        crop = v2.functional.resized_crop(inpt, **params, size=[self.size, self.size], antialias=True)
        return cast("torch.Tensor", crop)


def names_a_side(label_names: Sequence[str]) -> bool:
    """Whether a class would be another one in the mirror, such as "pushing something from left to right"."""
    words = [word for name in label_names for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)]  # of camelCase too
    return any(_SIDES.fullmatch(word.lower()) for word in words)


def training_transform(
    processor: ILAVideoProcessor,
    scales: Sequence[float] = (1.0, 0.875, 0.75, 0.66),
    flip: float = 0.5,
    jitter: float = 0.8,
    grey: float = 0.2,
    erasing: float = 0.0,
) -> v2.Transform:
    """The augmentation of a clip, (T, 3, H, W) uint8 to (T, 3, S, S) uint8; the processor normalises what it gives.

    Brightness, contrast, saturation and hue change by up to 0.4, 0.4, 0.2 and 0.1, as in BYOL (arXiv 2006.07733): the
    paper names only how often.

    Args:
        processor: Tells S and the mean colour.
        scales: Of [`MultiScaleCrop`]; (1.0,) only moves the crop.
        flip: Probability of mirroring; 0 where classes name a side ([`names_a_side`]).
        jitter: Probability of changing the colours.
        grey: Probability of taking them away.
        erasing: Probability of a rectangle in the mean colour (torchvision's `RandomErasing`); 0 in the paper.

    Raises:
        ValueError: For probabilities outside [0, 1] and for a processor whose crop is no square.
    """
    if processor.crop_size["height"] != processor.crop_size["width"]:
        raise ValueError(f"Clips are squares, got a processor with `crop_size` of {processor.crop_size}.")
    probabilities = {"flip": flip, "jitter": jitter, "grey": grey, "erasing": erasing}
    for name, value in probabilities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"`{name}` is a probability, in [0, 1], got {value!r}.")
    steps: list[v2.Transform] = [MultiScaleCrop(processor.crop_size["height"], scales)]
    if flip:
        steps.append(v2.RandomHorizontalFlip(flip))
    if jitter:
        steps.append(v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], jitter))
    if grey:
        steps.append(v2.RandomGrayscale(grey))
    if erasing:
        mean = [round(255 * value) for value in processor.image_mean]
        steps.append(v2.RandomErasing(erasing, value=mean))
    return v2.Compose(steps)
