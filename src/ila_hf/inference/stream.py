# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Live video: a prediction for every frame at the price of one frame, and the command `ila-hf stream`."""

import argparse
from collections import deque
from collections.abc import Generator
from contextlib import closing, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from ..cache_ila import ILACache
from ..checks_ila import check_integrates_streams, check_stream, has_plain_weights
from ..pipeline_ila import best_classes, score_function
from ..video_sources import VideoReadError
from .live_video import LiveFrame, is_live, live_frames, to_frame
from .timeline import SUFFIXES, Timeline, check_suffix


Prediction = dict[str, Any]

MILLISECOND = Fraction(1, 1000)
# Arguments of the rule that makes a timeline
_RULE = {
    "threshold": "score from which on a class holds",
    "smoothing_seconds": "time over which scores are averaged",
    "min_seconds": "length of the shortest entry",
    "merge_seconds": "longest gap that is closed",
}


class Stream:
    """A live video, classified after each of its frames.

    Predictions are dicts as those of windows in the pipelines, and [`Timeline`] takes both:

        timestamp (start, end): Seconds, of the first and the last of the T frames that were looked at.
        labels: `{"score", "label"}` of the best classes, the best first.
        frame: The last frame, (3, H, W), uint8.
        dropped_frames: How many frames of the chosen rate were lost before it, because the consumer was late.

    Args:
        model: A classification model with a causal trunk: see [`ILACache`].
        processor: Its [`ILAProcessor`] or [`ILAVideoProcessor`].
        frames_per_second: How many frames a second the model sees. What it was trained with is T frames in the length
            of its clips. Default: all.
        num_frames: T. Default: as in the configuration of the model.
        top_k: How many classes are named, at most.
        function_to_apply ("softmax", "sigmoid" or "none"): Default: sigmoid for models with several labels per video,
            softmax for others.
        chunk_size: How many frames go through the model together. More than one costs less time in all, and the first
            of them waits for the others: for files.

    Example:

    ```python
    >>> from ila_hf import Stream

    >>> stream = Stream(model, processor, frames_per_second=4)
    >>> for prediction in stream("/dev/video0"):
    ...     print(prediction["timestamp"][1], prediction["labels"][0])
    ```

    Raises:
        ValueError: For a model that is not causal or has no classes, and for numbers below 1.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        frames_per_second: float | None = None,
        num_frames: int | None = None,
        top_k: int = 5,
        function_to_apply: str | None = None,
        chunk_size: int = 1,
    ):
        if not hasattr(model, "class_texts") and not hasattr(model, "classifier"):
            raise ValueError(f"{type(model).__name__} has no classes: load it with AutoModelForVideoClassification.")
        for name, value in {"top_k": top_k, "chunk_size": chunk_size}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        self.model = model.eval()
        check_integrates_streams(model.config)
        check_stream(model.vision_model)
        self.processor = getattr(processor, "video_processor", processor)
        self.frames_per_second, self.top_k, self.chunk_size = frames_per_second, top_k, chunk_size
        self.num_frames = model.config.num_frames if num_frames is None else num_frames
        self._scores_of = score_function(function_to_apply, model.config.problem_type)
        self.reset()

    def reset(self) -> None:
        """Begin another video."""
        self.cache = ILACache(self.num_frames)
        self._times: deque[float] = deque(maxlen=self.num_frames)

    def push(self, frame: Any, seconds: float) -> Prediction:
        """The prediction after one more frame.

        Args:
            frame: An array or tensor (H, W, 3) or (3, H, W), uint8, or a PIL image.
            seconds: When it was taken. It is seen whatever `frames_per_second` is.
        """
        return self._predict([LiveFrame(seconds, to_frame(frame))], self.cache, self._times)[0]

    def __call__(
        self,
        source: Any,
        drop_late: bool | None = None,
        input_format: str | None = None,
        source_fps: float | None = None,
    ) -> Generator[Prediction, None, None]:
        """The predictions for another video, as its frames come. Several may be under way.

        Args:
            source, drop_late, input_format, source_fps: See [`live_frames`].

        Raises:
            VideoReadError: If the source cannot be opened, is no video, or stops to send. What was read before it is
                answered first.
            ValueError: For what is no source.
        """
        frames = live_frames(source, self.frames_per_second, drop_late, input_format, source_fps)
        self.reset()
        return self._answers(frames, self.cache, self._times)

    def _answers(
        self, frames: Generator[LiveFrame, None, None], cache: ILACache, times: deque[float]
    ) -> Generator[Prediction, None, None]:
        chunk: list[LiveFrame] = []
        with closing(frames):
            try:
                for frame in frames:
                    if chunk and frame.pixels.shape != chunk[0].pixels.shape:
                        yield from self._predict(chunk, cache, times)
                        chunk = []
                    chunk.append(frame)
                    if len(chunk) == self.chunk_size:
                        yield from self._predict(chunk, cache, times)
                        chunk = []
            except VideoReadError:
                if chunk:
                    yield from self._predict(chunk, cache, times)
                raise
            if chunk:
                yield from self._predict(chunk, cache, times)

    @torch.no_grad()
    def _predict(self, frames: list[LiveFrame], cache: ILACache, times: deque[float]) -> list[Prediction]:
        clip = torch.stack([frame.pixels for frame in frames])
        inputs = self.processor(clip, do_sample_frames=False, num_clips=1, num_crops=1, return_tensors="pt")
        pixel_values = inputs["pixel_values"].to(self.model.device, self.model.dtype)
        logits = self.model(pixel_values, cache=cache, return_dict=True).logits[0]  # (S, K)
        scores = self._scores_of(logits).cpu()
        names = self.model.config.id2label
        predictions = []
        for frame, row in zip(frames, scores, strict=True):
            times.append(frame.time)
            prediction = {
                "timestamp": (times[0], frame.time),
                "labels": best_classes(row, names, self.top_k),
                "frame": frame.pixels,
                "dropped_frames": frame.dropped,
            }
            predictions.append(prediction)
        return predictions


class AnnotatedVideo:
    """A video file of frames with the best class written on them, at the times they had; without sound.

    Args:
        path: File to write; its container follows from its name.
    """

    def __init__(self, path: str | Path):
        self.container = av.open(str(path), "w")
        self.stream: Any = None
        self._last = -1

    def add(self, prediction: Prediction) -> None:
        """Write the frame of a prediction of [`Stream`]."""
        image = Image.fromarray(np.ascontiguousarray(prediction["frame"].permute(1, 2, 0).numpy()))
        if self.stream is None:
            self.stream = self.container.add_stream("libx264", rate=1000)
            self.stream.codec_context.time_base = MILLISECOND
            self.stream.width, self.stream.height = (max(side // 2 * 2, 2) for side in image.size)  # must be even
            self.stream.pix_fmt = "yuv420p"
        best = prediction["labels"][0]
        write_on(image, f"{best['label']} {best['score']:.2f}")
        pixels = np.asarray(image.resize((self.stream.width, self.stream.height)))
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        self._last = frame.pts = max(round(1000 * prediction["timestamp"][1]), self._last + 1)
        frame.time_base = MILLISECOND
        self.container.mux(self.stream.encode(frame))

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.stream is not None:
            self.container.mux(self.stream.encode())
        self.container.close()


def write_on(image: Image.Image, text: str) -> None:
    """Write a line at the lower edge of an image, on a dark bar, as large as fits."""
    draw = ImageDraw.Draw(image, "RGBA")
    size = max(image.height // 14, 8)
    while True:
        font = ImageFont.load_default(size)
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        if right - left <= image.width - size or size <= 8:
            break
        size -= 1
    height = bottom - top + size
    draw.rectangle((0, image.height - height, image.width, image.height), fill=(0, 0, 0, 160))
    draw.text((size / 2 - left, image.height - height + size / 2 - top), text, font=font, fill=(255, 255, 255))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf stream`."""
    parser.add_argument("--model", required=True, help="folder or Hub id of an ILA classification model")
    parser.add_argument("--video", required=True, help="file, address, or camera such as /dev/video0")
    parser.add_argument("--input_format", help="of a camera, as FFmpeg calls it: v4l2, avfoundation, dshow")
    parser.add_argument(
        "--live",
        action=argparse.BooleanOptionalAction,
        help="whether frames of the address come by themselves, as a camera's (default: what it looks like)",
    )
    parser.add_argument("--frames_per_second", type=float, help="how many frames the model sees (default: all)")
    parser.add_argument(
        "--num_frames", type=int, help="T, frames that a prediction looks back on (default: the model's)"
    )
    parser.add_argument("--top_k", type=int, default=5, help="classes that the timeline is made of (%(default)s)")
    parser.add_argument("--chunk_size", type=int, help="frames at a time (default: 1 if live, otherwise 8)")
    parser.add_argument("--max_seconds", type=float, help="end after this time of the video")
    parser.add_argument(
        "--first_frame", choices=["self"], help='let a model that was trained with first_frame="next" take part'
    )
    parser.add_argument("--output", type=Path, help="video to write, with the best class on every frame")
    parser.add_argument("--timeline", type=Path, help=f"file to write what happens when to: {', '.join(SUFFIXES)}")
    for name, text in _RULE.items():
        default = 0.5 if name == "threshold" else 0.0
        parser.add_argument(f"--{name}", type=float, default=default, help=f"of the timeline: {text} (%(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="(%(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf stream`: print the best class whenever it changes, then the timeline; Ctrl-C ends a live video.

    The scores of all frames are kept for the timeline; of a live video, which may go on for weeks, only if it is to be
    written.

    Raises:
        ValueError: For a model that is not causal, a timeline that is no .json, .csv or .vtt, and numbers below 0.
        FileNotFoundError: If there is no folder for what is to be written.
        VideoReadError: If the video cannot be read. What was seen of it is written first.
    """
    _check_what_is_written(arguments)
    model = AutoModelForVideoClassification.from_pretrained(arguments.model).to(arguments.device)
    if arguments.first_frame is not None:
        model.set_first_frame(arguments.first_frame)
    live = arguments.live
    if live is None:
        live = arguments.input_format is not None or is_live(arguments.video)
    stream = Stream(
        model.fuse() if has_plain_weights(model) else model,
        AutoVideoProcessor.from_pretrained(arguments.model),
        arguments.frames_per_second,
        arguments.num_frames,
        arguments.top_k,
        chunk_size=arguments.chunk_size or (1 if live else 8),
    )
    predictions = stream(arguments.video, drop_late=live, input_format=arguments.input_format)
    video = None if arguments.output is None else AnnotatedVideo(arguments.output)
    seen: list[Prediction] = []
    keeps = arguments.timeline is not None or not live
    label, dropped = None, 0
    try:
        with closing(predictions), video or nullcontext(), suppress(KeyboardInterrupt):
            for prediction in predictions:
                seconds = prediction["timestamp"][1]
                if arguments.max_seconds is not None and seconds > arguments.max_seconds:
                    break
                if video is not None:
                    video.add(prediction)
                best = prediction["labels"][0]
                dropped += prediction["dropped_frames"]
                if best["label"] != label:
                    label = best["label"]
                    print(f"{seconds:9.2f} s  {label} {best['score']:.2f}", flush=True)
                if keeps:
                    seen.append({name: prediction[name] for name in ("timestamp", "labels")})
    finally:
        _report(seen, dropped, video, arguments)


def _rule(arguments: argparse.Namespace) -> dict[str, float]:
    """What turns scores into a timeline."""
    return {name: getattr(arguments, name) for name in _RULE}


def _check_what_is_written(arguments: argparse.Namespace) -> None:
    """Raise, before hours of a camera are seen, what would be raised behind them."""
    Timeline.from_predictions([], **_rule(arguments))
    if arguments.timeline is not None:
        check_suffix(arguments.timeline)
    for file in (arguments.timeline, arguments.output):
        if file is not None and not file.absolute().parent.is_dir():
            raise FileNotFoundError(f"There is no folder {str(file.parent)!r} to write {file.name!r} to.")


def _report(seen: list[Prediction], dropped: int, video: AnnotatedVideo | None, arguments: argparse.Namespace) -> None:
    if dropped:
        print(f"{dropped} frames were dropped: the model is slower than they come.")
    written = []
    if video is not None and video.stream is not None:
        written.append(arguments.output)
    if seen:
        timeline = Timeline.from_predictions(seen, **_rule(arguments))
        print(f"{len(seen)} frames, timeline:")
        for entry in timeline:
            print(f"{entry.start:9.2f} - {entry.end:.2f} s  {entry.label} ({entry.score:.2f})")
        if arguments.timeline is not None:
            timeline.save(arguments.timeline)
            written.append(arguments.timeline)
    for path in written:
        print(f"Wrote {path}.")
