# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Arguments of the training scripts: flags, files of them, and both together."""

import argparse
import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args, get_type_hints

import torch
import yaml
from transformers import HfArgumentParser, TrainingArguments

from ..configuration_ila import PRESET_NAMES
from ..video_sources import VideoLimits


@dataclass
class ModelArguments:
    """What is trained."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an ILA model, or of a plain CLIP."}
    )
    config_name: str | None = field(
        default=None,
        metadata={
            "help": "Configuration of the model, a folder, a Hub id or one of "
            f"{', '.join(PRESET_NAMES)}. With --model_name_or_path a plain CLIP becomes such a model; without, it is "
            "trained from scratch."
        },
    )
    processor_name: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the ILA processor; default: that of the model, or a new one."},
    )
    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the tokenizer; default: that of the model."}
    )
    head: str | None = field(
        default=None,
        metadata={
            "help": "text: compare with class texts; linear: a linear head. Default: the model's own, else text.",
            "choices": ["text", "linear"],
        },
    )
    num_frames: int | None = field(default=None, metadata={"help": "For a plain CLIP or from scratch: T."})
    interaction_token: bool | None = field(
        default=None, metadata={"help": "For a plain CLIP or from scratch: add our second token."}
    )
    freeze: list[str] = field(
        default_factory=list,
        metadata={
            "help": "What does not train: text, vision or clip (both towers) of CLIP, or trunk: all but the "
            "classifier of a linear head, as in the linear probe of Table 12."
        },
    )

    def __post_init__(self) -> None:
        self.freeze = [self.freeze] if isinstance(self.freeze, str) else self.freeze


@dataclass
class DataArguments:
    """What it is trained and evaluated on."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set of the Hub, or a builder of datasets such as webdataset."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Configuration of the data set."})
    data_files: list[str] = field(
        default_factory=list, metadata={"help": "Files of a builder, as <split>=<pattern>, for --dataset_name."}
    )
    train_split: str = field(default="train", metadata={"help": "Split of the data set to train on."})
    validation_split: str = field(default="validation", metadata={"help": "Split of the data set to evaluate on."})
    video_column: str | None = field(default=None, metadata={"help": "Column of the videos; default: found."})
    label_column: str | None = field(default=None, metadata={"help": "Column of the classes; default: found."})
    streaming: bool = field(
        default=False, metadata={"help": "Read the training split as it comes; needs --max_steps."}
    )
    shuffle_buffer: int = field(default=1000, metadata={"help": "Rows that a stream is shuffled over; 0 for none."})
    data_dir: str | None = field(
        default=None,
        metadata={"help": "All videos, <split>/<class>/<file>, such as train and validation; or <class>/<file>."},
    )
    train_dir: str | None = field(default=None, metadata={"help": "Training videos, <class>/<file>."})
    validation_dir: str | None = field(default=None, metadata={"help": "Validation videos, <class>/<file>."})
    test_dir: str | None = field(
        default=None, metadata={"help": "Videos to predict, without classes; sub-folders do not count as classes."}
    )
    train_file: str | None = field(
        default=None, metadata={"help": "List of training videos: csv, json, jsonl or txt; see load_videos."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "List of validation videos."})
    test_file: str | None = field(default=None, metadata={"help": "List of videos to predict; classes do not count."})
    video_root: str | None = field(
        default=None, metadata={"help": "Folder of the videos of a list; default: its own."}
    )
    allow_outside_root: bool = field(default=False, metadata={"help": "A list may name files outside that folder."})
    train_val_split: float | None = field(
        default=None,
        metadata={"help": "Without validation videos: this share of the training videos of every class, in (0, 1)."},
    )
    labels_file: str | None = field(
        default=None, metadata={"help": "Names of the classes in the order of their ids: csv, json or txt."}
    )
    zero_shot: bool = field(
        default=False, metadata={"help": "Evaluate on the classes of the validation videos, not those of the model."}
    )
    unreadable_file: str | None = field(
        default=None, metadata={"help": "What `ila-hf check` has written: videos to leave out of the training."}
    )
    on_eval_error: str = field(
        default="wrong",
        metadata={
            "help": "A validation video that cannot be read is scored as wrong, or ends the run.",
            "choices": ["wrong", "error"],
        },
    )
    decode_seconds: float | None = field(
        default=VideoLimits.decode_seconds, metadata={"help": "A video that takes longer counts as unreadable."}
    )
    num_clips: int | None = field(
        default=None, metadata={"help": "Clips per video in evaluation, 4 in the paper; default: the processor's."}
    )
    num_crops: int | None = field(
        default=None, metadata={"help": "Crops per clip in evaluation, 1 or 3 (the paper); default: the processor's."}
    )
    augment: bool = field(default=False, metadata={"help": "Crop, flip and recolour training clips as in Table 14."})
    flip: float | None = field(
        default=None,
        metadata={"help": "Probability of mirroring a training clip; default: 0.5, 0 if a class names a side."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only so many, drawn with the seed."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only so many, drawn with the seed."})
    class_text_template: str = field(
        default="{}", metadata={"help": "Text of a class; {} is its name, with spaces for underscores."}
    )

    def __post_init__(self) -> None:
        self.data_files = [self.data_files] if isinstance(self.data_files, str) else self.data_files
        for entry in self.data_files:
            if not all(entry.partition("=")):
                raise ValueError(f"--data_files are given as <split>=<pattern>, got {entry!r}.")
        for name in ("num_clips", "max_train_samples", "max_eval_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")
        if self.num_crops not in (None, 1, 3):
            raise ValueError(f"--num_crops must be 1 or 3, got {self.num_crops}.")
        if "{}" not in self.class_text_template:
            raise ValueError(f"--class_text_template needs a {{}} for the class, got {self.class_text_template!r}.")
        if self.train_val_split is not None and not 0 < self.train_val_split < 1:
            raise ValueError(f"--train_val_split must be between 0 and 1, got {self.train_val_split!r}.")


