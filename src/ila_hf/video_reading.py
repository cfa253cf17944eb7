# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Read chosen frames of a video: one function, two decoders, one answer.

torchcodec decodes where it can be imported, which takes FFmpeg's libraries on the system, and where it gives the frames
that decoding from the start gives; PyAV, which brings its own FFmpeg, decodes everywhere else.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, get_args

import torch
from transformers.video_utils import VideoMetadata

from .video_seeking import FrameIndex, MisplacedFrame, SeekableVideo
from .video_sources import Deadline, VideoLimits, VideoReadError, VideoSource, open_source, source_name


VideoBackend = Literal["torchcodec", "pyav"]
FrameSampler = Callable[[VideoMetadata], Sequence[int]]

# First bytes of mp4 and mov (a box of one of these types), and of mkv and webm. In other containers (mpg, ts, avi)
# torchcodec returns frames that are not those asked for.
_ISO_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_MATROSKA = b"\x1a\x45\xdf\xa3"
# 8 bits: from more, releases of FFmpeg do not make the same RGB
_PIXEL_FORMATS = ("yuv420p", "yuvj420p", "yuv422p", "yuvj422p", "yuv444p", "yuvj444p", "gray", "rgb24", "gbrp")


@dataclass
class VideoFileMetadata(VideoMetadata):
    """What is known of a video file.

    Args:
        total_num_frames, fps, duration, width, height, video_backend, frames_indices:
            As in [`~transformers.video_utils.VideoMetadata`]; `duration` in seconds, width and height upright.
        rotation (int, defaults to 0): Degrees, counterclockwise, by which the stored frames were turned upright. A
            sampler sees 0 and the size as stored: the frames tell.
    """

    rotation: int = 0


def is_video_source(video: Any) -> bool:
    """Whether `video` must be read first: a path, URL, bytes, file object or torchcodec decoder, not frames."""
    return isinstance(video, VideoSource) or hasattr(video, "read") or hasattr(video, "get_frames_at")


