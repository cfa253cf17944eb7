# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the training scripts share: from arguments to data, model, processor and clips, with errors before the work."""

import copy
import logging
import os
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from datasets import Dataset, Features, IterableDataset, Value
from transformers import AutoProcessor, AutoTokenizer, AutoVideoProcessor

from ..configuration_ila import PRESET_NAMES, ILAConfig
from ..data.class_labels import read_labels
from ..data.unreadable_videos import UnreadableVideos
from ..data.video_clips import NO_LABEL, ClipReader, ErrorPolicy, VideoClips, stream_clips
from ..data.video_data import VIDEO_SUFFIXES, leave_out, load_video_dataset, load_videos
from ..data.video_transforms import names_a_side, training_transform
from ..modeling_ila import ILAForVideoClassification, ILAForVideoTextClassification
from ..processing_ila import ILAProcessor
from ..video_processing_ila import ILAVideoProcessor
from ..video_sources import VideoLimits
from .arguments import DataArguments, ModelArguments


logger = logging.getLogger(__name__)

ILAClassifier = ILAForVideoTextClassification | ILAForVideoClassification


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
    arguments: DataArguments, seed: int, model_labels: Sequence[str] | None = None, evaluates: bool = True
) -> VideoSplits:
    """The splits that the arguments ask for.

    The classes are those of --labels_file, else of the training videos, else of the model, else, and with --zero_shot,
    of the validation videos.

    Args:
        arguments: Of the script.
        seed: Of the choice of --max_train_samples and the like.
        model_labels: The classes of a trained model.
        evaluates: Whether the validation split of a --dataset_name is needed; it may have none.

    Raises:
        ValueError: For splits given twice, classes in one split only, and splits without videos.
        FileNotFoundError: If a file or folder does not exist.
    """
    names = read_labels(arguments.labels_file) if arguments.labels_file else None
    is_fixed = names is not None
    train = _load_split(arguments, "train", names)
    if train is not None and names is None:
        names = list(train.features["label"].names)
    elif names is None and model_labels is not None and not arguments.zero_shot:
        names, is_fixed = list(model_labels), True
    if arguments.train_val_split is not None and (arguments.validation_dir or arguments.validation_file):
        raise ValueError("--train_val_split takes validation videos from the training videos; others are given, too.")
    validation = _load_split(arguments, "validation", names, evaluates)
    if arguments.train_val_split is not None and validation is None:
        if not isinstance(train, Dataset):
            raise ValueError(
                "--train_val_split needs --train_dir, --train_file or a --dataset_name without streaming."
            )
        train, validation = _split_classes(train, arguments.train_val_split, seed)
    elif isinstance(train, Dataset) and validation is not None and not is_fixed and arguments.dataset_name is None:
        _refuse_missing_classes(train, validation)
    if names is None and validation is not None:
        names = list(validation.features["label"].names)
    if isinstance(train, Dataset):
        train = _limit(_without_unreadable(train, arguments.unreadable_file), arguments.max_train_samples, seed)
    elif train is not None:
        if arguments.shuffle_buffer:
            train = train.shuffle(seed=seed, buffer_size=arguments.shuffle_buffer)
        if arguments.max_train_samples is not None:
            train = train.take(arguments.max_train_samples)
    validation = _limit(validation, arguments.max_eval_samples, seed)
    test = None if arguments.test_dir is None else load_unlabelled(arguments.test_dir)
    return VideoSplits(train, validation, test, names)


def _load_split(arguments: DataArguments, split: str, names: list[str] | None, is_needed: bool = True) -> Any:
    folder, file, name = (
        getattr(arguments, f"{split}_dir"),
        getattr(arguments, f"{split}_file"),
        arguments.dataset_name,
    )
    if folder is not None and file is not None:
        raise ValueError(f"Give one source for the {split} videos, a folder or a list, got {folder!r} and {file!r}.")
    if split == "train" and (folder or file) and name is not None:
        raise ValueError(f"Give one source for the training videos: got {folder or file!r} and the data set {name!r}.")
    if folder is not None:
        return load_videos(folder, names)
    if file is not None:
        return load_videos(file, names, arguments.video_root, arguments.allow_outside_root)
    if name is None or not is_needed or (split == "validation" and arguments.train_val_split is not None):
        return None
    hub_split = getattr(arguments, f"{split}_split")
    files: dict[str, list[str]] = {}
    for entry in arguments.data_files:
        key, _, pattern = entry.partition("=")
        files.setdefault(key, []).append(pattern)
    if files and hub_split not in files:
        return None
    return load_video_dataset(
        name,
        arguments.dataset_config_name,
        hub_split,
        streaming=arguments.streaming and split == "train",
        video_column=arguments.video_column,
        label_column=arguments.label_column,
        label_names=names,
        **({"data_files": files} if files else {}),
    )


