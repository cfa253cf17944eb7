# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pipelines of ILA: video classification, and with texts that are given at the call; both on windows of long videos.

`pipeline("video-classification", ...)` and `pipeline("zero-shot-video-classification", ...)` make them, as
registration.py sees to.
"""

import dataclasses
import itertools
import operator
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from os import PathLike
from typing import Any, cast

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import AutoModel, AutoModelForVideoClassification
from transformers.pipelines.base import Pipeline
from transformers.pipelines.pt_utils import KeyDataset, PipelineDataset, PipelineIterator
from transformers.pipelines.video_classification import VideoClassificationPipeline
from transformers.utils import ModelOutput, logging
from transformers.video_utils import VideoMetadata

from .cache_ila import ILACache
from .checks_ila import can_stream, check_names
from .class_texts_ila import ILAClassTexts
from .configuration_ila import ILAConfig
from .video_processing_ila import logits_of_views
from .video_reading import is_video_source
from .video_sources import VideoReadError
from .video_windows import VideoWindow, can_share, check_seconds, sliding_windows


logger = logging.get_logger(__name__)


_Params = dict[str, Any]

VIDEO_CLASSIFICATION = "video-classification"
ZERO_SHOT_VIDEO_CLASSIFICATION = "zero-shot-video-classification"


class ILAVideoPipeline(Pipeline):  # type: ignore[misc]
    """What the pipelines share: videos to clips, batches, and windows that slide over long videos."""

    #: Logits (B, K) of clips, or (1, P, K) of the frames of a stream that are kept: (clips, cache, logits_to_keep).
    _logits: Callable[..., torch.Tensor]

    _load_processor = False
    # None: where there is one. What is missing is told here, after the model was checked
    _load_image_processor: bool | None = False
    _load_video_processor: bool | None = None
    _load_feature_extractor = False
    _load_tokenizer: bool | None = False

    def __init__(self, model: Any, **kwargs: Any):
        for name in ("tokenizer", "video_processor"):
            if kwargs.get(name) is None:
                kwargs[name] = getattr(kwargs.get("processor"), name, None)
        super().__init__(model, **kwargs)
        # Of saved code: `pipeline` has put classes there, with which a configuration cannot be saved
        vars(model.config).pop("custom_pipelines", None)

    def _check_parts(self, *names: str) -> None:
        for name in names:
            if getattr(self, name) is None:
                raise ValueError(
                    f"The pipeline {self.task!r} needs `{name}`: pass it, or `processor`, or save the processor "
                    "beside the model."
                )

    def _video_parameters(
        self,
        num_frames: int | None = None,
        frame_sampling_rate: int | None = None,
        window_seconds: float | None = None,
        stride_seconds: float | None = None,
        on_error: str | None = None,
        **unknown: Any,
    ) -> dict[str, Any]:
        """Those that are set, after checking them."""
        if unknown:
            raise TypeError(f"The pipeline {self.task!r} has no argument {next(iter(unknown))!r}.")
        counts = {"num_frames": num_frames, "frame_sampling_rate": frame_sampling_rate}
        counts = {name: _as_count(name, value) for name, value in counts.items()}
        seconds = {"window_seconds": window_seconds, "stride_seconds": stride_seconds}
        check_seconds(**{name: value for name, value in seconds.items() if value is not None})
        if on_error not in (None, "raise", "skip", "return"):
            raise ValueError(f"`on_error` must be 'raise', 'skip' or 'return', got {on_error!r}.")
        parameters = {**counts, **seconds, "on_error": on_error}
        return {name: value for name, value in parameters.items() if value is not None}

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        """Classify one video or several; see the class."""
        if inputs is None:
            raise ValueError(f"The pipeline {self.task!r} needs a video or a list of videos, got None.")
        if is_video_source(inputs):  # also a list of images, which is one video
            return next(iter(super().__call__([inputs], **kwargs)), None)
        inputs = _undecoded(inputs)
        if isinstance(inputs, tuple) or getattr(inputs, "ndim", None) == 5:
            inputs = list(inputs)
        if isinstance(inputs, list) and not inputs:
            return []
        if not isinstance(inputs, list | Dataset) and not is_video_source(inputs):
            if isinstance(inputs, Sequence):  # such as a column of a data set
                inputs = Subset(cast("Any", inputs), range(len(inputs)))
            elif isinstance(inputs, Iterable) and not isinstance(inputs, Sized):
                inputs = _Stream(inputs)  # transformers 5.11 would read a generator to its end
        if isinstance(inputs, list | Dataset):
            return super().__call__(inputs, **kwargs)
        return next(iter(super().__call__([inputs], **kwargs)), None)

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: _Params,
        forward_params: _Params,
        postprocess_params: _Params,
    ) -> Iterator[Any]:
        """Answers for the inputs, one after the other, batch by batch.

        As in Pipeline, which refuses batches without a tokenizer or an image processor.
        """
        forward_params, postprocess_params = self._for_all_videos(forward_params, postprocess_params)
        # The next item of a stream may be long in coming, or depend on the answer to this one
        read_ahead = not isinstance(inputs, _Stream)
        params = dict(preprocess_params)
        window, stride = params.pop("window_seconds", None), params.pop("stride_seconds", None)
        on_error = params.pop("on_error", "raise")
        if window is not None:
            shared_frames = self._shared_frames(params, window, window if stride is None else stride)
            failed: dict[int, str] = {}
            windows = self._cut(inputs, params, window, stride, shared_frames, None if on_error == "raise" else failed)
            answers = (
                self._pack(windows, batch_size, params, forward_params, postprocess_params, read_ahead)
                if shared_frames is None
                else self._follow(windows, batch_size, forward_params, postprocess_params, read_ahead)
            )
            return _by_video(answers, failed, on_error == "return")
        if stride is not None:
            raise ValueError(f"`stride_seconds` of {stride} needs `window_seconds`.")
        dataset: Any
        read = self.preprocess if on_error == "raise" else self._read
        if isinstance(inputs, Sized):
            dataset = PipelineDataset(inputs, read, params)
        else:
            dataset = PipelineIterator(inputs, read, params)
            num_workers = 0 if isinstance(inputs, _Stream) else min(num_workers, 1)  # generators cannot be sent there
        collate = _collate if on_error == "raise" else list
        loader = self._loader(dataset, num_workers, batch_size, read_ahead, collate)
        if on_error == "raise":
            return self._run(loader, batch_size, forward_params, postprocess_params)
        return self._run_past_errors(loader, forward_params, postprocess_params, on_error == "return")

    def _for_all_videos(self, forward_params: _Params, postprocess_params: _Params) -> tuple[_Params, _Params]:
        """What is computed once for all videos of a call."""
        return forward_params, postprocess_params

    def _loader(
        self, dataset: Any, num_workers: int, batch_size: int, read_ahead: bool, collate: Callable[[Any], Any]
    ) -> Any:
        pin_memory = self.device.type == "cuda"
        loader: Any = DataLoader(
            dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate, pin_memory=pin_memory
        )
        has_more = isinstance(dataset, IterableDataset) or len(loader) > 1
        return _ReadAhead(loader) if read_ahead and has_more and num_workers == 0 else loader

    def _run(
        self, loader: Any, batch_size: int, forward_params: _Params, postprocess_params: _Params
    ) -> Iterator[Any]:
        outputs = PipelineIterator(loader, self.forward, forward_params, loader_batch_size=batch_size)
        return iter(PipelineIterator(outputs, self.postprocess, postprocess_params))

    def _read(self, video: Any, **params: Any) -> dict[str, Any]:
        """As [`preprocess`]; of what cannot be read, the error."""
        try:
            return self.preprocess(video, **params)
        except VideoReadError as error:
            return {"error": str(error)}

    def _run_past_errors(
        self, loader: Iterable[list[dict[str, Any]]], forward_params: _Params, postprocess_params: _Params, tell: bool
    ) -> Iterator[Any]:
        """As [`_run`], of batches of what [`_read`] returns. Errors are answers if they are to be told."""
        for batch in loader:
            good = [item for item in batch if "error" not in item]
            logits = iter(self.forward(_collate(good), **forward_params)["logits"] if good else ())
            for item in batch:
                if "error" not in item:
                    yield self.postprocess(ModelOutput(logits=next(logits)[None]), **postprocess_params)
                elif tell:
                    yield {"error": item["error"]}

    def _shared_frames(self, params: _Params, window: float, stride: float) -> int | None:
        """T, if windows overlap so that they can have frames in common, and the model is causal: it sees them once.

        None for several views, and for frames at a given distance, which are counted from the middle of a window.
        """
        num_frames: int = params.get("num_frames") or self.model.config.num_frames
        processor = self.video_processor
        is_dense = "frame_sampling_rate" in params or processor.sampling_strategy == "dense"
        has_views = processor.num_clips * processor.num_crops > 1
        if stride >= window or is_dense or has_views or not can_stream(self.model):
            return None
        if not can_share(window, stride, num_frames):
            logger.warning_once(
                f"Every window is computed by itself: they share frames where the stride is a multiple of "
                f"{window / num_frames:g} s, `window_seconds` divided by the number of frames, got {stride} s."
            )
            return None
        return num_frames

    def _cut(
        self,
        videos: Iterable[Any],
        params: _Params,
        window: float,
        stride: float | None,
        shared_frames: int | None,
        failed: dict[int, str] | None,
    ) -> Iterator[tuple[int, VideoWindow]]:
        """The windows of all videos, with the number of the video. What cannot be read is noted, if there is where."""

        def sample(num_frames: int) -> list[int]:
            metadata = VideoMetadata(total_num_frames=num_frames)
            return list(self.video_processor.sample_frames(metadata, **self._sampling(**params)))

        for number, video in enumerate(videos):
            try:
                for part in sliding_windows(video, sample, window, stride, shared_frames=shared_frames):
                    yield number, part
            except VideoReadError as error:
                if failed is None:
                    raise
                failed[number] = str(error)

    def _follow(
        self,
        windows: Iterator[tuple[int, VideoWindow]],
        batch_size: int,
        forward_params: _Params,
        postprocess_params: _Params,
        read_ahead: bool,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """As [`_pack`], by a causal model, which sees every frame of a video once."""

        def read() -> Iterator[tuple[int, list[VideoWindow], _Params]]:
            for number, parts in _some_of_a_video(windows, batch_size):
                frames = torch.cat([part.frames[-part.num_new :] for part in parts])
                inputs = self.video_processor(frames, do_sample_frames=False, return_tensors="pt")
                ends = torch.tensor([part.num_new for part in parts]).cumsum(0) - 1
                yield number, parts, {"pixel_values": inputs["pixel_values"].to(self.dtype), "logits_to_keep": ends}

        cache = ILACache()
        for number, parts, inputs in ItemsAhead(read()) if read_ahead else read():
            if parts[0].start == 0:
                cache = ILACache(len(parts[0].frames))
            logits = self.forward({**inputs, "cache": cache}, **forward_params)["logits"]
            for part, row in zip(parts, logits, strict=True):
                labels = self.postprocess(ModelOutput(logits=row[None]), **postprocess_params)
                yield number, {"timestamp": (part.start, part.end), "labels": labels}

    def _pack(
        self,
        windows: Iterator[tuple[int, VideoWindow]],
        batch_size: int,
        params: _Params,
        forward_params: _Params,
        postprocess_params: _Params,
        read_ahead: bool,
    ) -> Iterator[tuple[int, dict[str, Any]]]:
        """The answers for all windows, with the number of the video."""
        places: deque[tuple[int, tuple[float, float]]] = deque()  # of the windows that are read and not yet answered

        def clips() -> Iterator[dict[str, Any]]:
            for number, window in windows:
                places.append((number, (window.start, window.end)))
                yield self.preprocess(window, **params)

        # Windows are read one after the other from one open file: a thread reads ahead, and no worker could help
        loader = self._loader(_Stream(clips()), 0, batch_size, read_ahead, _collate)
        for labels in self._run(loader, batch_size, forward_params, postprocess_params):
            number, timestamp = places.popleft()
            yield number, {"timestamp": timestamp, "labels": labels}

    def _sampling(self, num_frames: int | None = None, frame_sampling_rate: int | None = None) -> dict[str, Any]:
        """What the video processor is told of the frames to take."""
        sampling: dict[str, Any] = {"num_frames": num_frames or self.model.config.num_frames}
        if frame_sampling_rate is not None:
            sampling |= {"sampling_strategy": "dense", "frame_sampling_rate": frame_sampling_rate}
        return sampling

    def preprocess(
        self, video: Any, num_frames: int | None = None, frame_sampling_rate: int | None = None
    ) -> dict[str, torch.Tensor]:
        """One video, or the clip of one window, to `pixel_values` (1, T, 3, S, S), or views of them (1, V, T, ...)."""
        if isinstance(video, VideoWindow):
            inputs = self.video_processor(video.frames, do_sample_frames=False, return_tensors="pt")
        else:
            if isinstance(video, Image.Image) or getattr(video, "ndim", 4) != 4:
                raise ValueError(
                    f"A list holds several videos, not the frames of one: got {type(video).__name__} as a video. "
                    "Stack the frames of a video to an array (T, H, W, 3), or put them into a list in the list."
                )
            sampling = self._sampling(num_frames, frame_sampling_rate)
            inputs = self.video_processor(video, do_sample_frames=True, return_tensors="pt", **sampling)
        if len(inputs["pixel_values"]) != 1:
            raise ValueError(f"A video is one file or the frames of one, got {len(inputs['pixel_values'])} in a list.")
        return {"pixel_values": inputs["pixel_values"].to(self.dtype)}

    def _forward(self, model_inputs: _Params, **params: Any) -> ModelOutput:
        """Logits (B, V, K) of clips or views, or of the P windows that end with frames of a stream, (P, 1, K)."""
        # Without the scalars of the model's output, which are of all videos of a batch
        pixel_values, cache = model_inputs["pixel_values"], model_inputs.get("cache")
        if cache is None:
            return ModelOutput(logits=logits_of_views(pixel_values, lambda view: self._logits(view, **params)))
        logits = self._logits(pixel_values, cache, model_inputs["logits_to_keep"], **params)
        return ModelOutput(logits=logits[0, :, None].float())

    def save_pretrained(self, save_directory: str | PathLike[str], **kwargs: Any) -> None:
        """As every pipeline; the video processor, which these leave out, is saved, too."""
        super().save_pretrained(save_directory, **kwargs)
        self.video_processor.save_pretrained(save_directory, **kwargs)


class ILAVideoClassificationPipeline(ILAVideoPipeline, VideoClassificationPipeline):  # type: ignore[misc]
    """Video classification with either of ILA's classification models.

    For other models, transformers' own pipeline is made instead.

    Args of the pipeline and of its call:
        inputs (call only): A video, as [`ILAVideoProcessor`] takes it (path, URL, bytes, file object, array or tensor
            of frames), a list of videos, or an iterator, data set or column of one, whose answers are then generated.
        top_k (int, defaults to 5): How many classes are named, at most.
        num_frames (int, optional): T. Default: as in the configuration of the model.
        frame_sampling_rate (int, optional): Take T frames at this distance from the middle of the video, instead of T
            frames spread over it.
        function_to_apply ("softmax", "sigmoid" or "none", optional): Default: sigmoid for models with several labels
            per video, softmax for others.
        window_seconds (float, optional): Classify every window of this length by itself, for files of any length; see
            [`sliding_windows`].
        stride_seconds (float, optional): From the start of a window to that of the next. Default: `window_seconds`.
        batch_size (int, defaults to 1): Videos, or windows, that the model takes at a time.
        on_error ("raise", "skip" or "return", defaults to "raise"): What becomes of a video that cannot be read: an
            error, no answer (None for a single one), or the answer `{"error": message}`, behind the windows that were
            read.
        num_workers (int, defaults to 0): Processes that read videos ahead; none for iterators and windows.
        video_processor ([`ILAVideoProcessor`]), or processor ([`ILAProcessor`]) (pipeline only): For a model that is
            passed as an object. With several views (`num_clips`, `num_crops`), the scores are averaged over them.

    Returns:
        For a video, a list of `{"score", "label"}`, the best first. With `window_seconds`, a list with a
        `{"timestamp": (start, end), "labels": [...]}` per window, in seconds. For a list of videos, a list of these.

    Example:

    ```python
    >>> from transformers import pipeline

    >>> classify = pipeline("video-classification", model="path/to/model")
    >>> classify("clip.mp4", top_k=1)
    [{'score': 0.97, 'label': 'juggling balls'}]
    >>> classify("film.mp4", top_k=1, window_seconds=4.0, batch_size=8)[1]
    {'timestamp': (4.0, 8.0), 'labels': [{'score': 0.91, 'label': 'playing cello'}]}
    ```

    Raises:
        VideoReadError: For a file that cannot be read, unless `on_error` says otherwise; the message names it.
        ValueError: For numbers below 1, for models without classes, and where there is no video processor.
    """

    _load_image_processor = None  # that of other models

    def __new__(cls, model: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Make transformers' pipeline for models of others; None: as pickle makes an object."""
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        if model is not None and model_type != ILAConfig.model_type:
            return VideoClassificationPipeline(model, *args, **kwargs)
        return super().__new__(cls)

    def check_model_type(self, supported_models: Any) -> None:
        """Refuse models without classes; transformers knows ILA's heads by name only where they are registered."""
        if not hasattr(self.model, "class_texts") and not hasattr(self.model, "classifier"):
            raise ValueError(
                f"{type(self.model).__name__} has no classes: load the model with AutoModelForVideoClassification, or "
                f"make a pipeline {ZERO_SHOT_VIDEO_CLASSIFICATION!r}."
            )
        self._check_parts("video_processor")

    def _sanitize_parameters(
        self, top_k: int | None = None, function_to_apply: str | None = None, **video: Any
    ) -> tuple[_Params, _Params, _Params]:
        top_k = _as_count("top_k", top_k)
        parameters = self._video_parameters(**video)
        postprocess = super()._sanitize_parameters(top_k=top_k, function_to_apply=function_to_apply)[2]
        if function_to_apply is None:
            postprocess.pop("function_to_apply", None)  # transformers 5.11 has softmax for every model
        return parameters, {}, postprocess

    def _logits(
        self, clips: torch.Tensor, cache: ILACache | None = None, logits_to_keep: Any = 0, **params: Any
    ) -> torch.Tensor:
        outputs = self.model(pixel_values=clips, cache=cache, logits_to_keep=logits_to_keep, return_dict=True)
        return cast("torch.Tensor", outputs.logits)

    def postprocess(
        self, model_outputs: ModelOutput, top_k: int = 5, function_to_apply: str | None = None
    ) -> list[dict[str, Any]]:
        """Logits (1, V, K) to the best classes."""
        scores = score_function(function_to_apply, self.model.config.problem_type)(model_outputs["logits"])
        answer: list[dict[str, Any]] = super().postprocess(ModelOutput(logits=scores.mean(1)), top_k, "none")
        return answer


