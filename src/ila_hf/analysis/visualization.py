# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pictures of what a model makes of a clip, as in Figures 4 to 7 of the paper, and the command that writes them.

A picture has a row for each layer and a column for each frame; an animation shows the columns one after the other.
What is drawn is computed in attribution.py, which also says how layers are numbered.
"""

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from PIL import Image
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from .attribution import attribution_maps, choose_layers, layer_alignments, layer_features
from .deletion import DeletionCheck, deletion_check
from .observation import layer_number, patch_grid, predicted_class, trunk_of
from .pictures import (
    ClipPictures,
    draw_features,
    draw_heat,
    draw_points,
    frame_images,
    legend_of_features,
    legend_of_heat,
    legend_of_points,
)


PictureKind = Literal["points", "masks", "features", "attention", "cam"]

FRAMES = "frames"  # label of a row
TITLES = {
    "points": "Interactive points",
    "masks": "Alignment masks",
    "features": "Features",
    "attention": "Attention rollout from the class token up to a layer",
    "cam": "Grad-CAM",
}


class ShownClip(NamedTuple):
    """A clip as the model sees it and as people do.

    Args:
        pixel_values (1, T, 3, H, W): Normalised.
        frames (T, 3, H, W): In [0, 1].
        labels: Of the frames: their time, or, where the frame rate is not known, their number.
    """

    pixel_values: torch.Tensor
    frames: torch.Tensor
    labels: list[str]


def read_clip(model: Any, processor: Any, video: Any) -> ShownClip:
    """One clip of a video, in one crop, as the processor makes it.

    Args:
        model: Gives device and type.
        processor: An [`ILAVideoProcessor`] or [`ILAProcessor`].
        video: Anything that it takes as one video.

    Raises:
        ValueError: For several videos.
    """
    processor = getattr(processor, "video_processor", processor)
    inputs = processor(video, return_tensors="pt", num_clips=1, num_crops=1, return_metadata=True)
    pixel_values, metadata = inputs["pixel_values"], inputs["video_metadata"]
    if len(pixel_values) != 1:
        raise ValueError(f"`video` must be one video, got {len(pixel_values)}.")
    frames = pixel_values[0].float()
    if processor.do_normalize:
        mean, std = (torch.tensor(x)[:, None, None] for x in (processor.image_mean, processor.image_std))
        frames = frames * std + mean
    numbers = metadata[0].frames_indices or range(len(frames))
    rate = metadata[0].fps
    labels = [f"{number / rate:.2f} s" if rate else f"frame {number}" for number in numbers]
    return ShownClip(pixel_values.to(model.device, model.dtype), frames.clamp(0, 1), labels)


def draw_clip(
    model: Any,
    processor: Any,
    video: Any,
    kind: PictureKind = "points",
    layers: Sequence[int] | None = None,
    class_id: int | None = None,
    size: int = 160,
) -> ClipPictures:
    """Run a model on a video and draw what it makes of it.

    Args:
        model: A classification model; for all but "cam", any with a trunk.
        processor: Its [`ILAVideoProcessor`] or [`ILAProcessor`].
        video: Anything that the processor takes as one video.
        kind:
            "points": boxes around the interactive points, where the mask is at its peak, and lines from point to
            point. "masks": those by which a layer multiplies the features (Eq. 6, 7). "features": the patches that
            leave a layer, coloured by [`principal_colours`]. "attention": [`attention_rollout`] up to a layer. "cam":
            [`grad_cam`] of a layer. The colours of the last two go from the lowest to the highest value of a row.
        layers: Default: all, for "points" and "masks" all that align frames, for "cam" the last but one.
        class_id: Of "cam". Default: the class with the highest score.
        size: Height of a frame in the picture, in pixels.

    Raises:
        ValueError: For another kind, for layers that there are not, or that align no frames, and for a model that
            cannot show what is asked for.
    """
    if kind not in get_args(PictureKind):
        raise ValueError(f"`kind` must be one of {', '.join(map(repr, get_args(PictureKind)))}, got {kind!r}.")
    numbers = None if layers is None else [layer_number(model, layer) for layer in layers]
    clip = read_clip(model, processor, video)
    grid, patch_size = patch_grid(model, clip.pixel_values), trunk_of(model).config.patch_size
    # What is left over at the right and below belongs to no patch
    images = frame_images(clip.frames[..., : grid[0] * patch_size, : grid[1] * patch_size], size)
    pictures = ClipPictures(TITLES[kind], clip.labels, clip.pixel_values)
    if kind == "points":
        _add_points(pictures, model, images, numbers)
    elif kind == "features":
        _add_features(pictures, model, images, numbers)
    else:
        _add_maps(pictures, model, images, numbers, kind, class_id)
    return pictures


def _add_points(pictures: ClipPictures, model: Any, images: list[Image.Image], layers: list[int] | None) -> None:
    found = layer_alignments(model, pictures.pixel_values)
    grid, radius = patch_grid(model, pictures.pixel_values), trunk_of(model).config.mask_radius
    for layer, aligned in choose_layers(found, layers).items():
        name, points = f"layer {layer}", aligned.points[0].float().cpu()
        pictures.rows[name], pictures.lines[name] = draw_points(images, aligned.frames, points, grid, radius)
    pictures.legend = legend_of_points()


def _add_features(pictures: ClipPictures, model: Any, images: list[Image.Image], layers: list[int] | None) -> None:
    found = dict(enumerate(layer_features(model, pictures.pixel_values)))
    pictures.rows[FRAMES] = images
    for layer, features in choose_layers(found, layers).items():
        pictures.rows[f"layer {layer}"] = draw_features(features[0], images[0].size)
    pictures.legend = legend_of_features()


def _add_maps(
    pictures: ClipPictures,
    model: Any,
    images: list[Image.Image],
    layers: list[int] | None,
    kind: Literal["masks", "attention", "cam"],
    class_id: int | None,
) -> None:
    if kind == "cam" and class_id is None:
        class_id = predicted_class(model, pictures.pixel_values)
    pictures.rows[FRAMES] = images
    pictures.maps = attribution_maps(model, pictures.pixel_values, kind, layers, class_id)
    if kind == "cam":
        pictures.title += f": {model.config.id2label[class_id]}"
    peak = trunk_of(model).config.mask_peak
    scale = f"from 0 to {peak:g}" if kind == "masks" else "from the lowest to the highest value of a row"
    pictures.legend = legend_of_heat(scale)
    for layer, maps in pictures.maps.items():
        low, high = (0, peak) if kind == "masks" else (float(maps.min()), float(maps.max()))
        shown = (maps[0] - low) / (high - low or 1)
        pictures.rows[f"layer {layer}"] = [draw_heat(*pair) for pair in zip(images, shown, strict=True)]


def visualize_video(
    model: Any, processor: Any, video: Any, kind: PictureKind = "points", **options: Any
) -> Image.Image:
    """The grid of [`draw_clip`], which has the same arguments: a row for each layer, a column for each frame."""
    return draw_clip(model, processor, video, kind, **options).grid()


def find_class(model: Any, name: str) -> int:
    """The id of a class that is given by its name or its id.

    Raises:
        ValueError: If the model has no such class.
    """
    names = model.config.id2label
    ids = {label: i for i, label in names.items()}
    if name in ids:
        return int(ids[name])
    if name.isdecimal() and int(name) in names:
        return int(name)
    nearest = difflib.get_close_matches(name, ids, n=1, cutoff=0.0)
    raise ValueError(
        f"The model has no class {name!r}: give an id from 0 to {len(names) - 1} or a name; the nearest is "
        f"{nearest[0]!r}."
    )


def describe_check(check: DeletionCheck, layer: int, num_patches: int, names: dict[int, str]) -> str:
    """A deletion check of one clip, in one line."""
    name, share = names[int(check.class_ids[0])], 100 * check.hidden / num_patches
    return (
        f"Deletion check of layer {layer}: without the highlighted {share:.0f} % of the patches the score of "
        f"{name!r}, {float(check.score[0]):.2f}, falls by {float(check.drop[0]):.2f}; without as many at random by "
        f"{float(check.random_mean[0]):.2f} ± {float(check.random_std[0]):.2f} ({check.draws} draws)."
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf visualize`."""
    parser.add_argument("--model", required=True, help="folder or Hub id of an ILA model with its processor")
    parser.add_argument("--video", required=True, help="path or http(s) URL")
    parser.add_argument("--output", required=True, help="picture, or animation (.gif, .mp4), to write")
    parser.add_argument(
        "--kind",
        choices=get_args(PictureKind),
        default="points",
        help="interactive points, alignment masks, features, attention rollout or Grad-CAM",
    )
    parser.add_argument(
        "--layer",
        type=int,
        nargs="+",
        help="layers from 0, or from -1 for the last; default: all in a picture, the last one in an animation, for "
        "cam the last but one",
    )
    parser.add_argument(
        "--class",
        dest="class_name",
        metavar="CLASS",
        help="name or id, for cam and the deletion check; default: that with the highest score",
    )


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf visualize`.

    Raises:
        ValueError: If the name of the output does not end as a picture that pillow can write or an animation, for a
            class that there is not or that has no meaning for the kind; and see [`draw_clip`].
    """
    suffix = Path(arguments.output).suffix.lower()
    is_animation = suffix in (".gif", ".mp4")
    if not is_animation and Image.registered_extensions().get(suffix) not in Image.SAVE:
        raise ValueError(
            f"`output` must end as a picture or an animation does, such as .png, .gif or .mp4, got "
            f"{arguments.output!r}."
        )
    if arguments.class_name is not None and arguments.kind in ("points", "features"):
        raise ValueError(f"`class` is for masks, attention and cam; {arguments.kind} have none.")
    model = AutoModelForVideoClassification.from_pretrained(arguments.model)
    processor = AutoVideoProcessor.from_pretrained(arguments.model)
    class_id = None if arguments.class_name is None else find_class(model, arguments.class_name)
    only_one = is_animation and (arguments.layer is None or len(arguments.layer) == 1)
    pictures = draw_clip(
        model, processor, arguments.video, arguments.kind, arguments.layer, class_id, size=320 if only_one else 160
    )
    if only_one:
        pictures.keep_last_row(FRAMES)
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    pictures.save(arguments.output)
    print(f"Wrote {arguments.output}: {', '.join(pictures.rows)}.")
    for layer, maps in pictures.maps.items():
        check = deletion_check(model, pictures.pixel_values, maps, class_id)
        print(describe_check(check, layer, maps[0, 0].numel(), model.config.id2label), flush=True)
