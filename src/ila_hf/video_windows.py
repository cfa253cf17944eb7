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
from contextlib import ExitStack
from fractions import Fraction
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from .video_reading import is_video_source, named_errors, read_video
from .video_seeking import FrameIndex, MisplacedFrameError, SeekableVideo
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

    def plan_windows(
        self, start: Fraction, window: Fraction, stride: Fraction, sampler: WindowSampler
    ) -> Iterator["_PlannedWindow"]:
        """The windows from the one that begins at `start` on, in seconds."""
        while start == 0 or start < self.duration:
            end = min(start + window, self.duration)
            frames = self.frames_between(start, start + window)
            yield _PlannedWindow(start, end, frames.start, [frames[i] for i in sampler(len(frames))])
            if end == self.duration:
                return
            start += stride


class _PlannedWindow(NamedTuple):
    """Seconds, the number of the first frame, and the numbers of the frames of the clip."""

    start: Fraction
    end: Fraction
    first: int
    numbers: list[int]

    def read(self, frames: dict[int, torch.Tensor]) -> VideoWindow:
        """The window, from frames by their numbers."""
        return VideoWindow(float(self.start), float(self.end), torch.stack([frames[i] for i in self.numbers]))


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
        limits: What opening the file, and reading each window, may cost. Default: those of [`VideoLimits`]. Where
            the file must be decoded in full, `decode_seconds` is the time to the next frame.

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
    window, stride = (Fraction(repr(float(seconds))) for seconds in (window_seconds, stride_seconds))
    with named_errors(source), _WindowReader(source, limits or VideoLimits()) as reader:
        yield from reader.windows(window, stride, sampler)


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
        self.index: FrameIndex | None = None
        self.finders = [SeekableVideo.header_index, SeekableVideo.packet_index]

    def __enter__(self) -> "_WindowReader":
        with ExitStack() as stack:
            stack.callback(self._close_video)
            if hasattr(self.source, "get_frames_at"):
                self.file, self.times = self.source, _decoder_times(self.source)
            else:
                self.file = stack.enter_context(open_source(self.source, self.limits, self._deadline()))
                self._find_frames()
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.stack.close()

    def _deadline(self) -> Deadline:
        return Deadline(self.limits.decode_seconds)

    def _open_video(self) -> SeekableVideo:
        self._close_video()
        self.video = SeekableVideo(self.file, self.limits, self._deadline())
        return self.video

    def _close_video(self) -> None:
        if self.video is not None:
            self.video.container.close()
            self.video = None

    def _find_frames(self) -> None:
        """Go on to the next way that leads to the frames: `video`, `index` and `times`."""
        while self.finders:
            video = self._open_video()
            self.index = self.finders.pop(0)(video)
            if self.index is not None:
                self.times = FrameTimes(self.index.pts, self.index.end, video.stream.time_base)
                return
        self.index, self.times = None, self._decoded_times(self._open_video())
        self._open_video()

    def windows(self, window: Fraction, stride: Fraction, sampler: WindowSampler) -> Iterator[VideoWindow]:
        """All windows; lengths in seconds."""
        start: Fraction | None = Fraction(0)
        while start is not None:
            plan = self.times.plan_windows(start, window, stride, sampler)
            start = None
            if self.video is None:
                for part in plan:
                    yield part.read(dict(zip(part.numbers, read_video(self.file, part.numbers)[0], strict=True)))
            elif self.index is None:
                yield from self._windows_in_order(self.video, plan)
            else:
                start = yield from self._windows_by_index(self.video, self.index, plan)

    def _windows_by_index(
        self, video: SeekableVideo, index: FrameIndex, plan: Iterator[_PlannedWindow]
    ) -> Generator[VideoWindow, None, Fraction | None]:
        """Returns the start of the window from which on there must be another way."""
        for part in plan:
            video.deadline = self._deadline()
            try:
                frames = video.frames_at(index, part.numbers)
            except (MisplacedFrameError, *video.damage):
                self._find_frames()
                return part.start
            yield part.read(frames)
        return None

    def _windows_in_order(self, video: SeekableVideo, plan: Iterator[_PlannedWindow]) -> Iterator[VideoWindow]:
        """Decode every frame once, and keep those of the present window and of later ones that overlap with it."""
        decoded = enumerate(self._decode(video))
        position = 0
        kept: dict[int, torch.Tensor] = {}
        waiting: deque[_PlannedWindow] = deque()
        while waiting or (waiting := deque(islice(plan, 1))):
            stop = max(waiting[0].numbers) + 1
            while waiting[-1].first < stop and (later := next(plan, None)) is not None:
                waiting.append(later)
            wanted = {number for part in waiting for number in part.numbers}
            kept = {number: frame for number, frame in kept.items() if number in wanted}
            for number, frame in islice(decoded, max(stop - position, 0)):
                if number in wanted:
                    kept[number] = video.to_tensor(frame)
            position = max(position, stop)
            yield waiting.popleft().read(kept)

    def _decode(self, video: SeekableVideo) -> Iterator[Any]:
        """All frames; the time is limited for each, as their number has no limit."""
        for frame in video.decode_in_order():
            yield frame
            video.deadline = self._deadline()

    def _decoded_times(self, video: SeekableVideo) -> FrameTimes:
        """As the frames tell when they are decoded; where they do not, from the number of frames a second."""
        stream, end = video.stream, 0
        stamps: list[int | None] = []
        for frame in self._decode(video):
            stamps.append(frame.pts)
            end = (frame.pts or 0) + (frame.duration or 0)
        if not stamps:
            raise VideoReadError("no frame of it can be decoded")
        if None not in stamps:
            times = np.array(stamps, dtype=np.int64)
            if (np.diff(times) > 0).all():
                return FrameTimes(times, end, stream.time_base)
        rate = stream.average_rate
        if not rate and stream.duration:
            rate = len(stamps) / (stream.duration * stream.time_base)
        return _even_times(len(stamps), rate)


def _decoder_times(decoder: Any) -> FrameTimes:
    return _even_times(len(decoder), decoder.metadata.average_fps)


def _even_times(num_frames: int, rate: Any) -> FrameTimes:
    """Of frames at a constant distance."""
    if not rate:
        raise VideoReadError("its frames have no time stamps")
    return FrameTimes(range(num_frames), num_frames, 1 / Fraction(rate))
