# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Read chosen frames of a video file with PyAV."""

import http.client
import io
import urllib.request
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, BinaryIO

import torch
from transformers.video_utils import VideoMetadata


VideoSource = str | PathLike | bytes | BinaryIO
URL_TIMEOUT = 60  # seconds without an answer
FrameSampler = Callable[[VideoMetadata], Sequence[int]]


class VideoReadError(ValueError):
    """A video that cannot be read; the message names it and the cause."""


def is_video_source(video: Any) -> bool:
    """Whether `video` must be read first: a path, URL, bytes, file object or torchcodec decoder, not frames."""
    is_file = isinstance(video, str | PathLike | bytes) or hasattr(video, "read")
    return is_file or hasattr(video, "get_frames_at")


def read_video(source: Any, sampler: FrameSampler | None = None) -> tuple[torch.Tensor, VideoMetadata]:
    """Read frames of a video.

    Args:
        source: Path, http(s) URL, bytes, file object, or a torchcodec `VideoDecoder`.
        sampler: Takes the metadata, returns the indices of the frames wanted, in any order, repeated or not.
            Default: all frames.

    Returns:
        Frames (T, 3, H, W), uint8 RGB, and the metadata with `frames_indices`.

    Raises:
        VideoReadError: If the source cannot be opened, holds no video or cannot be decoded.
        FileNotFoundError: If the path does not exist.
        IndexError: If the sampler asks for a frame that the video does not have.
    """
    sampler = sampler or (lambda metadata: range(metadata.total_num_frames))
    if hasattr(source, "get_frames_at"):
        return _read_decoder(source, sampler)
    name = f"<{len(source)} bytes>" if isinstance(source, bytes) else str(source)
    import av  # not needed by those who pass frames or decoders

    try:
        file = _open_source(source)
        num_frames = _count_packets(file)
        while True:
            metadata, frames = _decode(file, num_frames, sampler)
            if isinstance(frames, torch.Tensor):
                return frames, metadata
            num_frames = frames  # fewer frames than packets: sample again from those that there are
    except (av.FFmpegError, OSError, http.client.HTTPException) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise VideoReadError(f"Cannot read the video {name!r}: {error}") from error
    except VideoReadError as error:
        raise VideoReadError(f"Cannot read the video {name!r}: {error}") from error


def _read_decoder(decoder: Any, sampler: FrameSampler) -> tuple[torch.Tensor, VideoMetadata]:
    info = decoder.metadata
    metadata = VideoMetadata(
        total_num_frames=len(decoder),
        fps=info.average_fps,
        width=info.width,
        height=info.height,
        duration=info.duration_seconds,
        video_backend="torchcodec",
    )
    metadata.frames_indices = _checked(sampler(metadata), len(decoder))
    return decoder.get_frames_at(indices=metadata.frames_indices).data, metadata


def _checked(indices: Sequence[int], num_frames: int) -> list[int]:
    indices = [int(i) for i in indices]
    wrong = [i for i in indices if not 0 <= i < num_frames]
    if wrong:
        raise IndexError(f"The video has {num_frames} frames; there are no frames {wrong}.")
    return indices


def _open_source(source: VideoSource) -> Any:
    """What PyAV can open, as often as needed."""
    if isinstance(source, bytes):
        return source
    if hasattr(source, "read"):
        return source.read()
    source = str(source)
    scheme, separator, _ = source.partition("://")
    if not separator:
        return source
    if scheme not in ("http", "https"):
        raise VideoReadError(f"URLs must be http or https, not {scheme}")
    with urllib.request.urlopen(source, timeout=URL_TIMEOUT) as response:  # redirects stay on http and https
        return response.read()


def _container(file: str | bytes) -> Any:
    import av

    container = av.open(io.BytesIO(file) if isinstance(file, bytes) else file)
    if not container.streams.video:
        container.close()
        raise VideoReadError("it has no video stream")
    container.streams.video[0].thread_type = "NONE"  # loaders decode many files at once, one thread each
    return container


def _count_packets(file: str | bytes) -> int:
    """Number of frames without decoding them; what the header states may be missing or wrong."""
    with _container(file) as container:
        return sum(packet.size > 0 for packet in container.demux(container.streams.video[0]))


def _decode(file: str | bytes, num_frames: int, sampler: FrameSampler) -> tuple[VideoMetadata, torch.Tensor | int]:
    """Decode from the start up to the last frame wanted. Returns the number of frames instead if they are fewer."""
    if num_frames == 0:
        raise VideoReadError("it has no frames")
    with _container(file) as container:
        stream = container.streams.video[0]
        fps = float(stream.average_rate) if stream.average_rate else None
        metadata = VideoMetadata(
            total_num_frames=num_frames,
            fps=fps,
            width=stream.width,
            height=stream.height,
            duration=num_frames / fps if fps else None,
            video_backend="pyav",
        )
        metadata.frames_indices = _checked(sampler(metadata), num_frames)
        if not metadata.frames_indices:
            raise IndexError("The sampler chose no frames.")
        wanted, decoded = set(metadata.frames_indices), {}
        index = -1
        for index, frame in enumerate(container.decode(stream)):
            if index in wanted:
                decoded[index] = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                if len(decoded) == len(wanted):
                    frames = torch.stack([decoded[i] for i in metadata.frames_indices])
                    return metadata, frames.permute(0, 3, 1, 2)
        return metadata, index + 1
