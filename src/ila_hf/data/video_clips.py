# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Clips for training and evaluation from the data sets of video_data.py, decoded when they are asked for."""

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Literal, cast

import torch
from datasets import Dataset, IterableDataset

from ..processing_ila import ILAProcessor
from ..sampling import sample_frame_indices, seeded
from ..video_processing_ila import ILAVideoProcessor
from ..video_reading import read_video
from ..video_sources import VideoLimits, VideoReadError, source_name
from .unreadable_videos import UnreadableVideos
from .video_data import undecoded


ErrorPolicy = Literal["skip", "error", "wrong"]
# In training, and in evaluation
_POLICIES: dict[bool, tuple[ErrorPolicy, ...]] = {True: ("skip", "error"), False: ("error", "wrong")}
IGNORED_LABEL = -100  # what losses leave out and no prediction equals: of a clip that could not be read
_TRIES = 100  # unreadable videos in a row that end a run: then it is not the videos


class ClipReader:
    """Reads the clip of a row: `pixel_values` (T, 3, S, S), or (V, T, 3, S, S) with several views, and `labels`.

    In training the frames are drawn at random from torch's generator, which data loaders seed for every worker, and
    go through `transform`. In evaluation they are those of the processor.

    Args:
        processor: Tells T, S, how frames are sampled and pixels normalised, and the views of an evaluation. Of an
            [`ILAProcessor`], its part for videos.
        train: Whether to draw at random.
        transform: For training: frames (T, 3, H, W), uint8, to (T, 3, S, S), such as [`training_transform`]. Default:
            resize and crop as in evaluation.
        on_error: What becomes of a video that cannot be read. "skip": another one is drawn, or, in a stream, the next
            follows. "error": an error. "wrong": a black clip whose label, -100, counts neither for the loss nor as a
            hit. Default: "skip" in training, "error" in evaluation.
        unreadable: The list of videos that could not be read; each is reported once.
        limits: What reading a video may cost.

    Raises:
        ValueError: For unknown policies, for "skip" in evaluation, which would drop videos from the metric, and for
            "wrong" in training, which would learn from them.
    """

    def __init__(
        self,
        processor: ILAVideoProcessor | ILAProcessor,
        train: bool,
        transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        on_error: ErrorPolicy | None = None,
        unreadable: UnreadableVideos | None = None,
        limits: VideoLimits | None = None,
    ):
        on_error = _POLICIES[train][0] if on_error is None else on_error
        if on_error not in _POLICIES[train]:
            job = "training" if train else "evaluation"
            raise ValueError(f"`on_error` must be one of {_POLICIES[train]} in {job}, got {on_error!r}.")
        self.processor: ILAVideoProcessor = (
            processor.video_processor if isinstance(processor, ILAProcessor) else processor
        )
        self.train, self.transform, self.on_error = train, transform, on_error
        self.unreadable = UnreadableVideos() if unreadable is None else unreadable
        self.limits = limits

    def __call__(self, row: dict[str, Any]) -> dict[str, Any] | None:
        """The clip of a row with `video` and `label`; None for a video to skip.

        Raises:
            VideoReadError: If the video cannot be read and the policy is "error".
        """
        try:
            return {"pixel_values": self._clip(row["video"]), "labels": row["label"]}
        except VideoReadError as error:
            self.unreadable.add(video_name(row["video"]), str(error))
            if self.on_error == "error":
                advice = "" if self.train else " To score such videos as wrong: `on_error`, --on_eval_error wrong."
                raise type(error)(f"{error}{advice}") from error
        if self.on_error == "skip":
            return None
        size, num_frames = self.processor.crop_size, self.processor.num_clips * self.processor.num_frames
        black = torch.zeros(num_frames, 3, size["height"], size["width"], dtype=torch.uint8)
        return {"pixel_values": self._process(black), "labels": IGNORED_LABEL}

    def _clip(self, video: Any) -> torch.Tensor:
        processor = self.processor
        sampler = partial(_draw, processor) if self.train else processor.sample_frames
        try:
            frames, _ = read_video(video, sampler, self.limits)
        except VideoReadError as error:
            if isinstance(video, dict) and not video.get("path"):  # bytes have no name
                raise type(error)(f"{video_name(video)}: {error}") from error
            raise
        if not self.train:
            return self._process(frames)
        if self.transform is None:
            return self._process(frames, num_clips=1, num_crops=1)
        return self._process(self.transform(frames), num_clips=1, num_crops=1, do_resize=False, do_center_crop=False)

    def _process(self, frames: torch.Tensor, **arguments: Any) -> torch.Tensor:
        batch = self.processor(frames, do_sample_frames=False, return_tensors="pt", **arguments)
        return cast("torch.Tensor", batch["pixel_values"][0])