class _Secret(str):
    """A text that is not pickled: the Trainer pickles arguments beside the model, and pushes them with it."""

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    def __copy__(self) -> "_Secret":
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Secret":
        return self


@dataclass
class ILATrainingArguments(TrainingArguments):
    """Arguments of [`ILATrainer`]: those of transformers and the following.

    `label_smoothing_factor` is applied to the targets, so that the alignment loss stays.
    """

    if TYPE_CHECKING:  # what `__post_init__` makes of them
        output_dir: str = ""
        accelerator_config: Any = None
        fsdp: Any = None

    new_lr_factor: float = field(
        default=1.0, metadata={"help": "Weights that are not CLIP's learn so many times faster; 10 for Kinetics-400."}
    )
    warmup_epochs: float | None = field(
        default=None, metadata={"help": "Epochs over which the learning rate rises, instead of --warmup_steps."}
    )
    total_batch_size: int | None = field(
        default=None,
        metadata={"help": "Clips per optimizer step over all processes; sets --gradient_accumulation_steps."},
    )
    mixup_alpha: float = field(default=0.0, metadata={"help": "Mixup; 0.8 in the paper, 0 for none."})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "Cutmix; 1.0 in the paper, 0 for none."})
    mix_switch_probability: float = field(
        default=0.5, metadata={"help": "Probability of cutmix where mixup is on, too."}
    )
    sync_batch_norm: bool = field(
        default=False, metadata={"help": "BatchNorm of the alignment over the batches of all processes."}
    )
    patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations in a row without a better --metric_for_best_model."},
    )
    ema_decay: float | None = field(
        default=None, metadata={"help": "Evaluate and save the moving average of the weights, such as 0.9999."}
    )

    __repr__ = TrainingArguments.__str__  # that of a dataclass would show tokens

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, _Secret(value) if name == "hub_token" and value else value)

    def __post_init__(self) -> None:
        switch = str(getattr(self, "fsdp", None)).lower()
        if switch in ("true", "false"):
            self.fsdp = switch == "true" or None  # written as all other switches
        self.remove_unused_columns = False  # clips are made from the columns when they are asked for
        if getattr(self, "ddp_find_unused_parameters", None) is None:
            self.ddp_find_unused_parameters = False  # whatever is not frozen gets a gradient in every step
        super().__post_init__()  # type: ignore[no-untyped-call]
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # it is for copies to one, and torch would warn of it in every epoch
        if self.accelerator_config.dispatch_batches is None:
            self.accelerator_config.dispatch_batches = False  # or the first process would decode all of a stream
        self.fit_accumulation()
        if self.patience is not None:
            if self.patience < 1:
                raise ValueError(f"--patience must be at least 1, got {self.patience}.")
            if not self.load_best_model_at_end:
                raise ValueError("--patience needs --load_best_model_at_end True, and validation videos.")
        if self.warmup_epochs is not None and self.warmup_epochs < 0:
            raise ValueError(f"--warmup_epochs must not be negative, got {self.warmup_epochs}.")
        fixed = [
            name for name in ("total_batch_size", "warmup_epochs", "ema_decay") if getattr(self, name) is not None
        ]
        if self.auto_find_batch_size and fixed:
            raise ValueError(f"--auto_find_batch_size changes the batches on which --{fixed[0]} relies.")

    def fit_accumulation(self) -> None:
        """Set `gradient_accumulation_steps` as `total_batch_size` asks for.

        Raises:
            ValueError: If it is no multiple of the clips that all processes take at a time.
        """
        if self.total_batch_size is None:
            return
        per_step = self.train_batch_size * self.world_size
        if self.total_batch_size % per_step:
            raise ValueError(
                f"--total_batch_size {self.total_batch_size} is no multiple of the {per_step} clips that "
                f"{self.world_size} process(es) take at a time, {self.train_batch_size} each."
            )
        self.gradient_accumulation_steps = self.total_batch_size // per_step


