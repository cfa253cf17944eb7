# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0 (the "License"); you may not use
# this file except in compliance with the License. You may obtain a copy of the License at
# http://www.apache.org/licenses/LICENSE-2.0. Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND,
# either express or implied. See the License for the specific language governing permissions and limitations under the
# License.
"""Video processor of ILA: videos in, normalised clips (B, T, 3, S, S) or views of them (B, V, T, 3, S, S) out."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    ChannelDimension,
    PILImageResampling,
    SizeDict,
    infer_channel_dimension_format,
)
from transformers.processing_utils import VideosKwargs
from transformers.utils import logging
from transformers.video_processing_utils import BaseVideoProcessor, BatchFeature
from transformers.video_utils import VideoMetadata, default_sample_indices_fn, make_batched_metadata

from .configuration_ila import WHERE, ILAConfig, saved_settings
from .sampling import SamplingStrategy, sample_frame_indices
from .video_images import in_eight_bits, pixels_of
from .video_reading import FrameSampler, is_video_source, read_video, tell_of_one_frame


logger = logging.get_logger(__name__)


class ILAVideoProcessorKwargs(VideosKwargs, total=False):
    """Arguments beyond those of every video processor; see [`ILAVideoProcessor`]."""

    sampling_strategy: SamplingStrategy | None
    frame_sampling_rate: int | None
    num_clips: int | None
    num_crops: int | None


class ILAVideoProcessor(BaseVideoProcessor):
    """Samples, resizes, crops and normalises as the published models were tested.

    A drop-in for [`~transformers.VideoMAEVideoProcessor`]: the same arguments, `pixel_values` (B, T, 3, S, S) out.
    Besides arrays, tensors and lists of PIL images it takes paths, http(s) URLs, bytes, file objects and torchcodec
    decoders, in one batch if need be, and clips shorter than `num_frames`, whose frames repeat. Values of frames are 0
    to 255 in whichever data type, or 0 to 65535 as uint16.

    Args:
        num_frames (int, defaults to 8): T.
        sampling_strategy ("sparse", "uniform" or "dense", defaults to "sparse"):
            See [`sample_frame_indices`]: "sparse" for Kinetics-400 models, "uniform" for SSv2 models.
        frame_sampling_rate (int, defaults to 1): Distance of the frames of "dense".
        num_clips (int, defaults to 1): Clips of a test, each of `num_frames`; see [`sample_frame_indices`].
        num_crops (1 or 3, defaults to 1): Crops of each clip. Three: the short side is resized to S, then left, centre
            and right, or top, centre and bottom. With more than one view, `pixel_values` are (B, V, T, 3, S, S), the
            crops of the first clip first; the published results are of 4 clips × 3 crops, softmax scores averaged.
        do_sample_frames (bool, optional):
            True: sample `num_frames` (or `fps`) from everything. False: keep all frames, which are the clips one after
            the other. Default: sample from files and decoders, and where there are several clips; keep frames that
            were already decoded.
        size (dict, optional): `{"shortest_edge": 256}` if not given. One view: the short side is resized to it, which
            for the published models is 256·(S / 224).
        crop_size (dict, optional): S × S from the centre, `{"height": 224, "width": 224}` if not given.
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
    fps: int | float | None
    num_frames = 8
    sampling_strategy: SamplingStrategy = "sparse"
    frame_sampling_rate = 1
    num_clips = 1
    num_crops = 1
    valid_kwargs: Any = ILAVideoProcessorKwargs
    model_input_names = ["pixel_values"]
    _auto_class = "AutoVideoProcessor"  # transformers then saves the code beside the settings

    @classmethod
    def from_config(cls, config: ILAConfig) -> "ILAVideoProcessor":
        """The processor with which a model of this configuration was published, or would be."""
        size = config.vision_config.image_size
        return cls(
            size={"shortest_edge": round(size * 256 / 224)},
            crop_size={"height": size, "width": size},
            num_frames=config.num_frames,
            sampling_strategy="sparse" if config.vision_config.alignment_conv == "separable" else "uniform",
        )

    @classmethod
    def get_video_processor_dict(
        cls, pretrained_model_name_or_path: Any, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """The saved settings. Of a plain CLIP, those with which it becomes an ILA: its own are of single images."""
        settings = saved_settings(pretrained_model_name_or_path, kwargs)
        is_clip = settings.get("model_type") == "clip"
        try:
            found: Any = super().get_video_processor_dict(pretrained_model_name_or_path, **kwargs)
        except OSError:
            if not is_clip:
                raise
        else:
            if not is_clip or "video_processor_type" in found[0]:
                return cast("tuple[dict[str, Any], dict[str, Any]]", found)
        rest = {name: value for name, value in kwargs.items() if name not in (*WHERE, "proxies") and name[0] != "_"}
        return cls.from_config(ILAConfig.from_dict(settings)).to_dict(), rest

    def sample_frames(  # type: ignore[override]
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: int | float | None = None,
        sampling_strategy: SamplingStrategy | None = None,
        frame_sampling_rate: int | None = None,
        num_clips: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """Indices of the frames to keep, those of all clips; with `fps`, as every video processor does it."""
        if fps is None and num_frames is None:
            fps = self.fps
        num_clips = self.num_clips if num_clips is None else num_clips
        if fps is not None:
            if num_clips != 1:
                raise ValueError(f"`fps` takes one clip, got `num_clips` of {num_clips}.")
            if metadata.fps is None:
                raise ValueError(f"`fps` of {fps} needs the frame rate of the video: pass `video_metadata`.")
            return cast("list[int]", default_sample_indices_fn(metadata, fps=fps).tolist())
        indices: list[int] = []
        for clip in range(num_clips):
            indices += sample_frame_indices(
                metadata.total_num_frames,
                self.num_frames if num_frames is None else num_frames,
                self.sampling_strategy if sampling_strategy is None else sampling_strategy,
                self.frame_sampling_rate if frame_sampling_rate is None else frame_sampling_rate,
                clip=clip,
                num_clips=num_clips,
            )
        return indices

    def preprocess(self, videos: Any, **kwargs: Any) -> BatchFeature:
        """Process one video or a batch; see the class for what a video may be.

        Raises:
            VideoReadError: For a file that cannot be read; the message names it.
            ValueError: For what is no video, for frames that are not images of 1 or 3 channels, for videos without
                frames, and for videos of different lengths as one tensor.
        """
        if kwargs.get("fps") is not None and kwargs.get("num_frames") is not None:
            raise ValueError(
                f"`num_frames` and `fps` exclude each other, got {kwargs['num_frames']} and {kwargs['fps']}."
            )
        do_sample_frames = kwargs.pop("do_sample_frames", None)
        if do_sample_frames is None:
            do_sample_frames = self.do_sample_frames
        num_clips, num_crops, do_rescale = (
            getattr(self, name) if kwargs.get(name) is None else kwargs[name]
            for name in ("num_clips", "num_crops", "do_rescale")
        )
        if not isinstance(num_clips, int) or num_clips < 1:
            raise ValueError(f"`num_clips` must be at least 1, got {num_clips!r}.")
        if num_crops not in (1, 3):
            raise ValueError(f"`num_crops` must be 1 or 3, got {num_crops!r}.")
        if num_clips > 1 and do_sample_frames is None:
            do_sample_frames = True
        names = ("num_frames", "fps", "sampling_strategy", "frame_sampling_rate", "num_clips")
        given: dict[str, Any] = {name: kwargs.get(name) for name in names}
        sampler = partial(self.sample_frames, **given)
        videos, metadata = self._read_and_sample(
            videos,
            kwargs.pop("video_metadata", None),
            do_sample_frames,
            sampler,
            kwargs.pop("input_data_format", None),
        )
        for video in (video for video in videos if do_rescale and video.is_floating_point()):
            lowest, highest = map(float, video.aminmax())
            if lowest < -1 or highest > 256:  # resizing may have gone a little beyond
                raise ValueError(
                    f"Frames of floating point must be in [0, 255], got values from {lowest:g} to {highest:g}. Pass "
                    "`do_rescale=False` for frames that are scaled otherwise."
                )
            if 0 < highest <= 1:
                logger.warning_once(
                    "Frames of floating point are taken to be in [0, 255], as those of uint8; these are at most 1. "
                    "Pass `do_rescale=False` for frames in [0, 1]."
                )
        lengths = [len(video) for video in videos]
        if any(length % num_clips for length in lengths):
            raise ValueError(f"Videos of {lengths} frames make no {num_clips} clips each: sample frames.")
        if kwargs.get("return_tensors") is not None and len(set(lengths)) > 1:
            raise ValueError(f"Videos of {lengths} frames make no batch: pass `do_sample_frames=True`.")
        features: BatchFeature = super().preprocess(
            videos, video_metadata=metadata, do_sample_frames=False, input_data_format="channels_first", **kwargs
        )
        return features

    def _preprocess(  # type: ignore[override]
        self,
        videos: list[torch.Tensor],
        num_clips: int = 1,
        num_crops: int = 1,
        return_tensors: Any = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Resize, crop and normalise; then cut the frames into views."""
        side = kwargs["crop_size"].height
        if num_crops == 3:
            if kwargs["crop_size"].width != side:
                raise ValueError(f"Three crops are squares, got `crop_size` of {kwargs['crop_size']}.")
            kwargs |= {"size": SizeDict(shortest_edge=side), "do_center_crop": False}
        clips = super()._preprocess(videos, return_tensors=None, **kwargs)["pixel_values_videos"]
        if num_crops == 3:
            clips = [_three_crops(clip, side) for clip in clips]  # (T, 3, H, W) -> (3, T, 3, S, S)
        if num_clips * num_crops > 1:
            # (crops, clips·T, 3, S, S) -> (clips·crops, T, 3, S, S)
            clips = [
                clip.reshape(num_crops, num_clips, -1, *clip.shape[-3:]).transpose(0, 1).flatten(0, 1)
                for clip in clips
            ]
        return BatchFeature(data={"pixel_values": clips}, tensor_type=return_tensors)

    @classmethod
    def _read_and_sample(
        cls,
        videos: Any,
        video_metadata: Any,
        do_sample_frames: bool | None,
        sampler: FrameSampler,
        input_data_format: Any,
    ) -> tuple[list[torch.Tensor], list[VideoMetadata]]:
        """Frames (T, C, H, W) and metadata of every video.

        The layout is told for each video by itself; transformers would take that of the first for all.
        """
        videos = cls._as_list(videos)
        given = None if video_metadata is None else make_batched_metadata(videos, video_metadata=video_metadata)
        frames: list[torch.Tensor] = []
        metadata: list[VideoMetadata] = []
        info: VideoMetadata
        for i, video in enumerate(videos):
            if is_video_source(video):
                rate = getattr(given[i], "fps", None) if given else None
                video, info = read_video(video, None if do_sample_frames is False else _at_rate(sampler, rate))
            else:
                shape = tuple(video.shape)
                if 0 in shape:
                    raise ValueError(f"Video {i} is empty: its shape is {shape}.")
                if input_data_format is None and not {shape[1], shape[3]} & {1, 3}:
                    raise ValueError(f"Video {i} has no channel dimension of 1 or 3: its shape is {shape}.")
                video = in_eight_bits(video, f"Video {i}")
                if (input_data_format or infer_channel_dimension_format(cast("Any", video))) == ChannelDimension.LAST:
                    video = video.permute(0, 3, 1, 2)
                info = given[i] if given else make_batched_metadata([video], cast("Any", None))[0]
                if do_sample_frames:
                    info.frames_indices = list(sampler(info))
                    tell_of_one_frame(len(video), len(info.frames_indices))
                    video = video[info.frames_indices]
            frames.append(video)
            metadata.append(info)
        return frames, metadata

    @classmethod
    def _as_list(cls, videos: Any) -> list[Any]:
        """One entry per video: a source to read, or an array or tensor of frames, of four dimensions."""
        if is_video_source(videos):
            return [videos]
        if isinstance(videos, Image.Image):
            return cls._as_list([videos])
        if isinstance(videos, np.ndarray | torch.Tensor):
            if videos.ndim not in (3, 4, 5):
                raise ValueError(f"Invalid video: frames are (T, 3, H, W) or (T, H, W, 3), got shape {videos.shape}.")
            return list(videos) if videos.ndim == 5 else [videos if videos.ndim == 4 else videos[None]]
        if not isinstance(videos, list | tuple):
            raise ValueError(
                f"Invalid video: {videos!r} is no path, URL, bytes, array, tensor, image or list of these."
            )
        if len(videos) == 0:
            raise ValueError("A list of videos or of frames is empty: pass at least one video.")
        if all(isinstance(frame, Image.Image) or getattr(frame, "ndim", None) == 3 for frame in videos):
            return [cls._stack(videos)]
        return [entry for video in videos for entry in cls._as_list(video)]

    @staticmethod
    def _stack(frames: Sequence[Any]) -> Any:
        frames = [pixels_of(frame) if isinstance(frame, Image.Image) else frame for frame in frames]
        shapes = sorted({tuple(frame.shape) for frame in frames})
        if len(shapes) > 1:
            raise ValueError(f"The frames of a video must have one size, got {shapes}.")
        return torch.stack(frames) if isinstance(frames[0], torch.Tensor) else np.stack(frames)


def _at_rate(sampler: FrameSampler, rate: float | None) -> FrameSampler:
    """A sampler for a source that may not tell its frame rate, as images do not: then it is that which is given."""

    def sample(metadata: VideoMetadata) -> Sequence[int]:
        if metadata.fps is None:
            metadata.fps = rate
        return sampler(metadata)

    return sample


def _three_crops(clip: torch.Tensor, side: int) -> torch.Tensor:
    """Left, centre and right, or top, centre and bottom: (T, 3, H, W) -> (3, T, 3, S, S)."""
    height, width = clip.shape[-2:]
    views = []
    for place in (0.0, 0.5, 1.0):
        top, left = round(place * (height - side)), round(place * (width - side))
        views.append(clip[..., top : top + side, left : left + side])
    return torch.stack(views)


def logits_of_views(pixel_values: torch.Tensor, logits_of: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """Logits (B, V, K), float32, of views (B, V, T, 3, S, S), or of clips (B, T, 3, S, S), which are one view each.

    Args:
        pixel_values: As [`ILAVideoProcessor`] makes them.
        logits_of: The model, which sees the views one by one: (B, T, 3, S, S) -> (B, K).
    """
    views = pixel_values[:, None] if pixel_values.ndim == 5 else pixel_values
    return torch.stack([logits_of(view).float() for view in views.unbind(1)], dim=1)


__all__ = ["ILAVideoProcessor"]
