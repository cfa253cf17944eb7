# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Clips from a window that slides over a video of any length.

A file is opened once and its time stamps are read once. Of each window only what the frames of its clip need is
decoded; where time stamps do not lead to the frames, the file is decoded twice, once for the time stamps and once for
the clips of all windows. Time grows with the length of the video; of frames, only those of the clips of windows that
overlap are in memory.
"""

import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from fractions import Fraction
from itertools import islice
from typing import Any, BinaryIO, NamedTuple

import torch

from .video_images import images_of, images_of_webp
from .video_reading import is_video_source, named_errors, read_video
from .video_seeking import FrameIndex, MisplacedFrameError, SeekableVideo, ways_to_frames
from .video_sources import Deadline, VideoLimits, VideoReadError, open_source


# Windows that overlap and are read together: for each such group the way from a key frame is decoded once
_WINDOWS_AT_ONCE = 8

# Takes how many frames a window has and returns which of them make its clip
WindowSampler = Callable[[int], Sequence[int]]


class VideoWindow(NamedTuple):
    """A clip of a window.

    Args:
        start, end: Seconds from the first frame of the video; the end of the last window is that of the video.
        frames: (T, 3, H, W), uint8 RGB.
        num_new: How many of them, the last ones, are no frames that the window before shares; see `shared_frames` of
            [`sliding_windows`].
    """

    start: float
    end: float
    frames: torch.Tensor
    num_new: int


class _PlannedWindow(NamedTuple):
    """Seconds, the number of the first frame, the numbers of the frames of the clip, and how many of them are new."""

    start: Fraction
    end: Fraction
    first: int
    numbers: list[int]
    num_new: int

    def read(self, frames: dict[int, torch.Tensor]) -> VideoWindow:
        """The window, from frames by their numbers."""
        pixels = torch.stack([frames[i] for i in self.numbers])
        return VideoWindow(float(self.start), float(self.end), pixels, self.num_new)


class _Plan(NamedTuple):
    """Length of a window and distance of two, in seconds, and what makes its clip; see [`sliding_windows`]."""

    window: Fraction
    stride: Fraction
    sampler: WindowSampler
    shared_frames: int | None

    @property
    def windows_at_once(self) -> int:
        """How many are read together."""
        return 1 if self.stride >= self.window else _WINDOWS_AT_ONCE

    def windows(self, index: FrameIndex, start: Fraction = Fraction(0)) -> Iterator[_PlannedWindow]:
        """The windows from the one that begins at `start` on."""
        unit, duration = index.unit, index.duration
        if unit is None or duration is None:
            raise VideoReadError("its frames have no time stamps")
        while start == 0 or start < duration:
            end = min(start + self.window, duration)
            if self.shared_frames is None or duration < self.window:
                frames = _frames_between(index.pts, start / unit, (start + self.window) / unit)
                numbers = [frames[i] for i in self.sampler(len(frames))]
                yield _PlannedWindow(start, end, frames.start, numbers, len(numbers))
            else:
                part = self._sharing(index, unit, start, end, self.shared_frames)
                if part.num_new <= 0:  # of a video that turns out to be shorter than the windows before it
                    return
                yield part
            if end == duration:
                return
            start += self.stride

    def _sharing(
        self, index: FrameIndex, unit: Fraction, start: Fraction, end: Fraction, num_frames: int
    ) -> _PlannedWindow:
        """The window whose clip are the frames that are shown in the middle of its parts, the last that have begun."""
        step = self.window / num_frames
        last = math.ceil(end / step)  # parts, counted from the first frame of the video
        times = [(part + Fraction(1, 2)) * step / unit for part in range(last - num_frames, last)]
        numbers = [bisect_right(index.pts, math.floor(time) + int(index.pts[0])) - 1 for time in times]
        before = math.ceil((start - self.stride + self.window) / step)
        return _PlannedWindow(start, end, numbers[0], numbers, num_frames if start == 0 else last - before)


def _frames_between(pts: Sequence[int] | Any, start: Fraction, end: Fraction) -> range:
    """Frames that begin in [start, end), in units from the first; the one shown at `start` where none begins."""
    first, last = (math.ceil(time) + int(pts[0]) for time in (start, end))
    numbers = range(bisect_left(pts, first), bisect_left(pts, last))
    if len(numbers) > 0:
        return numbers
    shown = bisect_right(pts, first) - 1
    return range(shown, shown + 1)


def sliding_windows(
    source: Any,
    sampler: WindowSampler,
    window_seconds: float,
    stride_seconds: float | None = None,
    limits: VideoLimits | None = None,
    shared_frames: int | None = None,
) -> Iterator[VideoWindow]:
    """Cut a video into windows, from its first frame on, and read a clip of each.

    A window holds the frames that begin in it, as the time stamps of the file say. The last window is the first that
    reaches the end of the video; it may be shorter.

    Args:
        source: A file, as for [`read_video`]. Frames have no time stamps.
        sampler: Takes the number of frames of a window and returns numbers from 0 on, in any order.
        window_seconds: Length of a window.
        stride_seconds: From the start of a window to that of the next. Default: `window_seconds`.
        limits: What each look for an index of the file, and reading each window, may cost. Default: those of
            [`VideoLimits`]. Where the file must be decoded in full, `decode_seconds` is the time to the next frame.
        shared_frames: T. Instead of those of `sampler`, take the frames that are shown in the middle of T equal parts
            of a window, whose length the stride must be a multiple of: windows that overlap then have frames in
            common. The last window has the last T of these frames, also if it is shorter. A video that is shorter than
            a window is left to `sampler`.

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
    window, stride = exact(window_seconds), exact(stride_seconds)
    if shared_frames is not None and not can_share(window_seconds, stride_seconds, shared_frames):
        raise ValueError(
            f"Windows share frames where the stride is a multiple of {float(window / shared_frames)} s, got "
            f"`stride_seconds` of {stride_seconds}."
        )
    plan = _Plan(window, stride, sampler, shared_frames)
    limits = limits or VideoLimits()
    deadline = Deadline(limits.decode_seconds, for_each_frame=True)
    with named_errors(source):
        if hasattr(source, "get_frames_at"):
            index = FrameIndex.of_even_frames(len(source), source.metadata.average_fps)
            for part in plan.windows(index):
                yield part.read(dict(zip(part.numbers, read_video(source, part.numbers)[0], strict=True)))
            return
        if images_of(source) is not None:
            raise VideoReadError("its frames are images, which have no time stamps")
        with open_source(source, limits, deadline) as file:
            if images_of_webp(file) is not None:
                raise VideoReadError("windows of WebP are not read: convert it, to mp4 for example")
            yield from _windows_of_file(file, plan, limits, deadline)