class ILAZeroShotVideoClassificationPipeline(ILAVideoPipeline):
    """Video classification with class names that are given at the call.

    Takes [`ILAModel`] and [`ILAForVideoTextClassification`], and their processor.

    Args of the pipeline and of its call:
        inputs, num_frames, frame_sampling_rate, window_seconds, stride_seconds, batch_size, on_error:
            See [`ILAVideoClassificationPipeline`].
        tokenizer and video_processor, or processor ([`ILAProcessor`]) (pipeline only): For a model that is passed as
            an object, or was saved without them.
        candidate_labels (list of str, or str): Names of the classes; a string holds several, separated by commas.
        hypothesis_template (str, defaults to "{}"): Text of a class; its name takes the place of {}. The published
            models were trained with the names alone.

    Returns:
        For a video, a list of `{"score", "label"}`, one for every name, the best first. The scores add up to 1. For
        windows and lists see [`ILAVideoClassificationPipeline`].

    Example:

    ```python
    >>> from transformers import pipeline

    >>> classify = pipeline("zero-shot-video-classification", model="path/to/model")
    >>> classify("clip.mp4", candidate_labels=["juggling balls", "playing cello"])
    [{'score': 0.98, 'label': 'juggling balls'}, {'score': 0.02, 'label': 'playing cello'}]
    ```

    Raises:
        VideoReadError: For a file that cannot be read; the message names it.
        ValueError: Without `candidate_labels`, for equal ones and for texts that are too long, for a template without
            {}, for models without a text tower, and where there is no tokenizer or video processor.
    """

    _load_tokenizer = None

    def __init__(self, model: Any, **kwargs: Any):
        super().__init__(model, **kwargs)
        # AutoModel loads the trunk of a linear classifier with a text tower that was never trained
        architectures = self.model.config.architectures or []
        if not hasattr(self.model, "video_text_logits") or "ILAForVideoClassification" in architectures:
            name = architectures[0] if architectures else type(self.model).__name__
            raise ValueError(
                f"{name} has no text tower to compare videos with texts: take an ILAModel or an "
                "ILAForVideoTextClassification."
            )
        self._check_parts("tokenizer", "video_processor")

    def _sanitize_parameters(
        self, candidate_labels: Any = None, hypothesis_template: str | None = None, **video: Any
    ) -> tuple[_Params, _Params, _Params]:
        forward: dict[str, Any] = {}
        if candidate_labels is not None:
            forward["candidate_labels"] = _as_labels(candidate_labels)
        if hypothesis_template is not None:
            if "{}" not in hypothesis_template:
                raise ValueError(f"`hypothesis_template` must contain {{}}, got {hypothesis_template!r}.")
            forward["hypothesis_template"] = hypothesis_template
        return self._video_parameters(**video), forward, {}

    def _for_all_videos(self, forward_params: _Params, postprocess_params: _Params) -> tuple[_Params, _Params]:
        labels = forward_params.get("candidate_labels")
        if labels is None:
            raise ValueError("`candidate_labels` is missing: pass the names of the classes.")
        features = self._encode(labels, forward_params.get("hypothesis_template", "{}"))
        return {"text_features": features}, {**postprocess_params, "candidate_labels": labels}

    def _encode(self, labels: list[str], template: str) -> torch.Tensor:
        """Text features (K, E), not normalised."""
        texts = [template.replace("{}", label) for label in labels]
        input_ids = ILAClassTexts(self.model.config).tokenize(texts, self.tokenizer)
        with self.device_placement(), torch.no_grad():
            features: torch.Tensor = self.model.get_text_features(
                input_ids.to(self.device), return_dict=True
            ).pooler_output
        return features

    def _logits(
        self, clips: torch.Tensor, cache: ILACache | None = None, logits_to_keep: Any = 0, **params: Any
    ) -> torch.Tensor:
        vision_outputs = self.model.get_video_features(clips, cache, logits_to_keep, return_dict=True)
        logits: torch.Tensor = self.model.video_text_logits(vision_outputs, params["text_features"])[0]
        return logits

    def postprocess(self, model_outputs: ModelOutput, candidate_labels: list[str]) -> list[dict[str, Any]]:
        """Logits (1, V, K) to all classes, the best first."""
        return best_classes(model_outputs["logits"][0].softmax(-1).mean(0), candidate_labels)


