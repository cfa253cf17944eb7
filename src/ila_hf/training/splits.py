# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The videos of a run, from the arguments of the scripts: sources, then classes, then limits. Nothing is decoded."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import ClassLabel, Dataset, IterableDataset, Value

from ..data.class_labels import read_labels
from ..data.unreadable_videos import UnreadableVideos
from ..data.video_data import leave_out, load_unlabelled, load_video_dataset, load_videos
from ..data.video_folders import split_folders
from ..data.video_lengths import describe_lengths
from .arguments import DataArguments


logger = logging.getLogger(__name__)

SplitLoader = Callable[..., Any]


@dataclass
class VideoSplits:
    """The videos of a run, nothing decoded.

    Args:
        train, validation: Rows of `video` and `label`.
        test: Rows to predict, whose `label` is -1.
        label_names: The classes in the order of their ids; None for those of the model.
    """

    train: Dataset | IterableDataset | None
    validation: Dataset | None
    test: Dataset | None
    label_names: list[str] | None


def load_splits(
    arguments: DataArguments,
    seed: int,
    model_labels: Sequence[str] | None = None,
    trains: bool = True,
    evaluates: bool = True,
    predicts: bool = True,
) -> VideoSplits:
    """The splits that the arguments ask for.

    The classes are those of --labels_file, else of the training videos, else of the model, else, and with --zero_shot,
    of the validation videos.

    Args:
        arguments: Of the script.
        seed: Of the choice of --max_train_samples and the like.
        model_labels: The classes of a trained model.
        trains: Whether training videos are needed; they tell the classes only then.
        evaluates: Whether the validation split of a --dataset_name is needed; it may have none.
        predicts: Whether test videos are needed.

    Raises:
        ValueError: For splits with two sources, classes in one split only, a single class to train, and splits without
            videos.
        FileNotFoundError: If a file or folder does not exist.
    """
    arguments = name_folders(arguments)
    train_source = find_source(arguments, "train", trains or arguments.train_val_split is not None)
    validation_source = find_source(arguments, "validation", evaluates)
    listed = read_labels(arguments.labels_file) if arguments.labels_file else None
    told = listed if trains or arguments.zero_shot else listed or model_labels
    train = train_source(label_names=told) if train_source else None
    names = listed or _classes(train)
    if train is not None and names is not None and len(names) < 2:
        raise ValueError(f"The training videos show the single class {names[0]!r}: there is nothing to tell apart.")
    if names is None and model_labels is not None and not arguments.zero_shot:
        names = list(model_labels)
    if arguments.train_val_split is not None:
        train, validation = hold_out(train, arguments.train_val_split, seed)
    else:
        validation = validation_source(label_names=names) if validation_source else None
        if isinstance(train, Dataset) and validation is not None and listed is None and not arguments.dataset_name:
            _refuse_missing_classes(train, validation)
    test_source = find_source(arguments, "test", predicts)
    splits = VideoSplits(
        train=limit_training(train, arguments, seed),
        validation=_limit(validation, arguments.max_eval_samples, seed),
        test=test_source() if test_source else None,
        label_names=names or _classes(validation),
    )
    for split, data in (("Training", splits.train), ("Validation", splits.validation), ("Test", splits.test)):
        if isinstance(data, Dataset) and logger.isEnabledFor(logging.INFO):
            lengths = describe_lengths(data["video"] if data.features["video"] == Value("string") else [])
            logger.info(f"{split}: {describe_videos(data)}{', ' if lengths else ''}{lengths}.")
    return splits


