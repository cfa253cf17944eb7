# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Frames that are images: files of one frame each, in a list or in a folder, and animated WebP. Pillow reads them."""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from io import BytesIO
from itertools import groupby
from pathlib import Path, PurePath
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers.utils import logging

from .video_sources import Deadline, VideoLimits, VideoReadError, VideoSource, is_url, open_source, source_name


IMAGE_SUFFIXES = (".bmp", ".jfif", ".jpe", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff")

# Of `IMAGE_SUFFIXES`, and WebP: Pillow takes videos of MPEG for images, too
_STILL_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

logger = logging.get_logger(__name__)

# What Pillow raises for files that are damaged, and for those that are too large
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)

# A file, and which of its images
ImageFrame = tuple[VideoSource, int]


def is_image_file(source: Any) -> bool:
    """Whether a path or URL is called as an image is; what is in it is not looked at."""
    if not isinstance(source, str | os.PathLike):
        return False
    path = re.split(r"[?#]", source)[0] if isinstance(source, str) and is_url(source) else os.fspath(source)
    return PurePath(path).suffix.lower() in IMAGE_SUFFIXES


def _is_frame(source: Any) -> bool:
    """Whether an entry of a list is an image, by the name of a path or URL; of bytes, by content, and of a .webp."""
    if isinstance(source, dict):
        return _is_frame(source.get("path") if source.get("bytes") is None else source["bytes"])
    if is_image_file(source):
        return True
    is_webp = isinstance(source, str | os.PathLike) and os.fspath(source).lower().endswith(".webp")
    if not isinstance(source, bytes) and not (is_webp and os.path.isfile(source)):
        return False
    try:
        with Image.open(BytesIO(source) if isinstance(source, bytes) else source, formats=_STILL_FORMATS) as image:
            if image.format == "JPEG":  # images one after the other are a video
                return not isinstance(source, bytes) or b"\xff\xd9\xff\xd8" not in source
            # MPO, which telephones write as .jpg: views of one scene
            return image.format == "MPO" or getattr(image, "n_frames", 1) == 1
    except _DAMAGE:
        return False


def is_sequence(files: Sequence[Path]) -> bool:
    """Whether the names of images differ in the number at their end only, as those of the frames of a video do."""
    numbered = [re.fullmatch(r"(.*?)\d+", file.stem) for file in files]
    return all(numbered) and len({match[1] for match in numbered if match}) == 1


def images_of(source: Any) -> list[ImageFrame] | None:
    """The frames of a list of images, in its order, or of a folder of them, by the numbers in their names.

    Images of a list are paths, URLs, bytes, or dicts of them.

    None for other sources.

    Raises:
        VideoReadError: For a folder without images.
    """
    if isinstance(source, list | tuple) and source and all(map(_is_frame, source)):
        return [(file, 0) for file in source]
    if isinstance(source, str | os.PathLike) and os.path.isdir(source):
        files = [file for file in Path(source).iterdir() if is_image_file(file) and not file.name.startswith(".")]
        if not files:
            raise VideoReadError("it is a folder without images")
        if not is_sequence(files):
            raise VideoReadError("its images are not the frames of one video, whose names differ in a number only")
        return [(file, 0) for file in sorted(files, key=_by_numbers)]
    return None


def _by_numbers(file: Path) -> list[Any]:
    """Puts frame_9 before frame_10."""
    parts = re.split(r"(\d+)", file.name)
    return [int(part) if i % 2 else part for i, part in enumerate(parts)]


def images_of_webp(file: str | BinaryIO) -> list[ImageFrame] | None:
    """The frames of an animated WebP, which FFmpeg does not read; None for other files."""
    with open(file, "rb") if isinstance(file, str) else nullcontext(file) as content:
        content.seek(0)
        head = content.read(12)
        content.seek(0)
        if head[:4] != b"RIFF" or head[8:] != b"WEBP":
            return None
        with _damage_named(file), Image.open(content) as image:
            return [(file, number) for number in range(getattr(image, "n_frames", 1))]


