# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Video processor of ILA: videos in, normalised clips (B, T, 3, S, S) out."""

from typing import Any

import torch
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import VideosKwargs
from transformers.video_processing_utils import BaseVideoProcessor, BatchFeature
from transformers.video_utils import (
    VideoMetadata,
    default_sample_indices_fn,
    make_batched_metadata,
    make_batched_videos,
)

from .sampling import SamplingStrategy, sample_frame_indices
from .video_reading import FrameSampler, is_video_source, read_video


class ILAVideoProcessorKwargs(VideosKwargs, total=False):  # type: ignore[call-arg]
    """Arguments beyond those of every video processor; see [`ILAVideoProcessor`]."""

    sampling_strategy: SamplingStrategy | None
    frame_sampling_rate: int | None


class ILAVideoProcessor(BaseVideoProcessor):
    """Samples, resizes, crops and normalises as the published models were tested (section 4 of their recipes).

    A drop-in for [`~transformers.VideoMAEVideoProcessor`]: the same arguments, `pixel_values` (B, T, 3, S, S) out.
    Besides arrays, tensors and lists of PIL images it takes paths, http(s) URLs, bytes, file objects and torchcodec
    decoders, in one batch if need be, and clips shorter than `num_frames`, whose frames repeat.

    Args:
        num_frames (int, defaults to 8): T.
        sampling_strategy ("sparse", "uniform" or "dense", defaults to "sparse"):
            See [`sample_frame_indices`]: "sparse" for Kinetics-400 models, "uniform" for SSv2 models.
        frame_sampling_rate (int, defaults to 1): Distance of the frames of "dense".
        do_sample_frames (bool, optional):
            True: sample `num_frames` (or `fps`) from everything. False: keep all frames. Default: sample from files
            and decoders, keep frames that were already decoded.
        size (dict, defaults to {"shortest_edge": 256}): One view: the short side is resized to 256·(S / 224).
        crop_size (dict, defaults to {"height": 224, "width": 224}): S × S from the centre.
        kwargs: As in every video processor of transformers.

    Example:

    ```python
    >>> import torch
    >>> from ila_hf import ILAVideoProcessor

    >>> processor = ILAVideoProcessor(num_frames=8)
    >>> video = torch.zeros(30, 3, 240, 320, dtype=torch.uint8)
    >>> processor(video, do_sample_frames=True, return_tensors="pt").pixel_values.shape
    torch.Size([1, 8, 3, 224, 224])
    ```
    """

    resample = PILImageResampling.BILINEAR
    # ImageNet's; what transformers calls IMAGENET_STANDARD, VideoMAE's, is 0.5
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 256}
    default_to_square = False
    crop_size = {"height": 224, "width": 224}
    do_resize = True
    do_center_crop = True
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    do_convert_rgb = True
    do_sample_frames = None
    num_frames = 8
    sampling_strategy: SamplingStrategy = "sparse"
    frame_sampling_rate = 1
    valid_kwargs = ILAVideoProcessorKwargs
    model_input_names = ["pixel_values"]

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: int | float | None = None,
        sampling_strategy: SamplingStrategy | None = None,
        frame_sampling_rate: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Indices of the frames to keep; with `fps`, as every video processor does it."""
        if fps is not None:
            return default_sample_indices_fn(metadata, fps=fps).tolist()
        return sample_frame_indices(
            metadata.total_num_frames,
            self.num_frames if num_frames is None else num_frames,
            self.sampling_strategy if sampling_strategy is None else sampling_strategy,
            self.frame_sampling_rate if frame_sampling_rate is None else frame_sampling_rate,
        )

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Process one video or a batch; see the class for what a video may be.

        Raises:
            VideoReadError: For a file that cannot be read; the message names it.
            ValueError: For frames that are not images of 1, 3 or 4 channels, and for videos without frames.
        """
        if kwargs.get("fps") is not None and kwargs.get("num_frames") is not None:
            raise ValueError(
                f"`num_frames` and `fps` exclude each other, got {kwargs['num_frames']} and {kwargs['fps']}."
            )
        batch = super().preprocess(videos, **kwargs)
        batch["pixel_values"] = batch.pop("pixel_values_videos")
        return batch

    def _decode_and_sample_videos(
        self,
        videos: Any,
        video_metadata: Any = None,
        do_sample_frames: bool | None = None,
        sample_indices_fn: FrameSampler | None = None,
    ) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
        if do_sample_frames is None:
            sample_indices_fn = self.sample_frames
        videos = self._as_list(videos)
        frames, metadata = [], []
        given = None if video_metadata is None else make_batched_metadata(videos, video_metadata=video_metadata)
        for i, video in enumerate(videos):
            if is_video_source(video):
                video, info = read_video(video, sample_indices_fn)
            else:
                if len(video) == 0:
                    raise ValueError(f"Video {i} has no frames: its shape is {tuple(video.shape)}.")
                info = given[i] if given else make_batched_metadata([video], video_metadata=None)[0]
                if do_sample_frames and sample_indices_fn is not None:
                    info.frames_indices = list(sample_indices_fn(info))
                    video = video[info.frames_indices]
            frames.append(video)
            metadata.append(info)
        return frames, metadata

    @classmethod
    def _as_list(cls, videos: Any) -> list[Any]:
        """One entry per video: a source to read, or an array or tensor of frames."""
        if is_video_source(videos):
            return [videos]
        if isinstance(videos, list | tuple):
            if len(videos) == 0:
                raise ValueError("`videos` is empty: pass at least one video.")
            if all(isinstance(video, torch.Tensor) and video.ndim == 3 for video in videos):
                return [torch.stack(list(videos))]  # the frames of one video
            nested = [cls._as_list(video) if isinstance(video, list | tuple) else None for video in videos]
            if any(is_video_source(video) for video in videos) or any(n and is_video_source(n[0]) for n in nested):
                return [entry for video in videos for entry in cls._as_list(video)]
        if getattr(videos, "ndim", 4) not in (3, 4, 5):
            raise ValueError(
                f"Invalid video input: frames are (T, 3, H, W) or (T, H, W, 3), got shape {videos.shape}."
            )
        return make_batched_videos(videos)


__all__ = ["ILAVideoProcessor"]
