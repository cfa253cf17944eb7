# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Fine-tune and evaluate ILA on labelled videos with the Trainer of transformers.

    python examples/run_video_classification.py --model_name_or_path openai/clip-vit-base-patch16 \
        --train_dir videos/train --validation_dir videos/validation --output_dir outputs/mine --do_train --do_eval

    accelerate launch examples/run_video_classification.py --config ila-base-patch16 \
        --train_file k400/train.csv --validation_file k400/val.csv --output_dir outputs/k400

Videos lie in one folder per class, `<split>/<class>/<file>`, are listed in a file, or come from a data set of the Hub.
The model is an ILA model or a plain CLIP, whose alignment is then new; `--config_name` alone trains from scratch.
`--config` reads arguments from a json or yaml file or takes those of a published recipe (examples/configs); flags win.
A run that was killed goes on, exactly, with `--resume_from_checkpoint True`. The installed package has this script as
`ila-hf train` and `ila-hf evaluate`; several processes run it with `accelerate launch -m ila_hf train`.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import enable_full_determinism, set_seed

from ila_hf.__main__ import errors_in_one_line
from ila_hf.evaluation.reports import draw_confusion_matrix, write_class_table, write_confusion_matrix
from ila_hf.training import ILATrainer, ILATrainingArguments
from ila_hf.training.arguments import (
    DataArguments,
    ModelArguments,
    given_arguments,
    parse_arguments,
    training_defaults,
)
from ila_hf.training.checkpoints import check_writable, checkpoint_to_resume
from ila_hf.training.finetuning import (
    describe_data_recipe,
    describe_dataset,
    evaluated_on,
    fit_to_data,
    is_trained,
    load_config,
    load_model_and_processor,
    make_clips,
    remove_old_list,
)
from ila_hf.training.splits import check_splits, load_splits


logger = logging.getLogger(__name__)


def write_reports(trainer: ILATrainer, folder: Path) -> None:
    """Confusion matrix and per-class table of the last evaluation."""
    evaluation = trainer.evaluation
    if evaluation is None or not trainer.is_world_process_zero():
        return
    matrix, names = evaluation.metric.confusion_matrix, evaluation.label_names
    write_confusion_matrix(folder / "confusion_matrix.csv", matrix, names)
    draw_confusion_matrix(folder / "confusion_matrix.png", matrix, names)
    write_class_table(folder / "classes.csv", matrix, names)


def main(arguments: Sequence[str] | None = None, program: str | None = None, **defaults: Any) -> None:
    """Run with flags, by default those of the command line; `defaults` are those of flags that are not given."""
    # 1. Arguments, from flags, from a file, or both; a training logs, evaluates and saves every epoch by default
    kinds = (ModelArguments, DataArguments, ILATrainingArguments)
    recipes = Path(__file__).parent / "configs"
    given = given_arguments(kinds, arguments, recipes, program)
    chosen = training_defaults({**defaults, **given})
    model_args, data_args, training_args = parse_arguments(kinds, arguments, recipes, {**defaults, **chosen}, program)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    if training_args.should_log:
        for name in (__name__, "ila_hf"):
            logging.getLogger(name).setLevel(logging.INFO)
    output = Path(training_args.output_dir)
    check_writable(output)
    resume = training_args.resume_from_checkpoint
    checkpoint = checkpoint_to_resume(resume, output) if training_args.do_train else None
    (enable_full_determinism if training_args.full_determinism else set_seed)(training_args.seed)

    # 2. Data: one process lists the videos first, the others find what it has cached
    config = load_config(model_args)
    known = [config.id2label[i] for i in range(config.num_labels)] if is_trained(model_args, config) else None
    with training_args.main_process_first(desc="listing videos"):
        evaluates = training_args.do_eval or training_args.eval_strategy != "no"
        jobs = {"trains": training_args.do_train, "evaluates": evaluates, "predicts": training_args.do_predict}
        splits = load_splits(data_args, training_args.seed, known, **jobs)
    fit_to_data(training_args, splits, given, chosen)
    check_splits(splits, training_args)
    if checkpoint is None and training_args.process_index == 0:
        remove_old_list(output, data_args)

    # 3. Model and processor
    trains = training_args.do_train
    model, processor = load_model_and_processor(model_args, data_args, config, splits.label_names, trains)
    clips = make_clips(splits, processor, data_args, output, training_args.seed)

    # 4. Train
    trainer = ILATrainer(
        model=model,
        args=training_args,
        train_dataset=clips.train,
        eval_dataset=clips.validation,
        processing_class=processor,
    )
    if training_args.do_train:
        result = trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_metrics("train", result.metrics)
        trainer.save_state()

    # 5. Evaluate, and predict videos without classes
    if training_args.do_eval:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
        write_reports(trainer, output)
    if training_args.do_predict:
        trainer.predictions_file = output / "predictions.csv"
        trainer.evaluate(clips.test, metric_key_prefix="predict")
        source = data_args.test_dir or data_args.test_file
        logger.info(f"What was predicted for the videos of {source} is in {trainer.predictions_file}.")

    # 6. Card, and the Hub
    if len(clips.unreadable):
        logger.warning(
            f"{len(clips.unreadable)} videos could not be read; they are listed in {clips.unreadable.file}."
        )
    card = {
        "dataset": describe_dataset(data_args),
        "evaluated_on": evaluated_on(data_args),
        "finetuned_from": model_args.model_name_or_path,
    }
    if training_args.do_train:
        card["recipe"] = describe_data_recipe(model_args, data_args, splits.label_names)
    if training_args.push_to_hub:
        trainer.push_to_hub(**card)
    elif training_args.do_train:
        trainer.create_model_card(**card)
    trainer.end()


if __name__ == "__main__":
    with errors_in_one_line(Path(__file__).name):
        main()