def best_classes(
    scores: torch.Tensor, names: Sequence[str] | dict[int, str], top_k: int | None = None
) -> list[dict[str, Any]]:
    """Scores (K,) and names of the best classes, at most `top_k`, the best first."""
    best, places = scores.topk(min(top_k or len(scores), len(scores)))
    pairs = zip(best.tolist(), places.tolist(), strict=True)
    return [{"score": score, "label": names[place]} for score, place in pairs]


def score_function(function_to_apply: str | None, problem_type: str | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """What turns logits (..., K) into scores.

    Args:
        function_to_apply: "softmax", "sigmoid" or "none". Default: as the kind of the problem says.
        problem_type: "multi_label_classification" or None.

    Raises:
        ValueError: For another function.
    """
    if function_to_apply is None:
        function_to_apply = "sigmoid" if problem_type == "multi_label_classification" else "softmax"
    functions: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "softmax": partial(torch.softmax, dim=-1),
        "sigmoid": torch.sigmoid,
        "none": torch.clone,
    }
    if function_to_apply not in functions:
        allowed = ", ".join(map(repr, functions))
        raise ValueError(f"`function_to_apply` must be one of {allowed}, got {function_to_apply!r}.")
    return functions[function_to_apply]


def _some_of_a_video(
    windows: Iterator[tuple[int, VideoWindow]], batch_size: int
) -> Iterator[tuple[int, list[VideoWindow]]]:
    """The number of a video with up to `batch_size` of its windows."""
    for number, group in itertools.groupby(windows, key=operator.itemgetter(0)):
        while parts := [part for _, part in itertools.islice(group, batch_size)]:
            yield number, parts


