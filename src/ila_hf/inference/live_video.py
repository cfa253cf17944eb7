# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Frames as they come: of a camera, an address, a file or an iterable, at a chosen rate, with their times."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..video_images import images_of_webp, pixels_of
from ..video_reading import is_video_source, named_errors
from ..video_seeking import Orientation, SeekableVideo
from ..video_sources import Deadline, VideoLimits, VideoReadError, is_url, open_source


# Seconds until a camera or an address must have opened, and until its next frame must have come
TIMEOUT = 20.0
# Seconds to wait for the frame that is being read when nobody wants it any more
_LAST = 2.0
# Addresses that are read to the end of a file, as fast as it comes; all others are live
_FILE_SCHEMES = ("http", "https", "hf", "file")
_PLAYLISTS = (".m3u8", ".mpd")


class LiveFrame(NamedTuple):
    """A frame of a live video.

    Args:
        time: Seconds from the first frame.
        pixels: (3, H, W), uint8 RGB.
        dropped: How many frames were lost between the one before and this, because the consumer was late.
    """

    time: float
    pixels: torch.Tensor
    dropped: int = 0


def is_live(source: Any) -> bool:
    """Whether frames of a source come by themselves: it is a camera, or the address of a stream or a playlist.

    Of an http:// address that is neither, only who gives it knows; `drop_late` says so.
    """
    if is_url(source):
        scheme, _, rest = str(source).partition("://")
        return scheme.lower() not in _FILE_SCHEMES or rest.partition("?")[0].lower().endswith(_PLAYLISTS)
    return isinstance(source, str | PathLike) and str(source).startswith("/dev/") and not Path(source).is_file()


def live_frames(
    source: Any,
    frames_per_second: float | None = None,
    drop_late: bool | None = None,
    input_format: str | None = None,
    source_fps: float | None = None,
) -> Generator[LiveFrame, None, None]:
    """The frames of a source, in their order, as they come.

    Args:
        source: A camera ("/dev/video0"), an address (rtsp://, http://, ... or a playlist), a file as for
            [`read_video`], or an iterable of frames: arrays or tensors (H, W, 3) or (3, H, W), uint8, or PIL images.
        frames_per_second: Of the frames that come, take the first at or after every such part of a second. Default:
            all.
        drop_late: When the consumer takes longer than frames do to come, it gets the newest next, and is told how many
            it has missed. Default: for cameras and live addresses; of files, every frame waits its turn.
        input_format: As FFmpeg calls it, of a camera whose name does not tell: "v4l2", "avfoundation", "dshow".
        source_fps: Of an iterable, frame i comes at i / source_fps. Default: when it comes.

    Raises:
        VideoReadError: If the source cannot be opened, is no video, or stops to send; the message names it.
        ValueError: For rates that are not positive and for what is no frame.
    """
    for name, value in {"frames_per_second": frames_per_second, "source_fps": source_fps}.items():
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"`{name}` must be a positive number, got {value!r}.")
    opened: Iterator[tuple[float, Callable[[], torch.Tensor]]]
    live = input_format is not None or is_live(source)
    if live or (is_url(source) and not str(source).startswith("hf://")):
        opened = _of_address(source, input_format)
    elif is_video_source(source) and not isinstance(source, list | tuple):
        opened = _of_file(source)
    elif isinstance(source, Iterable):
        opened = _of_iterable(source, source_fps)
    else:
        raise ValueError(
            f"`source` must be a camera, an address, a file or an iterable of frames, got {type(source).__name__}."
        )
    frames = _at_rate(opened, frames_per_second)
    return _newest(frames) if (live if drop_late is None else drop_late) else frames


def _at_rate(
    frames: Iterator[tuple[float, Callable[[], torch.Tensor]]], rate: float | None
) -> Generator[LiveFrame, None, None]:
    """The first frame of every part of a second; a pause in the source is none in the counting of parts."""
    part = None
    for seconds, to_pixels in frames:
        # Times are rounded to the ticks of a file: three tenths may be a little less
        current = None if rate is None else int(seconds * rate + 1e-6)
        if current is None or current != part:
            part = current
            yield LiveFrame(seconds, to_pixels())


def _of_file(source: Any) -> Iterator[tuple[float, Callable[[], torch.Tensor]]]:
    """Every frame of a file, by the times of its container, or as many a second as that says."""
    limits = VideoLimits()
    deadline = Deadline(limits.decode_seconds, for_each_frame=True)
    with named_errors(source), open_source(source, limits, deadline) as file:
        if images_of_webp(file) is not None:
            raise VideoReadError("WebP is not streamed: convert it, to mp4 for example")
        with SeekableVideo(file, limits, deadline) as video:
            yield from _decoded(video.decode_in_order(), video.stream, video.to_tensor)


