# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Read chosen frames of a video: one function, two decoders, one answer.

torchcodec decodes VP9 and AV1 where it can be imported, which takes FFmpeg's libraries on the system, and where it
gives the frames that decoding from the start gives; PyAV, with its own FFmpeg, everything else.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from os import PathLike
from typing import Any, BinaryIO, Literal, get_args

import torch
from transformers.video_utils import VideoMetadata

from .video_seeking import FrameIndex, MisplacedFrameError, SeekableVideo
from .video_sources import Deadline, VideoLimits, VideoReadError, open_source, source_name


VideoBackend = Literal["torchcodec", "pyav"]
FrameSampler = Callable[[VideoMetadata], Sequence[int]]

# In other containers (mpg, ts, avi) torchcodec returns frames that are not those asked for
_CONTAINERS = {"mp4", "matroska"}
# Not VP8, whose packets may hold frames that are not shown: torchcodec counts those
_CODECS = ("h264", "hevc", "vp9", "av1")
# What it decodes without being asked for. Of H.264 and HEVC we have PyAV decode only what other frames refer to, in
# two thirds to four fifths of torchcodec's time; of VP9 and AV1 the two differ less (benchmarks/read_videos.py)
_PREFERRED_CODECS = ("vp9", "av1")
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
    return isinstance(video, str | PathLike | bytes) or hasattr(video, "read") or hasattr(video, "get_frames_at")


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
    frames takes. Of a damaged file, frames that are lost may count or not. Pixels are those stored: they are not
    scaled where the file says that they are not square.

    Args:
        source: Path, http(s) URL, bytes, binary file object (read from its start), or a torchcodec `VideoDecoder`.
        frames: Numbers of the frames wanted, in any order, repeated or not; or a function that takes the metadata and
            returns them, which may be called again where a file turns out to hold fewer frames than it states.
            Default: all frames.
        backend: "pyav", or "torchcodec", which leaves to PyAV what it does not read exactly. Default: torchcodec
            for VP9 and AV1, if it can be imported, PyAV for the rest.
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
    sampler = _chosen_once(sampler)
    if hasattr(source, "get_frames_at"):
        return _read_decoder(source, sampler)
    limits = limits or VideoLimits()
    deadline = Deadline(limits.decode_seconds)
    with named_errors(source), open_source(source, limits, deadline) as file:
        codecs = {"pyav": (), "torchcodec": _CODECS}.get(backend or "", _PREFERRED_CODECS)
        return _read_file(file, sampler, codecs, limits, deadline)


def _chosen_once(sampler: FrameSampler) -> FrameSampler:
    """A sampler that is asked once for each number of frames, so that it draws at random no more often."""
    chosen: dict[int, Sequence[int]] = {}

    def sample(metadata: VideoMetadata) -> Sequence[int]:
        if metadata.total_num_frames not in chosen:
            chosen[metadata.total_num_frames] = sampler(metadata)
        return chosen[metadata.total_num_frames]

    return sample


def _all_frames(metadata: VideoMetadata) -> range:
    return range(metadata.total_num_frames)


@contextmanager
def named_errors(source: Any) -> Iterator[None]:
    """Name the source in errors; what the libraries raise for it becomes VideoReadError."""
    import av

    # Looked up before: a generator that is closed when the interpreter exits finds the modules emptied
    errors = (VideoReadError, av.FFmpegError, OSError, MemoryError)
    try:
        yield
    except errors as error:
        kind = type(error) if isinstance(error, VideoReadError) else VideoReadError
        cause = (isinstance(error, av.FFmpegError) and error.strerror) or str(error) or type(error).__name__
        raise kind(f"Cannot read the video {source_name(source)!r}: {cause}") from error


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


def _read_decoder(decoder: Any, sampler: FrameSampler) -> tuple[torch.Tensor, VideoFileMetadata]:
    info = decoder.metadata
    metadata = VideoFileMetadata(
        total_num_frames=len(decoder),
        fps=info.average_fps,
        width=info.width,
        height=info.height,
        duration=info.duration_seconds,
        video_backend="torchcodec",
        rotation=round(getattr(info, "rotation", None) or 0) % 360,
    )
    return decoder.get_frames_at(indices=_sample(sampler, metadata)).data, metadata


