# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the training scripts share: from arguments to data, model, processor and clips, with errors before the work."""

import copy
import logging
import math
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from datasets import Dataset, IterableDataset
from transformers import AutoProcessor, AutoTokenizer, AutoVideoProcessor
from transformers.trainer_utils import IntervalStrategy

from ..configuration_ila import PRESET_NAMES, ILAConfig
from ..data.unreadable_videos import UnreadableVideos
from ..data.video_clips import ClipReader, ErrorPolicy, VideoClips, stream_clips
from ..data.video_folders import SPLIT_NAMES
from ..data.video_transforms import names_a_side, training_transform
from ..modeling_ila import ILAForVideoClassification, ILAForVideoTextClassification
from ..processing_ila import ILAProcessor
from ..video_processing_ila import ILAVideoProcessor
from ..video_sources import VideoLimits, is_url
from .arguments import DataArguments, ILATrainingArguments, ModelArguments
from .splits import VideoSplits


logger = logging.getLogger(__name__)

UNREADABLE_LIST = "unreadable_videos.jsonl"  # in the folder of the run

ILAClassifier = ILAForVideoTextClassification | ILAForVideoClassification


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


def chosen_head(arguments: ModelArguments, config: ILAConfig) -> str:
    """--head, else that of the configuration: "text" or "linear"."""
    is_linear = ILAForVideoClassification.__name__ in (config.architectures or [])
    is_linear |= (arguments.config_name or "").endswith("ssv2")
    return arguments.head or ("linear" if is_linear else "text")


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
    head = chosen_head(arguments, config)
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


def describe_dataset(arguments: DataArguments) -> str | None:
    """What a card calls the data set: its id on the Hub, or the path of its folder, of which the card takes the name.

    A folder of one split is called by the folder that holds it, and a list by its folder.
    """
    if arguments.dataset_name is not None and not arguments.data_files:
        name = arguments.dataset_name
        return os.path.abspath(name) if os.path.exists(name) else name
    folders = [arguments.data_dir, arguments.train_dir, arguments.validation_dir]
    files = [arguments.train_file, arguments.validation_file]
    files += [pattern.partition("=")[2] for pattern in arguments.data_files]
    source = next((Path(folder) for folder in folders if folder), None)
    source = source or next((Path(file).parent for file in files if file and not is_url(file)), None)
    if source is None:
        return None
    source = source.absolute()
    return str(source.parent if source.name.lower() in SPLIT_NAMES else source)


def evaluated_on(arguments: DataArguments) -> str | None:
    """The id of the data set of the Hub whose default configuration, in a whole split of its own, is evaluated."""
    others = ("validation_dir", "validation_file", "train_val_split", "max_eval_samples", "dataset_config_name")
    is_other = arguments.data_files or any(getattr(arguments, name) is not None for name in others)
    return None if is_other else arguments.dataset_name


MIN_STEPS, MAX_EPOCHS = 600, 100  # benchmarks/small_data.py: fewer steps learn less of 48 clips


def fit_to_data(
    arguments: ILATrainingArguments, splits: VideoSplits, given: Mapping[str, Any], chosen: Mapping[str, Any]
) -> None:
    """Change what was not given to what the data allow: evaluations, the number of epochs, how often a line is logged.

    Args:
        arguments: Of the training, to be changed.
        splits: Of [`load_splits`].
        given: Of [`given_arguments`].
        chosen: Of [`training_defaults`].

    Raises:
        ValueError: For --patience without validation videos.
    """
    if not arguments.do_train:
        return
    if splits.validation is None and "do_eval" not in given:
        if arguments.patience is not None:
            raise ValueError("--patience needs validation videos.")
        arguments.do_eval = False
        if "eval_strategy" in chosen:
            arguments.eval_strategy, arguments.load_best_model_at_end = IntervalStrategy.NO, False
    steps: float = math.inf  # of an epoch: a stream does not tell
    if isinstance(splits.train, Dataset):
        steps = steps_per_epoch(arguments, len(splits.train))
        if not given.keys() & {"num_train_epochs", "max_steps"}:
            choose_epochs(arguments, len(splits.train))
    if "logging_strategy" in chosen and steps > arguments.logging_steps:
        arguments.logging_strategy = IntervalStrategy.STEPS  # an epoch would be long without a line


def steps_per_epoch(arguments: ILATrainingArguments, num_clips: int) -> int:
    """Optimizer steps of a pass over so many clips; of several processes, those that fill a batch of all."""
    at_a_time: int = arguments.train_batch_size * arguments.world_size
    batches = num_clips // at_a_time if arguments.world_size > 1 else math.ceil(num_clips / at_a_time)
    return max(math.ceil(batches / arguments.gradient_accumulation_steps), 1)


def choose_epochs(arguments: ILATrainingArguments, num_clips: int) -> None:
    """Set as many epochs as give 600 optimizer steps, but from transformers' default, 3, to 100, and say so."""
    per_step = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
    steps = steps_per_epoch(arguments, num_clips)
    epochs = min(max(math.ceil(MIN_STEPS / steps), int(arguments.num_train_epochs)), MAX_EPOCHS)
    arguments.num_train_epochs = epochs
    logger.info(
        f"{num_clips} videos, {per_step} a step: {epochs} epochs of {steps} steps. --num_train_epochs sets others."
    )


def remove_old_list(output_dir: str | Path, arguments: DataArguments) -> None:
    """Remove the list of unreadable videos of an earlier run, unless it is what --unreadable_file names."""
    file = Path(output_dir) / UNREADABLE_LIST
    if arguments.unreadable_file is None or file.resolve() != Path(arguments.unreadable_file).resolve():
        file.unlink(missing_ok=True)


def make_clips(
    splits: VideoSplits, processor: Any, arguments: DataArguments, output_dir: str | Path, seed: int
) -> ClipSets:
    """Clips of the splits: drawn and augmented for training, the views that are asked for in evaluation.

    Videos that cannot be read are listed in `output_dir/unreadable_videos.jsonl`, after those that are there.

    Args:
        splits: Of [`load_splits`].
        processor: Of the model.
        arguments: Of the script.
        output_dir: Of the run.
        seed: Of the draws.
    """
    processor = getattr(processor, "video_processor", processor)
    unreadable = UnreadableVideos(Path(output_dir) / UNREADABLE_LIST)
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