@functools.cache
def torchcodec_decoder() -> Any:
    """torchcodec's `VideoDecoder`; None if it is not installed or does not find FFmpeg's libraries."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None
    return VideoDecoder


def read_video(
    source: Any,
    frames: Sequence[int] | FrameSampler | None = None,
    backend: VideoBackend | None = None,
    limits: VideoLimits | None = None,
) -> tuple[torch.Tensor, VideoFileMetadata]:
    """Read frames of a video.

    Frame i is the one that decoding from the start gives as number i; no more of the file is decoded than reaching the
    frames takes. Pixels are those stored: they are not scaled where the file says that they are not square.

    Args:
        source: Path, http(s) URL, bytes, binary file object (read from its start), or a torchcodec `VideoDecoder`.
        frames: Numbers of the frames wanted, in any order, repeated or not; or a function that takes the metadata and
            returns them, which may be called again where a file turns out to hold fewer frames than it states.
            Default: all frames.
        backend: "torchcodec" or "pyav". Default: torchcodec where it can be imported, PyAV for what it does not read.
        limits: What reading may cost. Default: those of [`VideoLimits`]. torchcodec keeps the time between frames.

    Returns:
        Frames (T, 3, H, W), uint8 RGB, upright, and the metadata with `frames_indices`.

    Raises:
        VideoReadError: If the source cannot be opened, holds no video, cannot be decoded or exceeds a limit.
        VideoNotFoundError: A VideoReadError and FileNotFoundError, if the path does not exist.
        IndexError: If a frame is asked for that the video does not have, or none.
        ValueError: For an unknown backend.
        ImportError: If torchcodec is asked for and cannot be imported.
    """
    if backend not in (None, *get_args(VideoBackend)):
        raise ValueError(f"`backend` must be one of {get_args(VideoBackend)}, got {backend!r}.")
    if backend == "torchcodec" and torchcodec_decoder() is None:
        raise ImportError("torchcodec cannot be imported: install it, and FFmpeg's libraries, or take PyAV.")
    if frames is None:
        sampler: FrameSampler = _all_frames
    elif callable(frames):
        sampler = frames
    else:
        numbers = list(frames)
        sampler = lambda metadata: numbers  # noqa: E731
    if hasattr(source, "get_frames_at"):
        return _read_decoder(source, sampler)
    limits = limits or VideoLimits()
    deadline = Deadline(limits.decode_seconds)
    with _named(source), open_source(source, limits, deadline) as (file, head):
        if backend != "pyav" and torchcodec_decoder() is not None and _suits_torchcodec(head):
            answer = _read_torchcodec(file, sampler, limits, deadline)
            if answer is not None:
                return answer
        return _read_pyav(file, sampler, limits, deadline)


def _all_frames(metadata: VideoMetadata) -> range:
    return range(metadata.total_num_frames)


@contextmanager
def _named(source: Any) -> Iterator[None]:
    """Name the source in errors; what the libraries raise for it becomes VideoReadError."""
    import av

    try:
        yield
    except (VideoReadError, av.FFmpegError, OSError, MemoryError) as error:
        kind = type(error) if isinstance(error, VideoReadError) else VideoReadError
        raise kind(f"Cannot read the video {source_name(source)!r}: {error or type(error).__name__}") from error


def _sample(sampler: FrameSampler, metadata: VideoFileMetadata) -> list[int]:
    """Frames to read, checked; the metadata keeps them."""
    indices = [int(i) for i in sampler(metadata)]
    wrong = [i for i in indices if not 0 <= i < metadata.total_num_frames]
    if wrong:
        raise IndexError(f"The video has {metadata.total_num_frames} frames; there are no frames {wrong}.")
    if not indices:
        raise IndexError("No frames are asked for: the list, or what the sampler chose, is empty.")
    metadata.frames_indices = indices
    return indices


# --------------------------------------------------------------------------------------------------------- torchcodec


def _suits_torchcodec(head: bytes) -> bool:
    return head[4:8] in _ISO_BOXES or head[:4] == _MATROSKA


def _decoder_metadata(decoder: Any) -> VideoFileMetadata:
    info = decoder.metadata
    return VideoFileMetadata(
        total_num_frames=len(decoder),
        fps=info.average_fps,
        width=info.width,
        height=info.height,
        duration=info.duration_seconds,
        video_backend="torchcodec",
        rotation=int(getattr(info, "rotation", None) or 0) % 360,
    )


def _read_decoder(decoder: Any, sampler: FrameSampler) -> tuple[torch.Tensor, VideoFileMetadata]:
    metadata = _decoder_metadata(decoder)
    return decoder.get_frames_at(indices=_sample(sampler, metadata)).data, metadata


def _read_torchcodec(
    file: str | BinaryIO, sampler: FrameSampler, limits: VideoLimits, deadline: Deadline
) -> tuple[torch.Tensor, VideoFileMetadata] | None:
    """None: let PyAV try, whose FFmpeg may be another, and which tells more of what is wrong."""
    failures = (RuntimeError, ValueError, IndexError, TypeError, StopIteration)  # of torchcodec for damaged files
    try:
        decoder = torchcodec_decoder()(file)
        metadata = _decoder_metadata(decoder)
    except failures:
        return None
    if decoder.metadata.pixel_format not in _PIXEL_FORMATS or not metadata.total_num_frames or not metadata.width:
        return None
    limits.check_size(metadata.width, metadata.height)
    indices = _sample(sampler, metadata)
    decoded = {}
    for i in sorted(set(indices)):  # one by one, for the time; it decodes on where that is cheaper
        deadline.check()
        try:
            decoded[i] = decoder.get_frame_at(i).data
        except failures:
            return None
        if decoded[i].shape[1:] != (metadata.height, metadata.width):
            return None  # the size changes in mid-stream
    return torch.stack([decoded[i] for i in indices]), metadata


# --------------------------------------------------------------------------------------------------------------- PyAV


def _read_pyav(
    file: str | BinaryIO, sampler: FrameSampler, limits: VideoLimits, deadline: Deadline
) -> tuple[torch.Tensor, VideoFileMetadata]:
    """By the header, by the packets, or from the start: the first way that leads to the frames."""
    for find in (SeekableVideo.header_index, SeekableVideo.packet_index):
        with SeekableVideo(file, limits, deadline) as video:
            index = find(video)
            if index is None:
                continue
            metadata = _pyav_metadata(video, len(index.pts), index)
            indices = _sample(sampler, metadata)
            try:
                return _stack(video, video.frames_at(index, indices), indices, metadata)
            except (MisplacedFrame, *video.damage):
                continue
    with SeekableVideo(file, limits, deadline) as video:
        num_frames = video.count_frames()
    if num_frames == 0:
        raise VideoReadError("no frame of it can be decoded")
    with SeekableVideo(file, limits, deadline) as video:
        metadata = _pyav_metadata(video, num_frames)
        indices = _sample(sampler, metadata)
        return _stack(video, video.frames_in_order(indices), indices, metadata)


def _stack(
    video: SeekableVideo, frames: dict[int, torch.Tensor], indices: list[int], metadata: VideoFileMetadata
) -> tuple[torch.Tensor, VideoFileMetadata]:
    clip = torch.stack([frames[i] for i in indices])
    metadata.rotation = video.rotation
    metadata.height, metadata.width = clip.shape[-2:]
    return clip, metadata


def _pyav_metadata(video: SeekableVideo, num_frames: int, index: FrameIndex | None = None) -> VideoFileMetadata:
    stream = video.stream
    if index is not None:
        duration = float((index.end - int(index.pts[0])) * stream.time_base)
    elif stream.duration is not None:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = float(num_frames / stream.average_rate) if stream.average_rate else None
    return VideoFileMetadata(
        total_num_frames=num_frames,
        fps=num_frames / duration if duration else None,
        width=video.size[0],
        height=video.size[1],
        duration=duration,
        video_backend="pyav",
    )