def video_name(video: Any) -> str:
    """How reports call the video of a row."""
    content = video.get("bytes") if isinstance(video, dict) else video
    if isinstance(video, dict) and video.get("path"):
        return str(video["path"])
    if isinstance(content, bytes):
        return f"<{len(content)} bytes, SHA-1 {hashlib.sha1(content).hexdigest()}>"
    return source_name(content)


def _draw(processor: ILAVideoProcessor, metadata: Any) -> list[int]:
    return sample_frame_indices(
        metadata.total_num_frames,
        processor.num_frames,
        processor.sampling_strategy,
        processor.frame_sampling_rate,
        torch.default_generator,
    )


class VideoClips(torch.utils.data.Dataset[dict[str, Any]]):
    """The clips of a data set with random access; a video to skip is replaced by another, drawn at random.

    What is drawn for a clip depends on the seed, the epoch and its number only: not on the workers, nor on the clips
    before it, so that a resumed run sees what it would have seen.

    Args:
        data: Rows of `video` and `label`.
        reader: Makes clips of them.
        seed: Of the random draws.
    """

    def __init__(self, data: Dataset, reader: ClipReader, seed: int = 0):
        self.data, self.reader, self.seed = undecoded(data), reader, seed
        self._epoch = torch.zeros((), dtype=torch.long).share_memory_()  # loader workers that persist see it change

    @property
    def epoch(self) -> int:
        """Of the draws."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Draw anew; call it at the start of every epoch, before the loader is iterated, as [`ILATrainer`] does."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """
        Raises:
            VideoReadError: If the policy says so, or if a hundred videos in a row cannot be read.
        """
        with seeded(self.seed, self.epoch, int(index)):
            return self._read(index)

    def _read(self, index: int) -> dict[str, Any]:
        for _ in range(_TRIES):
            sample = self.reader(self.data[index])
            if sample is not None:
                return sample
            index = int(torch.randint(len(self), ()))
        raise VideoReadError(f"{_TRIES} videos in a row cannot be read; the last: {self.data[index]['video']!r}.")


class ClipSampler(torch.utils.data.Sampler[int]):
    """The numbers of the clips of an epoch in random order, which depends on the seed and the epoch only.

    Args:
        num_clips: Of the data set.
        seed: Of the order.
        round_to: Clips that all processes take in one step. What remains at the end of an epoch, other clips in every
            epoch, is left out: no process gets a clip twice to fill its batch. 1 for a single process.

    Raises:
        ValueError: If there are fewer clips than `round_to`.
    """

    def __init__(self, num_clips: int, seed: int = 0, round_to: int = 1):
        if num_clips < round_to:
            raise ValueError(f"{num_clips} clips are fewer than all processes take in one step, {round_to}.")
        self.num_clips, self.seed, self.epoch = num_clips, seed, 0
        self.length = num_clips // round_to * round_to

    def set_epoch(self, epoch: int) -> None:
        """Take the order of an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        with seeded(self.seed, self.epoch):
            order = torch.randperm(self.num_clips)
        return iter(order[: self.length].tolist())


def stream_clips(data: IterableDataset, reader: ClipReader, num_processes: int = 1) -> IterableDataset:
    """The clips of a data set that streams; a video to skip is left out.

    With Trainer or accelerate set `dispatch_batches=False`: each process then reads shards of its own. A clip is drawn
    from torch's generator, which data loaders seed for every worker. A shard that is itself damaged, such as a tar
    file cut short, is an error.

    Args:
        data: From [`load_video_dataset`].
        reader: Makes clips of its rows.
        num_processes: Processes that share it.

    Raises:
        ValueError: If there are fewer shards than processes, each of which would then decode everything.
    """
    if data.num_shards < num_processes:
        raise ValueError(
            f"{data.num_shards} shards cannot be shared by {num_processes} processes: write the data set as "
            f"{num_processes} shards or more."
        )

    rows = undecoded(data.select_columns(["video", "label"]))
    return rows.map(partial(_read_rows, reader=reader), batched=True, batch_size=1, remove_columns=["video", "label"])


def _read_rows(rows: dict[str, list[Any]], reader: ClipReader) -> dict[str, list[Any]]:
    pairs = zip(rows["video"], rows["label"], strict=True)
    samples = [reader({"video": video, "label": label}) for video, label in pairs]
    kept = [sample for sample in samples if sample is not None]
    return {name: [sample[name] for sample in kept] for name in ("pixel_values", "labels")}


def collate_clips(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack clips to `pixel_values` (B, T, 3, H, W), or (B, V, T, 3, H, W), and `labels` (B,)."""
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in samples]),
        "labels": torch.tensor([sample["labels"] for sample in samples]),
    }