def _by_video(
    answers: Iterable[tuple[int, dict[str, Any]]], failed: dict[int, str], tell: bool
) -> Iterator[list[dict[str, Any]] | dict[str, Any]]:
    """The answers for the windows of each video, in a list per video.

    If errors are to be told, that of a video comes behind the windows that could be read, or takes the place of the
    list where there are none.
    """
    begun = 0
    for number, group in itertools.groupby(answers, key=operator.itemgetter(0)):
        yield from ({"error": failed[i]} for i in range(begun, number) if tell and i in failed)
        windows = [answer for _, answer in group]
        yield windows + ([{"error": failed[number]}] if tell and number in failed else [])
        begun = number + 1
    yield from ({"error": error} for i, error in failed.items() if tell and i >= begun)


class _ReadAhead:
    """The batches of a loader, each read by a thread while the model is busy with the one before."""

    def __init__(self, loader: Any):
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        return ItemsAhead(iter(self.loader))


class ItemsAhead:
    """What an iterator gives, of which a thread takes `count` items ahead.

    An error comes in its turn, and what can be read after it follows.
    """

    def __init__(self, items: Iterator[Any], count: int = 1):
        self.items, self.count = items, count
        self.thread = ThreadPoolExecutor(1)
        self.waiting: deque[Future[Any]] = deque()

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        # Not before the first item is asked for: transformers makes passes that it never begins
        while len(self.waiting) <= self.count:
            self.waiting.append(self.thread.submit(next, self.items, None))
        item = self.waiting.popleft().result()
        if item is None:
            raise StopIteration
        return item

    def close(self) -> None:
        """Take no further item."""
        self.thread.shutdown(wait=False, cancel_futures=True)