def parse_arguments(
    dataclasses: Sequence[type],
    arguments: Sequence[str] | None = None,
    config_folder: str | Path | None = None,
    defaults: Mapping[str, Any] | None = None,
    program: str | None = None,
) -> tuple[Any, ...]:
    """Read flags, one json or yaml file of arguments, or `--config <file>` and flags, which win.

    Args:
        dataclasses: Whose fields are the arguments.
        arguments: Default: those of the command line.
        config_folder: Where `--config <name>` finds <name>.json; None for files only.
        defaults: Of arguments that neither a flag nor the file gives, instead of those of the classes.
        program: What --help calls the program; default: the script.

    Returns:
        One object per class.

    Raises:
        ValueError: For arguments that do not exist, naming the nearest that do.
        FileNotFoundError: If there is no such file.
    """
    config, flags = _config_and_flags(arguments)
    parser = HfArgumentParser(cast("Any", list(dataclasses)), allow_abbrev=False, prog=program)
    parser.add_argument("--config", help="A json or yaml file of arguments, or the name of a published recipe.")
    known = {action.dest for action in parser._actions} - {"help", "config"}
    parser.set_defaults(**(defaults or {}))
    if config is not None:
        values = _read_config(config, config_folder)
        _refuse_unknown(set(values), known, f"{config!r} has the unknown")
        for action in parser._actions:
            if action.dest not in values:
                continue
            action.required = False
            value = values[action.dest]
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            fits = isinstance(value, str | None) or (is_number and (action.type is float or value == int(value)))
            if action.type in (int, float) and action.nargs is None and not fits:
                kind = "a whole number" if action.type is int else "a number"
                raise ValueError(f"{config!r}: `{action.dest}` is {kind}; got {value!r}.")
            if action.choices is not None and values[action.dest] not in (None, *action.choices):
                allowed = ", ".join(map(str, action.choices))
                raise ValueError(f"{config!r}: `{action.dest}` is one of {allowed}; got {values[action.dest]!r}.")
        # null is "not given" where nothing else is None
        hints = {name: hint for kind in dataclasses for name, hint in get_type_hints(kind).items()}
        nullable = {name for name, hint in hints.items() if type(None) in get_args(hint)}
        parser.set_defaults(**{k: value for k, value in values.items() if value is not None or k in nullable})
    *parsed, rest = parser.parse_args_into_dataclasses(flags, return_remaining_strings=True, look_for_args_file=False)
    parsed = [part for part in parsed if not isinstance(part, argparse.Namespace)]
    _refuse_unknown({text[2:].partition("=")[0] for text in rest if text.startswith("--")}, known, "There is no")
    if rest:
        raise ValueError(f"These arguments follow no flag: {rest}.")
    return tuple(parsed)