def exact(seconds: float) -> Fraction:
    """The number that is meant: of 0.1 a tenth, of 8 / 30 eight frames at 30 frames a second."""
    return max(Fraction(seconds).limit_denominator(10**9), Fraction(1, 10**9))


def can_share(window_seconds: float, stride_seconds: float, num_frames: int) -> bool:
    """Whether windows of T equal parts begin a whole number of parts after each other."""
    return exact(stride_seconds) * num_frames % exact(window_seconds) == 0


def check_seconds(**seconds: Any) -> None:
    """Raise ValueError for arguments that are no positive number of seconds."""
    for name, value in seconds.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"`{name}` must be a positive number of seconds, got {value!r}.")


def _windows_of_file(
    file: str | BinaryIO, plan: _Plan, limits: VideoLimits, deadline: Deadline
) -> Iterator[VideoWindow]:
    """From the window on at which one way to the frames fails, by the next."""
    start = Fraction(0)
    with closing(ways_to_frames(file, limits, deadline)) as ways:
        for video, index in ways:
            if index.keys is None:
                yield from _windows_in_order(video, plan.windows(index, start))
                return
            left = yield from _windows_by_index(video, index, plan, start)
            if left is None:
                return
            start = left


def _windows_by_index(
    video: SeekableVideo, index: FrameIndex, plan: _Plan, start: Fraction
) -> Generator[VideoWindow, None, Fraction | None]:
    """Returns the start of the window from which on there must be another way."""
    planned = plan.windows(index, start)
    frames: dict[int, torch.Tensor] = {}
    while parts := list(islice(planned, plan.windows_at_once)):
        video.deadline.restart()
        wanted = {number for part in parts for number in part.numbers}
        frames = {number: frame for number, frame in frames.items() if number in wanted}
        try:
            frames |= video.frames_at(index, wanted - frames.keys())
        except (MisplacedFrameError, *video.damage):
            return parts[0].start
        for part in parts:
            yield part.read(frames)
    return None


def _windows_in_order(video: SeekableVideo, planned: Iterator[_PlannedWindow]) -> Iterator[VideoWindow]:
    """Decode every frame once, and keep those of the present window and of later ones that overlap with it."""
    decoded = enumerate(video.decode_in_order())
    position = 0
    kept: dict[int, torch.Tensor] = {}
    waiting: deque[_PlannedWindow] = deque()
    while waiting or (waiting := deque(islice(planned, 1))):
        stop = max(waiting[0].numbers) + 1
        while waiting[-1].first < stop and (later := next(planned, None)) is not None:
            waiting.append(later)
        wanted = {number for part in waiting for number in part.numbers}
        kept = {number: frame for number, frame in kept.items() if number in wanted}
        for number, frame in islice(decoded, max(stop - position, 0)):
            if number in wanted:
                kept[number] = video.to_tensor(frame)
        position = max(position, stop)
        yield waiting.popleft().read(kept)