def _read_file(
    file: str | BinaryIO, sampler: FrameSampler, codecs: Sequence[str], limits: VideoLimits, deadline: Deadline
) -> tuple[torch.Tensor, VideoFileMetadata]:
    """By the header, by the packets, or from the start: the first way that leads to the frames."""
    for find in (SeekableVideo.header_index, SeekableVideo.packet_index):
        with SeekableVideo(file, limits, deadline) as video:
            index = find(video)
            if index is None:
                continue
            metadata = _metadata(video, len(index.pts), index)
            indices = _sample(sampler, metadata)
            try:
                if video.codec in codecs and _suits_torchcodec(video, index, indices):
                    decoded = _torchcodec_frames(file, video, index, indices)
                    if decoded is None:  # it has moved the position in the file
                        return _read_file(file, sampler, (), limits, deadline)
                    metadata.video_backend = "torchcodec"
                    return _clip(decoded, video, metadata)
                return _clip(video.frames_at(index, indices), video, metadata)
            except (MisplacedFrameError, *video.damage):
                continue
    with SeekableVideo(file, limits, deadline) as video:
        num_frames = video.count_frames()
    if num_frames == 0:
        raise VideoReadError("no frame of it can be decoded")
    with SeekableVideo(file, limits, deadline) as video:
        metadata = _metadata(video, num_frames)
        return _clip(video.frames_in_order(_sample(sampler, metadata)), video, metadata)


def _metadata(video: SeekableVideo, num_frames: int, index: FrameIndex | None = None) -> VideoFileMetadata:
    stream = video.stream
    duration: Fraction | None  # in seconds; exact, so that 25 frames a second are 25
    if index is not None:
        duration = (index.end - int(index.pts[0])) * stream.time_base
    elif stream.average_rate:
        duration = num_frames / stream.average_rate
    else:
        duration = None if stream.duration is None else stream.duration * stream.time_base
    return VideoFileMetadata(
        total_num_frames=num_frames,
        fps=float(num_frames / duration) if duration else None,
        width=video.size[0],
        height=video.size[1],
        duration=None if duration is None else float(duration),
        video_backend="pyav",
    )


def _clip(
    frames: dict[int, torch.Tensor], video: SeekableVideo, metadata: VideoFileMetadata
) -> tuple[torch.Tensor, VideoFileMetadata]:
    clip = torch.stack([frames[i] for i in metadata.frames_indices or []])
    metadata.rotation = video.rotation
    metadata.height, metadata.width = clip.shape[-2:]
    return clip, metadata


def _suits_torchcodec(video: SeekableVideo, index: FrameIndex, indices: Sequence[int]) -> bool:
    context = video.stream.codec_context
    if torchcodec_decoder() is None or _CONTAINERS.isdisjoint(video.container.format.name.split(",")):
        return False
    if context.pix_fmt not in _PIXEL_FORMATS:
        return False
    video.check_runs(index, indices)  # what raises an error here, torchcodec would not notice
    return True


def _torchcodec_frames(
    file: str | BinaryIO, video: SeekableVideo, index: FrameIndex, indices: Sequence[int]
) -> dict[int, torch.Tensor] | None:
    """None: let PyAV try, whose FFmpeg may be another, and which passes over what is damaged."""
    # Where the header tells the time stamps, no pass over the packets is needed
    seek_mode = "approximate" if isinstance(index.pts, range) else "exact"
    time_base = video.stream.time_base
    try:
        # Releases of FFmpeg differ in the colours of interlaced and of scaled frames
        key = max(number for number in index.keys if number <= min(indices))
        reference = video.frames_at(index, [key])[key]
        if not isinstance(file, str):
            file.seek(0)
        decoder = torchcodec_decoder()(file, stream_index=video.stream.index, seek_mode=seek_mode)
        if video.is_interlaced or not torch.equal(decoder.get_frame_at(key).data, reference):
            return None
        frames = {}
        for i in sorted(set(indices)):  # one by one, for the time; it decodes on where that is cheaper
            video.deadline.check()
            frame = decoder.get_frame_at(i)
            if round(frame.pts_seconds / time_base) != index.pts[i]:
                return None
            frames[i] = frame.data
        video.rotation = round(getattr(decoder.metadata, "rotation", None) or 0) % 360
    except (RuntimeError, ValueError, IndexError, TypeError, StopIteration):  # what it raises for damaged files
        return None
    size = video.size if video.rotation % 180 == 0 else video.size[::-1]
    if any(frame.shape[1:] != size[::-1] for frame in frames.values()):
        return None  # the size changes in mid-stream
    return frames