def name_folders(arguments: DataArguments) -> DataArguments:
    """Arguments with the folder of every split, where --data_dir, --train_dir or --validation_dir holds several.

    Raises:
        ValueError: For --data_dir beside folders of its splits, and for a folder that does not hold the split.
    """
    given: dict[str, Any] = {}
    if arguments.data_dir is not None:
        for name in ("train_dir", "train_file", "dataset_name"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--data_dir holds the training videos, too: --{name} is one source too many.")
        given["train_dir"] = arguments.data_dir
    for split in ("train", "validation"):
        folder = given.get(f"{split}_dir") or getattr(arguments, f"{split}_dir")
        found = split_folders(Path(folder)) if folder else {}
        if found and split not in found:
            raise ValueError(f"{folder!r} holds the splits {', '.join(found)}, but no {split}.")
        if found:
            given[f"{split}_dir"] = str(found[split])
        if split == "train":  # the others are those beside it, unless the arguments name some
            if arguments.validation_file is None and arguments.train_val_split is None:
                given["validation_dir"] = arguments.validation_dir or _path(found.get("validation"))
            if arguments.test_file is None:
                given["test_dir"] = arguments.test_dir or _path(found.get("test"))
        if found:
            logger.info(f"{folder!r} holds the splits {', '.join(entry.name for entry in found.values())}.")
    return replace(arguments, data_dir=None, **given)


def _path(folder: Path | None) -> str | None:
    return None if folder is None else str(folder)


def describe_videos(data: Dataset) -> str:
    """Such as "48 videos, 4 classes (12/12/12/12)"."""
    feature = data.features["label"]
    if not isinstance(feature, ClassLabel):
        return f"{len(data)} videos"
    counts = Counter(data["label"])
    of_each = [counts[i] for i in range(feature.num_classes)]
    shown = "/".join(map(str, of_each)) if len(of_each) <= 12 else f"{min(of_each)} to {max(of_each)} of each"
    return f"{len(data)} videos, {len(of_each)} classes ({shown})"


def find_source(arguments: DataArguments, split: str, is_needed: bool = True) -> SplitLoader | None:
    """What loads "train" or "validation", given `label_names`, or "test"; None if the arguments give no source.

    Raises:
        ValueError: For two sources.
    """
    folder, file = getattr(arguments, f"{split}_dir"), getattr(arguments, f"{split}_file")
    load: SplitLoader = load_unlabelled if split == "test" else load_videos
    source, name = folder or file, arguments.dataset_name
    if folder and file:
        raise ValueError(f"Give one source for the {split} videos, a folder or a list, got {folder!r} and {file!r}.")
    if source and name and split == "train":
        raise ValueError(f"Give one source for the training videos: got {source!r} and the data set {name!r}.")
    if split == "validation" and arguments.train_val_split is not None:
        if source:
            raise ValueError(
                "--train_val_split takes validation videos from the training videos; others are given, too."
            )
        return None
    if split != "validation" and not is_needed:
        return None
    if folder:
        return partial(load, folder)
    if file:
        outside = arguments.allow_outside_root
        return partial(load, file, video_root=arguments.video_root, allow_outside_root=outside)
    return _hub_source(arguments, split) if name and is_needed and split != "test" else None


def _hub_source(arguments: DataArguments, split: str) -> SplitLoader | None:
    hub_split = getattr(arguments, f"{split}_split")
    files: dict[str, list[str]] = {}
    for entry in arguments.data_files:
        key, _, pattern = entry.partition("=")
        files.setdefault(key, []).append(pattern)
    if files and hub_split not in files:
        return None
    columns = {"video_column": arguments.video_column, "label_column": arguments.label_column}
    streaming = arguments.streaming and split == "train"
    options: dict[str, Any] = {**columns, "streaming": streaming, **({"data_files": files} if files else {})}
    return partial(
        load_video_dataset, str(arguments.dataset_name), arguments.dataset_config_name, hub_split, **options
    )


def _classes(data: Any) -> list[str] | None:
    return None if data is None else list(data.features["label"].names)


def hold_out(data: Any, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training and validation videos, the share of every class.

    Raises:
        ValueError: For no data set with random access, and for a class of one video, which cannot be in both.
    """
    if not isinstance(data, Dataset):
        raise ValueError("--train_val_split needs --train_dir, --train_file or a --dataset_name without streaming.")
    labels = list(data["label"])
    rare = [i for i, count in Counter(labels).items() if count < 2]
    if rare:
        names = [data.features["label"].names[i] for i in sorted(rare)]
        raise ValueError(f"--train_val_split needs two videos of every class; there is one of {names}.")
    generator = torch.Generator().manual_seed(seed)
    places: dict[int, list[int]] = {}
    for place in torch.randperm(len(data), generator=generator).tolist():
        places.setdefault(labels[place], []).append(place)
    held_out = {p for own in places.values() for p in own[: min(max(round(share * len(own)), 1), len(own) - 1)]}
    rest = [place for place in range(len(data)) if place not in held_out]
    return data.select(rest), data.select(sorted(held_out))


def _refuse_missing_classes(train: Dataset, validation: Dataset) -> None:
    names, seen = train.features["label"].names, set(validation["label"])
    missing = [name for i, name in enumerate(names) if i not in seen]
    if missing:
        raise ValueError(
            f"The validation videos show none of the classes {missing} of the training videos. If that is right, name "
            "all classes in a --labels_file."
        )


def limit_training(data: Any, arguments: DataArguments, seed: int) -> Any:
    """Without what --unreadable_file lists, and no more than --max_train_samples; a stream is shuffled."""
    if isinstance(data, Dataset):
        return _limit(_without_unreadable(data, arguments.unreadable_file), arguments.max_train_samples, seed)
    if data is None:
        return None
    if arguments.shuffle_buffer:
        data = data.shuffle(seed=seed, buffer_size=arguments.shuffle_buffer)
    return data if arguments.max_train_samples is None else data.take(arguments.max_train_samples)


def _without_unreadable(data: Dataset, file: str | None) -> Dataset:
    if file is None:
        return data
    if not Path(file).is_file():
        raise FileNotFoundError(f"There is no file {file!r} (--unreadable_file).")
    if data.features["video"] != Value("string"):
        raise ValueError("--unreadable_file leaves out files of --train_dir and --train_file only.")
    kept = leave_out(data, UnreadableVideos(file).read())
    logger.info(f"{len(data) - len(kept)} of {len(data)} training videos are left out as unreadable.")
    return kept


def _limit(data: Dataset | None, limit: int | None, seed: int) -> Dataset | None:
    if limit is None or data is None:
        return data
    return data.shuffle(seed=seed).select(range(min(limit, len(data))))


def check_splits(splits: VideoSplits, arguments: Any) -> None:
    """Whether there is what --do_train, --do_eval and --do_predict need.

    Raises:
        ValueError: Naming what is missing; if there is none of the three.
    """
    if not (arguments.do_train or arguments.do_eval or arguments.do_predict):
        raise ValueError("There is nothing to do: give --do_train, --do_eval or --do_predict.")
    for job, split, sources in (
        ("do_train", splits.train, "--data_dir, --train_dir, --train_file or --dataset_name"),
        ("do_eval", splits.validation, "--validation_dir, --validation_file, --dataset_name or --train_val_split"),
        ("do_predict", splits.test, "--test_dir or --test_file"),
    ):
        if getattr(arguments, job) and split is None:
            raise ValueError(f"--{job} needs {sources}.")
