# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Labelled video files as `datasets`, decoded clip by clip when they are asked for."""

import csv
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, Features, Value

from .sampling import sample_frame_indices
from .video_processing_ila import ILAVideoProcessor
from .video_reading import VideoReadError, read_video


# What FFmpeg reads under these names; `datasets` itself would pass over .webm, which is what SSv2 ships
VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")


def _dataset(paths: Sequence[str], names: Sequence[str], label_names: Sequence[str] | None, source: Any) -> Dataset:
    label_names = sorted(set(names)) if label_names is None else list(label_names)
    unknown = sorted(set(names) - set(label_names))
    if unknown:
        raise ValueError(f"{str(source)!r} has classes that are not among the {len(label_names)} known: {unknown}.")
    features = Features({"video": Value("string"), "label": ClassLabel(names=label_names)})
    labels = [label_names.index(name) for name in names]
    return Dataset.from_dict({"video": list(paths), "label": labels}, features=features)


def load_video_folder(folder: str | Path, label_names: Sequence[str] | None = None) -> Dataset:
    """Video files sorted into one folder per class, `folder/<class>/**/<file>`.

    Args:
        folder: The folder of the class folders.
        label_names: The classes in the order of their ids, as of another split. Default: those found, sorted.

    Returns:
        A data set with the columns `video` (path) and `label` (ClassLabel).

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds no videos in class folders, or a class that is not among `label_names`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    files = sorted(f for f in folder.glob("*/**/*") if f.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise ValueError(
            f"{str(folder)!r} holds no video files in class folders (<class>/<file>{VIDEO_SUFFIXES[5]}, …)."
        )
    return _dataset(list(map(str, files)), [f.relative_to(folder).parts[0] for f in files], label_names, folder)


def load_video_csv(file: str | Path, label_names: Sequence[str] | None = None) -> Dataset:
    """A csv with the columns `video` and `label`; paths are relative to the folder of the csv.

    Args, returns and errors as in [`load_video_folder`]; a missing video file is an error too.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if not {"video", "label"} <= set(reader.fieldnames or []):
            raise ValueError(f"{str(file)!r} must have the columns video and label, got {reader.fieldnames}.")
        rows = []
        for row in reader:
            if not row["video"] or not row["label"]:
                raise ValueError(f"{str(file)!r}, line {reader.line_num}: a video and a label are needed, got {row}.")
            rows.append((str(file.parent / row["video"]), row["label"]))
    if not rows:
        raise ValueError(f"{str(file)!r} lists no videos.")
    missing = [path for path, _ in rows if not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{str(file)!r} lists {len(missing)} videos that do not exist, such as {missing[0]!r}."
        )
    return _dataset([path for path, _ in rows], [name for _, name in rows], label_names, file)


class ClipTransform:
    """Turns rows of [`load_video_folder`] into clips: `dataset.with_transform(ClipTransform(processor, train=True))`.

    In training the frames are drawn at random from torch's generator, which data loaders seed for every worker, and a
    video that cannot be read is reported and left out of its batch. In evaluation the frames are those of the
    processor, and such a video is an error: it must not vanish from a metric.
    """

    def __init__(self, processor: ILAVideoProcessor, train: bool):
        self.processor = processor
        self.train = train

    def _clip(self, path: str) -> torch.Tensor | None:
        processor = self.processor
        if not self.train:
            return processor(path, return_tensors="pt")["pixel_values"][0]
        try:
            frames, _ = read_video(
                path,
                lambda metadata: sample_frame_indices(
                    metadata.total_num_frames,
                    processor.num_frames,
                    processor.sampling_strategy,
                    processor.frame_sampling_rate,
                    torch.default_generator,
                ),
            )
        except VideoReadError as error:
            warnings.warn(str(error), stacklevel=2)
            return None
        return processor(frames, return_tensors="pt")["pixel_values"][0]

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        return {"pixel_values": [self._clip(path) for path in rows["video"]], "labels": rows["label"]}


def collate_clips(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Stack clips to `pixel_values` (B, T, 3, H, W) and `labels` (B,), without those that could not be read.

    Raises:
        VideoReadError: If none of the batch could be read.
    """
    kept = [sample for sample in samples if sample["pixel_values"] is not None]
    if not kept:
        raise VideoReadError(f"None of the {len(samples)} videos of a batch can be read; the warnings name them.")
    return {
        "pixel_values": torch.stack([sample["pixel_values"] for sample in kept]),
        "labels": torch.tensor([sample["labels"] for sample in kept]),
    }
