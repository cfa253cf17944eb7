# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Drawing on frames, and arranging them: a grid of layers and frames, or an animation."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from torch import nn

from ..demo.drawing import write_video
from .attribution import principal_colours


Place = tuple[float, float]

PREVIOUS_COLOUR, CURRENT_COLOUR = (90, 200, 255), (255, 150, 0)
HEAT = colormaps["inferno"]
FRAMES_PER_SECOND = 2  # of animations


class PairLine(NamedTuple):
    """From the point of the previous frame of a pair to that of the current one.

    Args:
        frames: Their numbers.
        places: Of the two points, (x, y) in pixels of a cell.
    """

    frames: tuple[int, int]
    places: tuple[Place, Place]


@dataclass
class ClipPictures:
    """Pictures of one clip: a row for each layer, a cell for each frame.

    Args:
        title: What is shown.
        columns: Labels of the T frames.
        pixel_values (1, T, 3, H, W): The clip that the model has seen.
        rows: By label, the T cells, all of one size.
        legend: Colours (n, 3), uint8, and what they mean.
        lines: By the label of the row, what is drawn over its cells.
        maps: By layer, (1, T, h, w): what is shown of masks, attention and Grad-CAM.
    """

    title: str
    columns: list[str]
    pixel_values: torch.Tensor
    rows: dict[str, list[Image.Image]] = field(default_factory=dict)
    legend: list[tuple[np.ndarray, str]] = field(default_factory=list)
    lines: dict[str, list[PairLine]] = field(default_factory=dict)
    maps: dict[int, torch.Tensor] = field(default_factory=dict)

    def keep_last_row(self, *others: str) -> None:
        """Leave out all rows but the last, and others by their labels."""
        names = [*others, list(self.rows)[-1]]
        self.rows = {name: cells for name, cells in self.rows.items() if name in names}
        self.maps = dict(list(self.maps.items())[-1:])

    def grid(self) -> Image.Image:
        """All layers and frames in one picture."""
        return self._draw(range(len(self.columns)))

    def frames(self) -> list[Image.Image]:
        """A picture for each frame, its layers under each other, all of one size, which is even."""
        return [self._draw([t], even=True) for t in range(len(self.columns))]

    def save(self, path: str | Path) -> None:
        """Write the grid as a picture, or, where the path ends in .gif or .mp4, the frames as an animation."""
        suffix = Path(path).suffix.lower()
        if suffix == ".mp4":
            write_video(path, np.stack([np.asarray(frame) for frame in self.frames()]), FRAMES_PER_SECOND)
        elif suffix == ".gif":
            first, *rest = self.frames()
            first.save(path, save_all=True, append_images=rest, duration=1000 // FRAMES_PER_SECOND, loop=0)
        else:
            self.grid().save(path)

    def _draw(self, shown: Sequence[int], even: bool = False) -> Image.Image:
        """The cells of some frames with their labels, below title and legend."""
        cell_width, cell_height = next(iter(self.rows.values()))[0].size
        size = 12 + cell_height // 32
        font, gap = ImageFont.load_default(size), size // 4
        left = round(max(map(font.getlength, self.rows))) + 3 * gap
        content = max(left + len(shown) * (cell_width + gap), round(font.getlength(self.title)) + 2 * gap)
        header = self._draw_header(content, font, size, gap)
        top = header.height + size + 2 * gap
        width, height = header.width, top + len(self.rows) * (cell_height + gap)
        if even:
            width, height = width + width % 2, height + height % 2
        picture = Image.new("RGB", (width, height), "white")
        picture.paste(header, (0, 0))
        draw = ImageDraw.Draw(picture)
        lefts = {t: left + i * (cell_width + gap) for i, t in enumerate(shown)}
        for t, x in lefts.items():
            draw.text((x + cell_width / 2, top - gap), self.columns[t], "black", font, anchor="mb")
        for i, (name, cells) in enumerate(self.rows.items()):
            y = top + i * (cell_height + gap)
            draw.text((left - 2 * gap, y + cell_height / 2), name, "black", font, anchor="rm")
            for t, x in lefts.items():
                picture.paste(cells[t], (x, y))
            self._draw_lines(draw, name, lefts, y)
        return picture

    def _draw_header(self, width: int, font: Any, size: int, gap: int) -> Image.Image:
        """Title and legend, which begins a new line where it must; at least as wide as asked for."""
        swatch = 2 * size
        lengths = [swatch + gap + round(font.getlength(text)) + 4 * gap for _, text in self.legend]
        width = max([width, *(length + gap for length in lengths)])
        places, line, x = [], 1, gap
        for length in lengths:
            if x > gap and x + length > width:
                line, x = line + 1, gap
            places.append((x, line * (size + 2 * gap) + gap))
            x += length
        header = Image.new("RGB", (width, (line + 1) * (size + 2 * gap)), "white")
        draw = ImageDraw.Draw(header)
        draw.text((gap, gap), self.title, "black", font)
        for (colours, text), (x, y) in zip(self.legend, places, strict=True):
            header.paste(Image.fromarray(colours[None]).resize((swatch, size), Image.Resampling.BILINEAR), (x, y))
            draw.text((x + swatch + gap, y), text, "black", font)
        return header

    def _draw_lines(self, draw: ImageDraw.ImageDraw, name: str, lefts: dict[int, int], top: int) -> None:
        """From frame to frame; where only the current one is shown, within it."""
        for (previous, current), places in self.lines.get(name, ()):
            if current in lefts and previous != current:
                x = lefts.get(previous, lefts[current]), lefts[current]
                ends = [(x[i] + places[i][0], top + places[i][1]) for i in range(2)]
                draw.line(ends, fill=(0, 0, 0), width=4)
                draw.line(ends, fill=(255, 255, 255), width=2)


def pixel_position(point: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Place:
    """Where a point lies on a frame of `size` (height, width): at ±1 are the centres of the outer patches."""
    x, y = ((coordinate + 1) / 2 for coordinate in point.tolist())
    return (x * (grid[1] - 1) + 0.5) / grid[1] * size[1], (y * (grid[0] - 1) + 0.5) / grid[0] * size[0]


def frame_images(frames: torch.Tensor, size: int) -> list[Image.Image]:
    """Frames (T, 3, H, W) in [0, 1] as images of `size` pixels in height."""
    width = round(size * frames.shape[3] / frames.shape[2])
    arrays = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(array).resize((width, size), Image.Resampling.BICUBIC) for array in arrays]


def draw_points(
    images: Sequence[Image.Image],
    frames: Sequence[tuple[int, int]],
    points: torch.Tensor,
    grid: tuple[int, int],
    radius: float,
) -> tuple[list[Image.Image], list[PairLine]]:
    """Boxes around the interactive points of one layer.

    Args:
        images: The T frames.
        frames, points (M, 2, 2): Of one clip; see [`LayerAlignment`].
        grid: Rows and columns of patches, (h, w).
        radius: δ of Eq. 6: within the box, the mask is at its peak.

    Returns:
        New images, and lines from point to point. Blue: a frame as the previous one of a pair; orange: as the current.
    """
    cells, lines = [image.copy() for image in images], []
    # The current one last: it is the frame's own
    for i, colour in enumerate((PREVIOUS_COLOUR, CURRENT_COLOUR)):
        for pair, both in zip(frames, points, strict=True):
            cell = cells[pair[i]]
            draw = ImageDraw.Draw(cell)
            box = [pixel_position(both[i] + sign * radius, grid, cell.size[::-1]) for sign in (-1, 1)]
            width = max(2, cell.height // 64)
            outer = [(x + sign, y + sign) for sign, (x, y) in zip((-1, 1), box, strict=True)]
            draw.rectangle((*outer[0], *outer[1]), outline=(0, 0, 0), width=width + 2)
            draw.rectangle((*box[0], *box[1]), outline=colour, width=width)
    for pair, both in zip(frames, points, strict=True):
        previous, current = (pixel_position(both[i], grid, images[0].size[::-1]) for i in range(2))
        lines.append(PairLine(pair, (previous, current)))
    return cells, lines


def draw_heat(image: Image.Image, values: torch.Tensor) -> Image.Image:
    """A map (h, w) in [0, 1] over a frame, of which grey remains."""
    smooth = _enlarged(values, image)
    heat = HEAT(smooth)[..., :3]
    grey = np.asarray(image.convert("L").convert("RGB")) / 255
    return Image.fromarray(((0.6 * heat + 0.4 * grey) * 255).round().astype(np.uint8))


def _enlarged(values: torch.Tensor, image: Image.Image) -> np.ndarray:
    """Linear between the centres of the patches: (h, w) -> (height, width)."""
    size = (image.height, image.width)
    return nn.functional.interpolate(values[None, None].float(), size=size, mode="bilinear")[0, 0].numpy()


def draw_features(features: torch.Tensor, size: tuple[int, int]) -> list[Image.Image]:
    """Patches (T, h, w, D) in the colours of [`principal_colours`], as images of a size (width, height)."""
    colours = (principal_colours(features) * 255).round().byte().numpy()
    return [Image.fromarray(frame).resize(size, Image.Resampling.NEAREST) for frame in colours]


def legend_of_points() -> list[tuple[np.ndarray, str]]:
    """Of [`draw_points`]."""
    texts = {PREVIOUS_COLOUR: "as the previous frame of a pair", CURRENT_COLOUR: "as the current frame of a pair"}
    return [(np.array([colour], np.uint8), text) for colour, text in texts.items()]


def legend_of_features() -> list[tuple[np.ndarray, str]]:
    """Of [`draw_features`]."""
    return [(np.eye(3, dtype=np.uint8) * 255, "the first three principal components of a layer")]


def legend_of_heat(text: str) -> list[tuple[np.ndarray, str]]:
    """Of [`draw_heat`]."""
    return [((HEAT(np.linspace(0, 1, 64))[:, :3] * 255).astype(np.uint8), text)]
