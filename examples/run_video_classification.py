# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Fine-tune ILA on labelled video files with the Trainer of transformers.

    python examples/run_video_classification.py --model_name_or_path openai/clip-vit-base-patch16 \
        --train_dir videos/train --validation_dir videos/validation --output_dir outputs/mine --do_train --do_eval

Videos lie in one folder per class, `<split>/<class>/<file>`, or are listed in a csv with the columns `video` and
`label`. The model is an ILA model or a plain CLIP, whose alignment is then new; `--config_name` trains from scratch.
All arguments can come from one JSON file instead: `python examples/run_video_classification.py arguments.json`.
"""

import csv
import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from datasets import Dataset
from transformers import (
    AutoProcessor,
    AutoTokenizer,
    AutoVideoProcessor,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed

from ila_hf import (
    PRESET_NAMES,
    ILAConfig,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAProcessor,
    ILAVideoProcessor,
)
from ila_hf.class_labels import read_labels
from ila_hf.training import MaskJitterCallback
from ila_hf.unreadable_videos import UnreadableVideos
from ila_hf.video_clips import IGNORED_LABEL, ClipReader, VideoClips, collate_clips
from ila_hf.video_data import leave_out, load_videos
from ila_hf.video_reading import VideoLimits
from ila_hf.video_transforms import names_a_side, training_transform


logger = logging.getLogger(__name__)


@dataclass
class ModelArguments:
    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an ILA model, or of a plain CLIP."}
    )
    config_name: str | None = field(
        default=None, metadata={"help": f"Train from scratch: a folder, a Hub id or one of {', '.join(PRESET_NAMES)}."}
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
        default_factory=list, metadata={"help": "Parts of CLIP to freeze: text, vision or clip (both)."}
    )


@dataclass
class DataArguments:
    train_dir: str | None = field(default=None, metadata={"help": "Training videos, <class>/<file>."})
    validation_dir: str | None = field(default=None, metadata={"help": "Validation videos, <class>/<file>."})
    train_file: str | None = field(
        default=None, metadata={"help": "List of training videos: csv, json, jsonl or txt; see load_video_list."}
    )
    validation_file: str | None = field(default=None, metadata={"help": "List of validation videos."})
    video_root: str | None = field(
        default=None, metadata={"help": "Folder of the videos of a list; default: its own."}
    )
    allow_outside_root: bool = field(default=False, metadata={"help": "A list may name files outside that folder."})
    labels_file: str | None = field(
        default=None, metadata={"help": "Names of the classes in the order of their ids: csv, json or txt."}
    )
    unreadable_file: str | None = field(
        default=None, metadata={"help": "What `ila-hf check` has written: videos to leave out of the training."}
    )
    on_eval_error: str = field(
        default="error",
        metadata={
            "help": "A validation video that cannot be read ends the run, or is scored as wrong.",
            "choices": ["error", "wrong"],
        },
    )
    decode_seconds: float | None = field(
        default=VideoLimits.decode_seconds, metadata={"help": "A video that takes longer counts as unreadable."}
    )
    augment: bool = field(
        default=False,
        metadata={"help": "Crop, flip and recolour training clips; no flip if a class names a side."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Use only so many, drawn with the seed."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Use only so many, drawn with the seed."})
    class_text_template: str = field(
        default="{}", metadata={"help": "Text of a class; {} is its name, with spaces for underscores."}
    )


def load_split(arguments: DataArguments, split: str, limit: int | None, seed: int, names=None) -> Dataset | None:
    """One split from a folder or a list; None if neither is given."""
    folder, file = getattr(arguments, f"{split}_dir"), getattr(arguments, f"{split}_file")
    if folder is not None and file is not None:
        raise ValueError(f"Give a folder or a list for a split, not both: {folder!r} and {file!r}.")
    if folder is not None:
        dataset = load_videos(folder, names)
    elif file is not None:
        dataset = load_videos(file, names, arguments.video_root, arguments.allow_outside_root)
    else:
        return None
    if split == "train" and arguments.unreadable_file is not None:
        if not Path(arguments.unreadable_file).is_file():
            raise FileNotFoundError(f"There is no file {arguments.unreadable_file!r} (--unreadable_file).")
        count = len(dataset)
        dataset = leave_out(dataset, UnreadableVideos(arguments.unreadable_file).read())
        logger.info(f"{count - len(dataset)} of {count} training videos are left out as unreadable.")
    return dataset if limit is None else dataset.shuffle(seed=seed).select(range(min(limit, len(dataset))))


def load_config(arguments: ModelArguments) -> ILAConfig:
    """The configuration of the model, or of the plain CLIP with the alignment that the arguments ask for."""
    source = arguments.model_name_or_path or arguments.config_name
    if source is None:
        raise ValueError("Give --model_name_or_path to fine-tune a model, or --config_name to train from scratch.")
    config = ILAConfig.from_preset(source) if source in PRESET_NAMES else ILAConfig.from_pretrained(source)
    vision, is_ila = config.vision_config, is_ila_checkpoint(arguments, config)
    for name, target in (("num_frames", config), ("interaction_token", vision)):
        value = getattr(arguments, name)
        if value is None:
            continue
        if is_ila and value != getattr(target, name):
            raise ValueError(f"--{name} {value} does not fit {source!r}, which was made with {getattr(target, name)}.")
        setattr(target, name, value)
        target.validate()
    return config


def is_ila_checkpoint(arguments: ModelArguments, config: ILAConfig) -> bool:
    """Whether the weights are those of an ILA model, not of a plain CLIP, and not new."""
    names = config.architectures or []
    return arguments.model_name_or_path is not None and any(name.startswith("ILA") for name in names)


def load_processor(arguments: ModelArguments, config: ILAConfig, needs_tokenizer: bool):
    """Processor of the model, or a new one with the tokenizer of the model; --tokenizer_name wins."""
    is_ila = is_ila_checkpoint(arguments, config)
    source = arguments.processor_name or (arguments.model_name_or_path if is_ila else None)
    if source is not None and needs_tokenizer and arguments.tokenizer_name is None:
        return AutoProcessor.from_pretrained(source)
    video_processor = AutoVideoProcessor.from_pretrained(source) if source else ILAVideoProcessor.from_config(config)
    if not needs_tokenizer:
        return video_processor
    tokenizer = arguments.tokenizer_name or arguments.model_name_or_path
    if tokenizer is None:
        raise ValueError("Class texts need a tokenizer: give --tokenizer_name, or --head linear.")
    return ILAProcessor(video_processor, AutoTokenizer.from_pretrained(tokenizer))


def load_model(arguments: ModelArguments, config: ILAConfig, head: str):
    """The model. Its alignment is new where the checkpoint is a plain CLIP, its classes where they are others."""
    model_class = ILAForVideoTextClassification if head == "text" else ILAForVideoClassification
    if arguments.model_name_or_path is None:
        return model_class(config)
    model, info = model_class.from_pretrained(
        arguments.model_name_or_path, config=config, ignore_mismatched_sizes=True, output_loading_info=True
    )
    wrong = [key for key, *_ in info["mismatched_keys"] if not key.startswith(("class_texts.", "classifier."))]
    if wrong:
        raise ValueError(f"The weights of {arguments.model_name_or_path!r} do not fit its configuration: {wrong}.")
    return model


def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
    """Top-1 and top-5 accuracy in [0, 1], over all videos: one that cannot be read is a miss."""
    ranks = np.argsort(-prediction.predictions, axis=1)
    hits = ranks == prediction.label_ids[:, None]
    return {"top1": float(hits[:, :1].any(1).mean()), "top5": float(hits[:, :5].any(1).mean())}


def write_confusion_matrix(path: Path, logits: np.ndarray, labels: np.ndarray, names: list[str]) -> None:
    """A csv: rows are the true classes, columns count the predicted ones, over the videos that could be read."""
    matrix = np.zeros((len(names), len(names)), dtype=int)
    read = labels != IGNORED_LABEL
    np.add.at(matrix, (labels[read], logits.argmax(1)[read]), 1)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["true \\ predicted", *names])
        writer.writerows([name, *row] for name, row in zip(names, matrix.tolist(), strict=True))


def main() -> None:
    # 1. Arguments, from flags or from one JSON file
    parser = HfArgumentParser((ModelArguments, DataArguments, TrainingArguments))
    if len(sys.argv) == 2 and sys.argv[1].endswith(".json"):
        model_args, data_args, training_args = parser.parse_json_file(sys.argv[1])
    else:
        model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_seed(training_args.seed)
    if training_args.label_smoothing_factor:
        raise ValueError("--label_smoothing_factor would replace the model's loss and lose that of the alignment.")
    training_args.remove_unused_columns = False  # clips are made from the columns when they are asked for

    # 2. Data: the classes are those of the training split; without one, those of the model
    config = load_config(model_args)
    names = read_labels(data_args.labels_file) if data_args.labels_file else None
    train = load_split(data_args, "train", data_args.max_train_samples, training_args.seed, names)
    if training_args.do_train and train is None:
        raise ValueError("--do_train needs --train_dir or --train_file.")
    has_classes = train is None and names is None and is_ila_checkpoint(model_args, config)
    names = [config.id2label[i] for i in range(config.num_labels)] if has_classes else names
    names = train.features["label"].names if train else names
    validation = load_split(data_args, "validation", data_args.max_eval_samples, training_args.seed, names)
    if training_args.do_eval and validation is None:
        raise ValueError("--do_eval needs --validation_dir or --validation_file.")
    if names is None:
        if validation is None:
            raise ValueError(
                "There are no videos: give --train_dir, --train_file, --validation_dir or --validation_file."
            )
        names = validation.features["label"].names

    # 3. Model and processor
    is_linear = ILAForVideoClassification.__name__ in (config.architectures or [])
    is_linear |= (model_args.config_name or "").endswith("ssv2")
    head = model_args.head or ("linear" if is_linear else "text")
    config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    processor = load_processor(model_args, config, needs_tokenizer=head == "text")
    model = load_model(model_args, config, head)
    if head == "text" and not has_classes:
        texts = [data_args.class_text_template.format(name.replace("_", " ")) for name in names]
        model.set_class_texts(texts, processor, labels=names)
    model.freeze(*model_args.freeze)
    video_processor = getattr(processor, "video_processor", processor)

    # 4. Clips: videos that cannot be read are listed in the output folder
    unreadable = UnreadableVideos(Path(training_args.output_dir) / "unreadable_videos.jsonl")
    limits = VideoLimits(decode_seconds=data_args.decode_seconds)
    flip = 0.0 if names_a_side(names) else 0.5
    transform = training_transform(video_processor, flip=flip) if data_args.augment else None
    read_train = ClipReader(video_processor, True, transform, unreadable=unreadable, limits=limits)
    read_eval = ClipReader(video_processor, False, None, data_args.on_eval_error, unreadable, limits)

    # 5. Train
    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=VideoClips(train, read_train, training_args.seed) if train else None,
        eval_dataset=VideoClips(validation, read_eval) if validation else None,
        processing_class=processor,
        data_collator=collate_clips,
        compute_metrics=compute_metrics,
        callbacks=[MaskJitterCallback()],
    )
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
        trainer.save_model()
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()

    # 6. Evaluate
    if training_args.do_eval:
        result = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
        trainer.log_metrics("eval", result.metrics)
        trainer.save_metrics("eval", result.metrics)
        matrix = Path(training_args.output_dir) / "confusion_matrix.csv"
        write_confusion_matrix(matrix, result.predictions, result.label_ids, names)
    if len(unreadable):
        logger.warning(f"{len(unreadable)} videos could not be read; they are listed in {unreadable.file}.")


if __name__ == "__main__":
    main()