class _Stream(IterableDataset):  # type: ignore[type-arg]
    """An iterator, as a DataLoader takes it."""

    def __init__(self, items: Iterable[Any]):
        self.items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self.items)


def _undecoded(inputs: Any) -> Any:
    """A column of videos of a data set without its decoding, which needs FFmpeg's libraries; others as they are."""
    if isinstance(inputs, KeyDataset):
        source, name = inputs.dataset, inputs.key
    else:
        source, name = getattr(inputs, "source", None), getattr(inputs, "column_name", None)
    feature: Any = (getattr(source, "features", None) or {}).get(name)
    if type(feature).__name__ != "Video" or not feature.decode:
        return inputs
    return source.cast_column(name, dataclasses.replace(feature, decode=False))[name]


def _collate(items: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.cat([item[name] for item in items]) for name in items[0]}


def _as_count(name: str, value: Any) -> int | None:
    try:
        count = None if value is None else operator.index(value)
    except TypeError:
        count = 0
    if isinstance(value, bool) or (count is not None and count < 1):
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}.")
    return count


def _as_labels(candidate_labels: Any) -> list[str]:
    if isinstance(candidate_labels, str):
        candidate_labels = [label.strip() for label in candidate_labels.split(",")]
    labels = list(candidate_labels)
    if not labels or not all(isinstance(label, str) and label for label in labels):
        raise ValueError(f"`candidate_labels` must be names, at least one, none of them empty; got {labels!r}.")
    check_names(labels, "`candidate_labels`")
    return labels


# Task: pipeline, auto class of its models, kind of its inputs
PIPELINES: dict[str, tuple[type[ILAVideoPipeline], type, str]] = {
    VIDEO_CLASSIFICATION: (ILAVideoClassificationPipeline, AutoModelForVideoClassification, "video"),
    ZERO_SHOT_VIDEO_CLASSIFICATION: (ILAZeroShotVideoClassificationPipeline, AutoModel, "multimodal"),
}
# As `pipeline` reads them in the configuration of a model whose code is saved beside it
CUSTOM_PIPELINES = {
    task: {"impl": f"pipeline_ila.{impl.__name__}", "pt": [model.__name__], "type": kind}
    for task, (impl, model, kind) in PIPELINES.items()
}


__all__ = ["ILAVideoClassificationPipeline", "ILAZeroShotVideoClassificationPipeline"]