def read_images(
    frames: Sequence[ImageFrame], numbers: Sequence[int], limits: VideoLimits, deadline: Deadline
) -> torch.Tensor:
    """The frames with some numbers, (T, 3, H, W), uint8, upright.

    Raises:
        VideoReadError: For a file that is no image, and for images of several sizes.
    """
    clip: dict[int, torch.Tensor] = {}
    for file, group in groupby(sorted(set(numbers)), key=lambda number: frames[number][0]):
        with _damage_named(file), open_source(file, limits, deadline) as content, Image.open(content) as image:
            limits.check_size(*image.size)
            for number in group:
                deadline.check()
                image.seek(frames[number][1])
                stored = pixels_of(ImageOps.exif_transpose(image))
                if image.format == "PNG" and stored.dtype == np.int32:  # older versions of Pillow give 16 bits so
                    stored = stored.astype(np.uint16)
                pixels = in_eight_bits(stored, "The image")
                if image.mode == "F" and not (float(pixels.min()) >= 0 and 1 < float(pixels.max()) <= 255):
                    raise VideoReadError("it has floating point values, which must be 0 to 255")
                clip[number] = pixels.round().to(torch.uint8).expand(-1, -1, 3).permute(2, 0, 1)
    sizes = sorted({tuple(frame.shape[1:]) for frame in clip.values()})
    if len(sizes) > 1:
        raise VideoReadError(f"its images have several sizes (height, width): {sizes}")
    return torch.stack([clip[number] for number in numbers])


@contextmanager
def _damage_named(file: Any) -> Iterator[None]:
    try:
        yield
    except VideoReadError as error:
        raise type(error)(f"{source_name(file)!r}: {error}") from error
    except _DAMAGE as error:
        raise VideoReadError(f"{source_name(file)!r} cannot be read as an image: {error}") from error


def pixels_of(image: Image.Image) -> np.ndarray:
    """(H, W, 3), or (H, W, 1) of the modes with more than 8 bits, which Pillow would cut off."""
    is_deep = image.mode in ("I", "F") or image.mode.startswith("I;16")
    return np.asarray(image)[..., None] if is_deep else np.asarray(image.convert("RGB"))


def in_eight_bits(frames: np.ndarray | torch.Tensor, name: str) -> torch.Tensor:
    """Frames of any data type with values in [0, 255], as those of uint8; floating point is taken to be so.

    Raises:
        ValueError: For whole numbers beyond, for values that are not finite, and for other data types; `name` begins
            the message.
    """
    if isinstance(frames, np.ndarray):
        if frames.dtype.kind not in "uif" or frames.dtype.itemsize > 8:
            raise ValueError(f"{name} is of the type {frames.dtype}: frames are whole numbers or floats.")
        # Tensors have neither another byte order nor negative strides, and warn of memory that is read-only
        frames = np.require(frames, frames.dtype.newbyteorder("="), ["C", "W"])
    video = torch.as_tensor(frames)
    if video.dtype in (torch.bool, torch.complex32, torch.complex64, torch.complex128):
        raise ValueError(f"{name} is of the type {video.dtype}: frames are whole numbers or floats.")
    if video.dtype == torch.uint16:
        video = video.to(torch.float32) / 257
        if 0 < float(video.max()) < 1:
            logger.warning_once("Frames of uint16 reach from 0 to 65535; these reach to 255 at most and are black.")
        return video
    if video.is_floating_point() and not video.isfinite().all():
        raise ValueError(f"{name} has values that are not finite.")
    if video.dtype == torch.uint8 or video.is_floating_point():
        return video
    lowest, highest = int(video.to(torch.int64).min()), int(video.to(torch.int64).max())
    if lowest < 0 or highest > 255:
        raise ValueError(
            f"{name} has values from {lowest} to {highest}, of the type {video.dtype}: whole numbers are 0 to 255, or "
            "0 to 65535 as uint16."
        )
    return video.to(torch.uint8)