def _split_classes(data: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset]:
    """Training and validation videos, the share of every class; a class of one video cannot be in both."""
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


def _limit(data: Any, limit: int | None, seed: int) -> Any:
    if limit is None or not isinstance(data, Dataset):
        return data
    return data.shuffle(seed=seed).select(range(min(limit, len(data))))


def load_unlabelled(folder: str | Path) -> Dataset:
    """All video files below a folder, with the label -1.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If it holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    files = sorted(
        str(f)
        for f in folder.rglob("*")
        if f.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in f.relative_to(folder).parts)
        and f.is_file()
    )
    if not files:
        raise ValueError(f"{str(folder)!r} holds no video files.")
    features = Features({"video": Value("string"), "label": Value("int64")})
    return Dataset.from_dict({"video": files, "label": [NO_LABEL] * len(files)}, features=features)


def load_config(arguments: ModelArguments) -> ILAConfig:
    """The configuration that --config_name, else the model, gives, with the fields that the arguments set.

    Raises:
        ValueError: Without a source, and for fields that a trained ILA model contradicts.
    """
    source = arguments.config_name or arguments.model_name_or_path
    if source is None:
        raise ValueError("Give --model_name_or_path to fine-tune a model, or --config_name to train from scratch.")
    config = ILAConfig.from_preset(source) if source in PRESET_NAMES else ILAConfig.from_pretrained(source)
    is_ila = is_trained(arguments, config)
    for name, target in (("num_frames", config), ("interaction_token", config.vision_config)):
        value = getattr(arguments, name)
        if value is None:
            continue
        if is_ila and value != getattr(target, name):
            raise ValueError(f"--{name} {value} does not fit {source!r}, which was made with {getattr(target, name)}.")
        setattr(target, name, value)
        target.validate()
    return config


def is_trained(arguments: ModelArguments, config: ILAConfig) -> bool:
    """Whether the weights are those of an ILA model, not of a plain CLIP, and not new."""
    if arguments.model_name_or_path is None:
        return False
    if arguments.config_name is not None:  # it may be that of an ILA model, and the weights those of a plain CLIP
        config = ILAConfig.from_pretrained(arguments.model_name_or_path)
    return any(name.startswith("ILA") for name in config.architectures or [])


def load_model_and_processor(
    arguments: ModelArguments,
    data_arguments: DataArguments,
    config: ILAConfig,
    label_names: list[str] | None,
    trains: bool = True,
) -> tuple[ILAClassifier, ILAProcessor | ILAVideoProcessor]:
    """The model, frozen as asked for, and its processor.

    Its alignment is new where the checkpoint is a plain CLIP, its classes where they are others.

    Args:
        arguments, data_arguments: Of the script.
        config: Of [`load_config`].
        label_names: None to leave the classes of the model as they are.
        trains: Whether what is new will be trained.

    Raises:
        ValueError: If weights do not fit, a tokenizer is missing, or a new linear classifier will not be trained.
    """
    is_linear = ILAForVideoClassification.__name__ in (config.architectures or [])
    is_linear |= (arguments.config_name or "").endswith("ssv2")
    head = arguments.head or ("linear" if is_linear else "text")
    names = [config.id2label[i] for i in range(config.num_labels)]
    keeps_classes = is_trained(arguments, config) and label_names in (None, names)
    names = label_names or names
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    processor = _load_processor(arguments, config, needs_tokenizer=head == "text")
    model = _load_model(arguments, config, head, trains)
    if isinstance(model, ILAForVideoTextClassification) and not keeps_classes:
        texts = [data_arguments.class_text_template.format(name.replace("_", " ")) for name in names]
        model.set_class_texts(texts, processor, labels=names)
    model.freeze(*arguments.freeze)
    return model, processor


def _load_processor(arguments: ModelArguments, config: ILAConfig, needs_tokenizer: bool) -> Any:
    """Processor of the model, or a new one with the tokenizer of the model; --tokenizer_name wins."""
    source = arguments.processor_name or (arguments.model_name_or_path if is_trained(arguments, config) else None)
    if source is not None and needs_tokenizer and arguments.tokenizer_name is None:
        return AutoProcessor.from_pretrained(source)
    video_processor = AutoVideoProcessor.from_pretrained(source) if source else ILAVideoProcessor.from_config(config)
    if not needs_tokenizer:
        return video_processor
    tokenizer = arguments.tokenizer_name or arguments.model_name_or_path
    if tokenizer is None:
        raise ValueError("Class texts need a tokenizer: give --tokenizer_name, or --head linear.")
    return ILAProcessor(video_processor, AutoTokenizer.from_pretrained(tokenizer))


def _load_model(arguments: ModelArguments, config: ILAConfig, head: str, trains: bool) -> ILAClassifier:
    model_class = ILAForVideoTextClassification if head == "text" else ILAForVideoClassification
    if arguments.model_name_or_path is None:
        return model_class(config)
    loaded: Any = model_class.from_pretrained(
        arguments.model_name_or_path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    model, info = cast("tuple[ILAClassifier, dict[str, Any]]", loaded)
    changed = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    if not trains and any(key.startswith("classifier.") for key in changed):
        raise ValueError(
            f"{arguments.model_name_or_path!r} has no linear classifier for these classes: it must be trained before "
            "it can be evaluated. --zero_shot needs a model with class texts."
        )
    wrong = [key for key, *_ in info["mismatched_keys"] if not key.startswith(("class_texts.", "classifier."))]
    wrong += [key for key in info["missing_keys"] if model.parameter_origin(key) in ("text", "vision")]
    if wrong:
        shown = ", ".join(wrong[:3]) + (f" and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise ValueError(f"The weights of {arguments.model_name_or_path!r} do not fit the configuration: {shown}.")
    return model


@dataclass
class ClipSets:
    """The clips of a run; see [`VideoSplits`]."""

    train: VideoClips | IterableDataset | None
    validation: VideoClips | None
    test: VideoClips | None
    unreadable: UnreadableVideos


def _flip(arguments: DataArguments, label_names: list[str] | None) -> float:
    if arguments.flip is not None:
        return arguments.flip
    return 0.0 if names_a_side(label_names or []) else 0.5


def describe_data_recipe(
    arguments: ModelArguments, data_arguments: DataArguments, label_names: list[str] | None
) -> dict[str, Any]:
    """What a card says of augmentation and frozen parts."""
    flip = f"multi-scale crop, colours, mirrored with probability {_flip(data_arguments, label_names):g}"
    return {
        "Augmentation": flip if data_arguments.augment else "none but random frames",
        "Frozen": ", ".join(arguments.freeze) or "nothing",
    }


def make_clips(
    splits: VideoSplits, processor: Any, arguments: DataArguments, output_dir: str | Path, seed: int
) -> ClipSets:
    """Clips of the splits: drawn and augmented for training, the views that are asked for in evaluation.

    Videos that cannot be read are listed in `output_dir/unreadable_videos.jsonl`.

    Args:
        splits: Of [`load_splits`].
        processor: Of the model.
        arguments: Of the script.
        output_dir: Of the run.
        seed: Of the draws.
    """
    processor = getattr(processor, "video_processor", processor)
    unreadable = UnreadableVideos(Path(output_dir) / "unreadable_videos.jsonl")
    limits = VideoLimits(decode_seconds=arguments.decode_seconds)
    flip = _flip(arguments, splits.label_names)
    if flip and arguments.augment and names_a_side(splits.label_names or []):
        warnings.warn(f"--flip {flip} mirrors clips although a class names a side, such as left.", stacklevel=2)
    transform = training_transform(processor, flip=flip) if arguments.augment else None
    read_train = ClipReader(processor, True, transform, unreadable=unreadable, limits=limits)
    views = copy.deepcopy(processor)
    for name in ("num_clips", "num_crops"):
        if getattr(arguments, name) is not None:
            setattr(views, name, getattr(arguments, name))
    on_error = cast("ErrorPolicy", arguments.on_eval_error)
    read_eval = ClipReader(views, False, None, on_error, unreadable, limits)
    train: Any = splits.train
    if isinstance(train, Dataset):
        train = VideoClips(train, read_train, seed)
    elif train is not None:
        train = stream_clips(train, read_train, int(os.environ.get("WORLD_SIZE", "1")))
    return ClipSets(
        train,
        VideoClips(splits.validation, read_eval) if splits.validation is not None else None,
        # Nothing can be said of a video without a class if it cannot be read: it is listed and predicted as nothing
        VideoClips(splits.test, ClipReader(views, False, None, "wrong", unreadable, limits)) if splits.test else None,
        unreadable,
    )


def check_splits(splits: VideoSplits, arguments: Any) -> None:
    """Whether there is what --do_train, --do_eval and --do_predict need.

    Raises:
        ValueError: Naming what is missing.
    """
    for job, split, sources in (
        ("do_train", splits.train, "--train_dir, --train_file or --dataset_name"),
        ("do_eval", splits.validation, "--validation_dir, --validation_file, --dataset_name or --train_val_split"),
        ("do_predict", splits.test, "--test_dir"),
    ):
        if getattr(arguments, job) and split is None:
            raise ValueError(f"--{job} needs {sources}.")
