# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Read chosen frames of a video with PyAV, which brings its own FFmpeg: one function, one answer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from os import PathLike
from typing import Any, BinaryIO

import torch
from transformers.utils import logging
from transformers.video_utils import VideoMetadata

from .video_images import ImageFrame, images_of, images_of_webp, read_images
from .video_seeking import MisplacedFrameError, ways_to_frames
from .video_sources import Deadline, VideoLimits, VideoReadError, open_source, source_name


logger = logging.get_logger(__name__)

FrameSampler = Callable[[VideoMetadata], Sequence[int]]


@dataclass
class VideoFileMetadata(VideoMetadata):
    """What is known of a video file.

    Args:
        total_num_frames, fps, duration, width, height, video_backend, frames_indices:
            As in [`~transformers.video_utils.VideoMetadata`]; `duration` in seconds, width and height upright.
        rotation (int, defaults to 0): Degrees, counterclockwise, by which the stored frames were turned upright. A
            sampler sees 0 and the size as stored: the frames tell.
        mirrored (bool, defaults to False): Whether they were then mirrored, left to right.
    """

    rotation: int = 0
    mirrored: bool = False


def is_video_source(video: Any) -> bool:
    """Whether `video` must be read first: a source of [`read_video`], not frames."""
    is_list_of_images = isinstance(video, list | tuple) and images_of(video) is not None
    is_file = isinstance(video, str | PathLike | bytes | dict) or hasattr(video, "read")
    return is_file or hasattr(video, "get_frames_at") or is_list_of_images


def read_video(
    source: Any, frames: Sequence[int] | FrameSampler | None = None, limits: VideoLimits | None = None
) -> tuple[torch.Tensor, VideoFileMetadata]:
    """Read frames of a video.

    Frame i is the one that decoding from the start gives as number i; no more of the file is decoded than reaching the
    frames takes. Of a damaged file, frames that are lost may count or not. Pixels are those stored: they are not
    scaled where the file says that they are not square.

    Args:
        source: Path, http(s) URL, file of the Hub (hf://), bytes, binary file object (read from its start), a dict of
            `path` or `bytes` (a row of `datasets.Video(decode=False)`), or a torchcodec `VideoDecoder`. The frames of
            a folder of images, and of a list of images (paths, URLs, bytes, or dicts of them), are one video.
        frames: Numbers of the frames wanted, in any order, repeated or not; or a function that takes the metadata and
            returns them, which may be called again where a file turns out to hold fewer frames than it states.
            Default: all frames.
        limits: What reading may cost. Default: those of [`VideoLimits`].

    Returns:
        Frames (T, 3, H, W), uint8 RGB, upright, and the metadata with `frames_indices`.

    Raises:
        VideoReadError: If the source cannot be opened, holds no video, cannot be decoded or exceeds a limit.
        VideoNotFoundError: A VideoReadError and FileNotFoundError, if the path does not exist.
        IndexError: If a frame is asked for that the video does not have, or none.
    """
    numbers = None if frames is None or callable(frames) else list(frames)
    sampler = _chosen_once(frames if callable(frames) else partial(_numbers, numbers))
    if hasattr(source, "get_frames_at"):
        return _read_decoder(source, sampler)
    limits = limits or VideoLimits()
    deadline = Deadline(limits.decode_seconds)
    with named_errors(source):
        images = images_of(source)
        if images is not None:
            return _read_images(images, sampler, limits, deadline)
        with open_source(source, limits, deadline) as file:
            images = images_of_webp(file)
            if images is not None:
                return _read_images(images, sampler, limits, deadline)
            return _read_file(file, sampler, limits, deadline)


def _chosen_once(sampler: FrameSampler) -> FrameSampler:
    """A sampler that is asked once for each number of frames, so that it draws at random no more often."""
    chosen: dict[int, Sequence[int]] = {}

    def sample(metadata: VideoMetadata) -> Sequence[int]:
        if metadata.total_num_frames not in chosen:
            chosen[metadata.total_num_frames] = sampler(metadata)
        return chosen[metadata.total_num_frames]

    return sample


def _numbers(numbers: Sequence[int] | None, metadata: VideoMetadata) -> Sequence[int]:
    return range(metadata.total_num_frames) if numbers is None else numbers


@contextmanager
def named_errors(source: Any) -> Iterator[None]:
    """Name the source in errors; what the libraries raise for it becomes VideoReadError."""
    import av

    # Looked up before: a generator that is closed when the interpreter exits finds the modules emptied
    errors = (VideoReadError, av.FFmpegError, OSError, MemoryError)
    try:
        yield
    except (*errors, RuntimeError) as error:
        # On the CPU torch has no class of its own for frames that are too large for the memory
        if not isinstance(error, errors) and "DefaultCPUAllocator" not in str(error):
            raise
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
    tell_of_one_frame(metadata.total_num_frames, len(indices))
    return indices


def tell_of_one_frame(total: int, wanted: int) -> None:
    """Say that frames are all the same, because a video has one."""
    if total == 1 < wanted:
        logger.warning_once(f"A video has one frame, which is repeated: {wanted} are wanted. An image does not move.")


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
    frames = decoder.get_frames_at(indices=_sample(sampler, metadata)).data
    if frames.shape[1] != 3:  # of the `dimension_order` "NHWC", which decoders do not tell
        frames = frames.permute(0, 3, 1, 2)
    if frames.is_floating_point():  # of the `output_dtype` torch.float32, in [0, 1]
        frames = (255 * frames).round().clamp(0, 255).to(torch.uint8)
    return frames, metadata


def _read_images(
    images: Sequence[ImageFrame], sampler: FrameSampler, limits: VideoLimits, deadline: Deadline
) -> tuple[torch.Tensor, VideoFileMetadata]:
    metadata = VideoFileMetadata(total_num_frames=len(images), video_backend="pillow")
    clip = read_images(images, _sample(sampler, metadata), limits, deadline)
    metadata.height, metadata.width = clip.shape[-2:]
    return clip, metadata


def _read_file(
    file: str | BinaryIO, sampler: FrameSampler, limits: VideoLimits, deadline: Deadline
) -> tuple[torch.Tensor, VideoFileMetadata]:
    """By the first way that leads to the frames."""
    with closing(ways_to_frames(file, limits, deadline)) as ways:
        for video, index in ways:
            num_frames, duration = len(index.pts), index.duration
            metadata = VideoFileMetadata(
                total_num_frames=num_frames,
                fps=float(num_frames / duration) if duration else None,
                width=video.size[0],
                height=video.size[1],
                duration=float(duration) if duration else None,
                video_backend="pyav",
            )
            indices = _sample(sampler, metadata)
            try:
                frames = video.frames_at(index, indices)
            except (MisplacedFrameError, *video.damage):
                if index.keys is None:  # it was the last way
                    raise
                continue
            if len({frame.shape for frame in frames.values()}) > 1:
                raise VideoReadError("its orientation changes from one frame to another")
            clip = torch.stack([frames[i] for i in indices])
            metadata.rotation, metadata.mirrored = video.orientation
            metadata.height, metadata.width = clip.shape[-2:]
            return clip, metadata
    raise AssertionError("The last way leads to frames or to an error.")
