# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pictures of what the alignment looks at."""

import argparse
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from ..modeling_ila import ILAPreTrainedModel


PREVIOUS_COLOUR, CURRENT_COLOUR = (90, 200, 255), (255, 170, 0)


def draw_interactive_points(
    frames: torch.Tensor, points: torch.Tensor, grid: tuple[int, int], size: int = 160
) -> Image.Image:
    """Draw the interactive points of one layer on the frames of a clip, side by side.

    Args:
        frames (T, 3, H, W): In [0, 1].
        points (T-1, 2, 2): Of the previous and the current frame of every pair, (x, y) in [-1, 1].
        grid: Rows and columns of patches, (h, w).
        size: Height of a frame in the picture, in pixels.

    Returns:
        The picture. Orange: the point of a frame in its pair with the frame before; blue: in that with the next.
    """
    width = round(size * frames.shape[3] / frames.shape[2])
    picture = Image.new("RGB", (width * len(frames), size))
    for t, frame in enumerate(frames):
        array = (frame.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
        image = Image.fromarray(array).resize((width, size), Image.Resampling.BICUBIC)
        draw = ImageDraw.Draw(image)
        marks = [(points[t, 0], PREVIOUS_COLOUR, size // 16)] if t < len(points) else []
        marks += [(points[t - 1, 1], CURRENT_COLOUR, size // 20)] if t > 0 else []
        for point, colour, radius in marks:
            x, y = pixel_position(point, grid, (size, width))
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, outline=(0, 0, 0), width=5)
            draw.ellipse(box, outline=colour, width=3)
        picture.paste(image, (width * t, 0))
    return picture


def pixel_position(point: torch.Tensor, grid: tuple[int, int], size: tuple[int, int]) -> tuple[float, float]:
    """Where a point lies on a frame of `size` (height, width): at ±1 are the centres of the outer patches."""
    x, y = ((coordinate + 1) / 2 for coordinate in point.tolist())
    return (x * (grid[1] - 1) + 0.5) / grid[1] * size[1], (y * (grid[0] - 1) + 0.5) / grid[0] * size[0]


@torch.no_grad()
def visualize_video(model: ILAPreTrainedModel, processor: Any, video: Any) -> Image.Image:
    """Run a model on a video and draw the points of all its layers, one row per layer that aligns.

    Args:
        model: A classification model.
        processor: Its [`ILAVideoProcessor`].
        video: Anything that the processor takes.
    """
    inputs = processor(video, return_tensors="pt").to(model.device, model.dtype)
    outputs = model.eval()(**inputs, output_alignments=True)
    mean, std = (torch.tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std))
    frames = inputs["pixel_values"][0].float().cpu() * std + mean
    if not outputs.interactive_points:
        raise ValueError("No layer of the model has interactive points: it aligns no frames.")
    grid = tuple(outputs.alignment_masks[0].shape[-2:])
    rows = [draw_interactive_points(frames, points[0].float().cpu(), grid) for points in outputs.interactive_points]
    picture = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)))
    for i, row in enumerate(rows):
        picture.paste(row, (0, i * row.height))
    return picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf visualize`."""
    parser.add_argument("--model", required=True, help="folder or Hub id of an ILA model with its processor")
    parser.add_argument("--video", required=True, help="path or http(s) URL")
    parser.add_argument("--output", required=True, help="picture to write")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf visualize`.

    Raises:
        ValueError: If the name of the picture does not end as one that pillow can write.
    """
    suffix = Path(arguments.output).suffix
    if Image.registered_extensions().get(suffix.lower()) not in Image.SAVE:
        raise ValueError(f"`output` must end as a picture does, such as .png or .jpg, got {arguments.output!r}.")
    model = AutoModelForVideoClassification.from_pretrained(arguments.model)
    picture = visualize_video(model, AutoVideoProcessor.from_pretrained(arguments.model), arguments.video)
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    picture.save(arguments.output)
    print(
        f"Wrote {arguments.output}: a row per layer; orange marks the pair with the frame before, blue with the next."
    )