def _of_address(source: Any, input_format: str | None) -> Iterator[tuple[float, Callable[[], torch.Tensor]]]:
    """Every frame that FFmpeg gets from a camera or an address."""
    import av

    if input_format is None and not is_url(source):
        input_format = "v4l2"
    opening: dict[str, Any] = {"format": input_format, "timeout": TIMEOUT, "metadata_errors": "replace"}
    with named_errors(source), av.open(str(source), **opening) as container:
        if not container.streams.video:
            raise VideoReadError("it has no video stream")
        stream = container.streams.video[0]
        VideoLimits().check_size(stream.width, stream.height)

        orientation = Orientation()

        def to_pixels(frame: Any) -> torch.Tensor:
            nonlocal orientation
            if orientation == Orientation():  # not every frame tells it
                orientation = Orientation.of_frame(frame)
            pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
            return orientation.applied_to(pixels).permute(2, 0, 1)

        yield from _decoded(_past_damage(container, stream), stream, to_pixels)


def _past_damage(container: Any, stream: Any) -> Iterator[Any]:
    """The frames of a stream; what of it cannot be decoded is passed over."""
    import av

    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            continue
        yield from frames


def _decoded(
    frames: Iterable[Any], stream: Any, to_pixels: Callable[[Any], torch.Tensor]
) -> Iterator[tuple[float, Callable[[], torch.Tensor]]]:
    start, last = None, -1.0
    step = float(1 / stream.average_rate) if stream.average_rate else 0.04
    for frame in frames:
        if frame.pts is None:
            seconds = last + step if start is not None else 0.0
        else:
            seconds = float(frame.pts * stream.time_base)
        start = seconds if start is None else start
        # A stream that was cut together may go back in time; what is shown later is later
        last = seconds - start if seconds - start > last else max(last, 0.0) + step
        yield last, partial(to_pixels, frame)
    if start is None:
        raise VideoReadError("no frame of it can be decoded")


def _of_iterable(frames: Iterable[Any], fps: float | None) -> Iterator[tuple[float, Callable[[], torch.Tensor]]]:
    start = None
    for number, frame in enumerate(frames):
        now = time.monotonic()
        start = now if start is None else start
        yield now - start if fps is None else number / fps, partial(to_frame, frame)


def to_frame(frame: Any) -> torch.Tensor:
    """(3, H, W), uint8, of an array or tensor (H, W, 3) or (3, H, W), or of a PIL image.

    Raises:
        ValueError: For another shape or type.
    """
    if not hasattr(frame, "getbands") and not hasattr(frame, "ndim"):
        raise ValueError(f"A frame must be an array, a tensor or a PIL image, got {type(frame).__name__}.")
    # A copy: who took it may fill the same array with the next, and torch takes no view in reverse order
    pixels = torch.as_tensor(pixels_of(frame) if hasattr(frame, "getbands") else np.array(frame, order="C"))
    if pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.shape[0] != 3:
        pixels = pixels.permute(2, 0, 1)
    if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != torch.uint8:
        raise ValueError(
            f"A frame must be (H, W, 3) or (3, H, W), uint8, or a PIL image; got {tuple(pixels.shape)} of "
            f"{pixels.dtype}."
        )
    return pixels


def _newest(frames: Generator[LiveFrame, None, None]) -> Generator[LiveFrame, None, None]:
    """Frames read in a thread; the newest waits, and those that it replaces are counted."""
    condition = threading.Condition()
    waiting: list[LiveFrame] = []
    ends: list[BaseException | None] = []  # once: with the error that ended it, or None
    stopped = threading.Event()

    def read() -> None:
        error = None
        try:
            with closing(frames):
                for frame in frames:
                    with condition:
                        lost = waiting.pop().dropped + 1 if waiting else 0
                        waiting.append(frame._replace(dropped=lost))
                        condition.notify()
                    if stopped.is_set():
                        return
        except BaseException as raised:  # handed over, to be raised below
            error = raised
        finally:
            with condition:
                ends.append(error)
                condition.notify()

    # A camera that hangs must not keep the program from ending
    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        while True:
            with condition:
                condition.wait_for(lambda: waiting or ends)
                frame = waiting.pop() if waiting else None
            if frame is not None:
                yield frame
            elif ends[0] is not None:
                raise ends[0]
            else:
                return
    finally:
        stopped.set()
        reader.join(_LAST)  # so that the device is free again