def given_arguments(
    dataclasses: Sequence[type],
    arguments: Sequence[str] | None = None,
    config_folder: str | Path | None = None,
    program: str | None = None,
) -> dict[str, Any]:
    """What flags and file give, names and values, before they are checked; null is not given. See [`parse_arguments`].

    Raises:
        FileNotFoundError: If there is no such file.
    """
    config, flags = _config_and_flags(arguments)
    parser = HfArgumentParser(cast("Any", list(dataclasses)), allow_abbrev=False, add_help=False, prog=program)
    types = {}
    for action in parser._actions:
        action.default, action.required = argparse.SUPPRESS, False
        types[action.dest] = action.type
    flags_given = vars(parser.parse_known_args(flags)[0])
    values = {} if config is None else _read_config(config, config_folder)
    for name, value in values.items():
        kind = types.get(name)
        if isinstance(value, str) and callable(kind):  # in a file, too, "no" is no
            with suppress(ValueError, argparse.ArgumentTypeError):  # `parse_arguments` will say it
                values[name] = kind(value)
    return {name: value for name, value in {**values, **flags_given}.items() if value is not None}


def training_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """How a training logs, evaluates and saves where the arguments say nothing of it: every epoch, keeping the best.

    Args:
        given: Names and values that are given.

    Returns:
        Defaults for [`parse_arguments`]: none for a run that does not train; for one that does not evaluate, of
        logging only. Naming one argument of a schedule is to take it in one's own hands: then none of it is set.
    """
    defaults: dict[str, Any] = {}
    if not given.get("do_train"):
        return defaults
    if not given.keys() & {"logging_strategy", "logging_steps"}:
        defaults["logging_strategy"] = "epoch"
    schedule = {"eval_strategy", "eval_steps", "save_strategy", "save_steps", "load_best_model_at_end"}
    if given.get("do_eval") and not given.keys() & schedule:
        defaults |= {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
        # The best and the last; with 1 transformers deletes the last, and a finished run would be resumed
        defaults |= {"metric_for_best_model": "top1", "save_total_limit": 2, "hub_strategy": "end"}
    return defaults


def _config_and_flags(arguments: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """--config, or the one file that the command line names, and the flags."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if len(arguments) == 1 and arguments[0].endswith((".json", ".yaml", ".yml")):
        arguments = ["--config", arguments[0]]
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    config, flags = finder.parse_known_args(arguments)
    return config.config, flags


def _read_config(name: str, folder: str | Path | None) -> dict[str, Any]:
    recipes = sorted(file.stem for file in Path(folder).glob("*.json")) if folder is not None else []
    file = Path(folder or ".") / f"{name}.json" if name in recipes else Path(name)
    if not file.is_file():
        known = f", and the recipes are {', '.join(recipes)}" if recipes else ""
        raise FileNotFoundError(f"There is no file {name!r}{known}.")
    try:
        values = json.loads(file.read_text()) if file.suffix == ".json" else yaml.safe_load(file.read_text())
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{str(file)!r} cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{str(file)!r} must hold names and values of arguments, got a {type(values).__name__}.")
    return values


def _refuse_unknown(names: set[str], known: set[str], beginning: str) -> None:
    for name in sorted(names - known):
        nearest = difflib.get_close_matches(name, known, n=3)
        advice = f" Did you mean {' or '.join(nearest)}?" if nearest else ""
        raise ValueError(f"{beginning} argument {name!r}.{advice}")
