# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Clips from a window that slides over a video of any length.

A file is opened once, its time stamps are read once, and of each window only the frames of its clip are decoded: time
grows with the number of windows, memory does not grow.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
import torch

from .video_reading import is_video_source, named_errors, read_video
from .video_seeking import MisplacedFrameError, SeekableVideo
from .video_sources import Deadline, VideoLimits, VideoReadError, open_source


# Takes how many frames a window has and returns which of them make its clip
WindowSampler = Callable[[int], Sequence[int]]


class VideoWindow(NamedTuple):
    """A clip of a window.

    Args:
        start, end: Seconds from the first frame of the video; the end of the last window is that of the video.
        frames: (T, 3, H, W), uint8 RGB.
    """

    start: float
    end: float
    frames: torch.Tensor


class FrameTimes(NamedTuple):
    """When the frames of a video are shown: time stamps, the end of the last frame, and the unit, in seconds."""

    stamps: range | np.ndarray
    end: int
    unit: Fraction

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame to the end of the last."""
        return (self.end - int(self.stamps[0])) * self.unit

    def frames_between(self, start: Fraction, end: Fraction) -> range:
        """Frames that begin in [start, end), in seconds; the one shown at `start` where none begins."""
        first, last = (math.ceil(second / self.unit) + int(self.stamps[0]) for second in (start, end))
        numbers = range(bisect_left(self.stamps, first), bisect_left(self.stamps, last))
        if len(numbers) > 0:
            return numbers
        shown = bisect_right(self.stamps, first) - 1
        return range(shown, shown + 1)


def sliding_windows(
    source: Any,
    sampler: WindowSampler,
    window_seconds: float,
    stride_seconds: float | None = None,
    limits: VideoLimits | None = None,
) -> Iterator[VideoWindow]:
    """Cut a video into windows, from its first frame on, and read a clip of each.

    A window holds the frames that begin in it, as the time stamps of the file say. The last window is the first that
    reaches the end of the video; it may be shorter.

    Args:
        source: A file, as for [`read_video`]. Frames have no time stamps.
        sampler: Takes the number of frames of a window and returns numbers from 0 on, in any order.
        window_seconds: Length of a window.
        stride_seconds: From the start of a window to that of the next. Default: `window_seconds`.
        limits: What opening the file, and reading each window, may cost. Default: those of [`VideoLimits`].

    Raises:
        VideoReadError: If the source cannot be read, or has no time stamps.
        ValueError: For frames instead of a file, and for lengths that are not positive.
    """
    stride_seconds = window_seconds if stride_seconds is None else stride_seconds
    check_seconds(window_seconds=window_seconds, stride_seconds=stride_seconds)
    if not is_video_source(source):
        raise ValueError(
            f"`window_seconds` needs a file: a path, URL or bytes. Got {type(source).__name__}, whose frames have no "
            "time stamps."
        )
    # As they are written, in decimals: a window of 0.1 s at 10 frames a second holds one frame
    window, stride = (Fraction(repr(seconds)) for seconds in (window_seconds, stride_seconds))
    with named_errors(source), _WindowReader(source, limits or VideoLimits()) as reader:
        start = Fraction(0)
        while start == 0 or start < reader.times.duration:
            frames = reader.read(start, start + window, sampler)
            end = min(start + window, reader.times.duration)
            yield VideoWindow(float(start), float(end), frames)
            if end == reader.times.duration:
                return
            start += stride


def check_seconds(**seconds: Any) -> None:
    """Raise ValueError for arguments that are no positive number of seconds."""
    for name, value in seconds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be a positive number of seconds, got {value!r}.")


class _WindowReader:
    """Reads from one open file, as [`read_video`] does: by the header, by the packets, or from the start."""

    def __init__(self, source: Any, limits: VideoLimits):
        self.source, self.limits = source, limits
        self.video: SeekableVideo | None = None
        self.finders = [SeekableVideo.header_index, SeekableVideo.packet_index]

    def __enter__(self) -> "_WindowReader":
        with ExitStack() as stack:
            stack.callback(self._close_video)
            if hasattr(self.source, "get_frames_at"):
                self.file, self.finders = self.source, []
            else:
                deadline = Deadline(self.limits.decode_seconds)
                self.file = stack.enter_context(open_source(self.source, self.limits, deadline))
            self._find_frames()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stack.close()

    def _close_video(self) -> None:
        if self.video is not None:
            self.video.container.close()
            self.video = None

    def _find_frames(self) -> None:
        """Go on to the next way that leads to the frames: `video`, `index` and `times`."""
        while self.finders:
            self._close_video()
            self.video = SeekableVideo(self.file, self.limits, Deadline(self.limits.decode_seconds))
            index = self.finders.pop(0)(self.video)
            if index is not None:
                self.index = index
                self.times = FrameTimes(index.pts, index.end, self.video.stream.time_base)
                return
        self._close_video()
        metadata = read_video(self.file, [0], limits=self.limits)[1]
        if not metadata.fps:
            raise VideoReadError("its frames have no time stamps")
        number = metadata.total_num_frames
        self.times = FrameTimes(range(number), number, 1 / Fraction(metadata.fps))

    def read(self, start: Fraction, end: Fraction, sampler: WindowSampler) -> torch.Tensor:
        """The clip (T, 3, H, W) of a window."""
        while True:
            window = self.times.frames_between(start, end)
            numbers = [window[i] for i in sampler(len(window))]
            if self.video is None:
                return read_video(self.file, numbers, limits=self.limits)[0]
            self.video.deadline = Deadline(self.limits.decode_seconds)
            try:
                frames = self.video.frames_at(self.index, numbers)
                return torch.stack([frames[number] for number in numbers])
            except (MisplacedFrameError, *self.video.damage):
                self._find_frames()
