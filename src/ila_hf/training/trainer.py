# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Training ILA with the Trainer: the recipes of Table 14, and runs that can be killed and resumed exactly.

[`ILATrainer`] adds to [`~transformers.Trainer`] what the recipes need: parameter groups, mixup and cutmix, the decay
of the mask jitter, losses in parts, evaluation over several views. What is drawn at random depends on seed, epoch,
clip, step and process only, and a checkpoint counts when all of it has been written.
"""

import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Trainer
from transformers.trainer import TRAINING_ARGS_NAME
from transformers.trainer_utils import TrainOutput, has_length, unwrap_peft_model

from ..data.video_clips import ClipSampler, collate_clips
from ..evaluation.model_card import card_from_run, save_eval_results
from ..evaluation.views import Evaluation, predict
from ..modeling_ila import ILAPreTrainedModel
from .arguments import ILATrainingArguments
from .checkpoints import (
    CheckpointError,
    check_checkpoint,
    check_writable,
    checkpoint_folder,
    find_last_checkpoint,
    keep_newest,
    mark_complete,
    unmark,
    writing,
)
from .fsdp import flatten_scalars, unit_names, with_scalars
from .hub import PushError, leave_out_local_lists, open_repo, pushing, warn_of_failures
from .lora import load_adapter_weights
from .optimization import ClipMixer, WeightAverage, parameter_groups
from .progress import CurvesCallback, LossRecord, PatienceCallback, ScheduleCallback, batch_losses, check_gradient
from .sync_batch_norm import share_statistics, synchronize_batch_norm


METRICS = ("top1", "top5", "mean_class_accuracy", "loss", "num_clips", "num_unreadable")


class ILATrainer(Trainer):
    """The Trainer for [`ILAForVideoTextClassification`] and [`ILAForVideoClassification`].

    Args:
        model: To train; its names of classes are those of the metrics. None with a `model_init` that makes it, as
            `hyperparameter_search` needs.
        args: [`ILATrainingArguments`].
        kwargs: As in [`~transformers.Trainer`]. Data sets are [`VideoClips`] or streams of them; the collator is
            [`collate_clips`] by default. Without `compute_metrics`, evaluation gives top-1, top-5 and mean class
            accuracy and the classification loss of [`VideoClassificationMetric`], counting every clip once.

    Raises:
        TypeError: For arguments of the plain Trainer.
        ValueError: For an average of weights and `model_init` under FSDP, fewer clips than the processes take in one
            step, and for `compute_loss_func`.
        FloatingPointError: In training, if the loss is not finite.
        CheckpointError: If a checkpoint or the model cannot be written.
        PushError: With --push_to_hub, if the Hub would refuse a push; before the training.
    """

    args: ILATrainingArguments
    model: ILAPreTrainedModel
    optimizer_cls_and_kwargs: Any

    def __init__(self, model: Any = None, args: ILATrainingArguments | None = None, **kwargs: Any):
        if not isinstance(args, ILATrainingArguments):
            raise TypeError(f"`args` must be ILATrainingArguments, got {type(args).__name__}.")
        if kwargs.get("compute_loss_func") is not None:
            raise ValueError("ILATrainer takes no `compute_loss_func`: it trains with the model's own loss.")
        check_writable(args.output_dir)
        if args.fsdp_plugin_args is not None:
            if model is None:
                raise ValueError("FSDP needs a `model`, whose layers are its units; `model_init` makes one too late.")
            args.fsdp_plugin_args.setdefault("transformer_cls_names_to_wrap", ",".join(unit_names(model)))
        if model is not None and args.sync_batch_norm:
            model = synchronize_batch_norm(model, args.device.type)
        self.streams_metrics = kwargs.get("compute_metrics") is None
        if self.streams_metrics:
            args.batch_eval_metrics = True
            kwargs["compute_metrics"] = self._compute_metrics
        args.logging_nan_inf_filter = False  # it would hide what `batch_losses` reports
        self.losses = LossRecord()
        self.train_sampler: ClipSampler | None = None
        self.evaluation: Evaluation | None = None
        self.average: WeightAverage | None = None
        if kwargs.get("data_collator") is None:
            kwargs["data_collator"] = collate_clips
        super().__init__(model=model, args=args, **kwargs)
        self.schedule = ScheduleCallback(self)
        for callback in (self.schedule, CurvesCallback(self)):
            self.add_callback(callback)
        if args.patience is not None:
            self.add_callback(PatienceCallback(self, args.patience))
        best = (args.metric_for_best_model or "loss").removeprefix("eval_")
        metrics = [name for name in METRICS[:4] if name != "top5" or self.model.config.num_labels > 5]
        if self.streams_metrics and args.load_best_model_at_end and best not in metrics:
            raise ValueError(f"--metric_for_best_model is one of {', '.join(metrics)}; got {best!r}.")
        self.label_smoother = None
        self.scalars = flatten_scalars(self.model) if self.is_fsdp_enabled else []
        if args.ema_decay is not None and self.is_fsdp_enabled:
            raise ValueError("--ema_decay needs whole weights in every process; FSDP splits them.")
        self.begin_training()

    def call_model_init(self, trial: Any = None) -> Any:
        """A model of `model_init`, with BatchNorm over all processes if it is asked for."""
        model = super().call_model_init(trial)
        return synchronize_batch_norm(model, self.args.device.type) if self.args.sync_batch_norm else model

    def hyperparameter_search(
        self, hp_space: Any = None, compute_objective: Any = None, *args: Any, **kwargs: Any
    ) -> Any:
        """As in the Trainer; the default objective is the loss of the evaluation, to be minimised."""
        return super().hyperparameter_search(hp_space, compute_objective or _eval_loss, *args, **kwargs)

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        self.args.fit_accumulation()

    def begin_training(self) -> None:
        """Mixing and average anew: a search for hyperparameters changes model and arguments from trial to trial."""
        args = self.args
        self.mixer = ClipMixer(
            self.model.config.num_labels,
            args.mixup_alpha,
            args.cutmix_alpha,
            args.mix_switch_probability,
            args.label_smoothing_factor,
            args.seed,
        )
        self.average = None if args.ema_decay is None else WeightAverage(self.model, args.ema_decay)

    # Data

    def get_train_dataloader(self) -> Any:
        """The loader of the Trainer, with a generator of its own."""
        loader: Any = super().get_train_dataloader()
        # It would draw from the one that dropout draws from, whenever its workers start
        loader.base_dataloader.generator = torch.Generator().manual_seed(self.args.seed)
        self.batches_per_epoch = len(loader) if has_length(loader) else None
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[Any] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if not has_length(dataset) or self.args.train_sampling_strategy != "random":
            return super()._get_train_sampler(dataset)
        round_to = self._train_batch_size * self.args.world_size if self.args.world_size > 1 else 1
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        self.train_sampler = ClipSampler(len(dataset), seed, round_to)
        return self.train_sampler

    # Optimization

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in the Trainer, also after an evaluation; only complete checkpoints are resumed from."""
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_last_checkpoint(self.args.output_dir) or True
        if isinstance(resume_from_checkpoint, str):
            check_checkpoint(resume_from_checkpoint)
        if not has_length(self.train_dataset):
            self.args.ignore_data_skip = True  # a stream that is resumed begins a new pass
        # An evaluation marks the model, or the compiled one around it, as prepared, and accelerate would not wrap it
        # for several processes any more: each would train a model of its own
        if self.model is not None:  # a search for hyperparameters drops it after each trial
            self.model.__dict__.pop("_is_accelerate_prepared", None)
        self.model_wrapped = self.model
        result = super().train(resume_from_checkpoint, *args, **kwargs)
        return result._replace(training_loss=result.metrics["train_loss"])

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """A pass over the data. The Trainer looks whether it has finished after a step only, and would go on with one
        when a finished run is resumed."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)  # type: ignore[no-untyped-call]

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """The optimizer over the groups of [`parameter_groups`]."""
        if self.optimizer is not None or self.optimizer_cls_and_kwargs is not None:
            return super().create_optimizer(*args, **kwargs)
        optimizer_class, options = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        groups = parameter_groups(self.model, self.args.learning_rate, self.args.weight_decay, self.args.new_lr_factor)
        self.optimizer_cls_and_kwargs = (optimizer_class, {**options, "params": groups})
        try:
            return super().create_optimizer(*args, **kwargs)
        finally:
            self.optimizer_cls_and_kwargs = None

    def create_scheduler(self, num_training_steps: int, *args: Any, **kwargs: Any) -> Any:
        """The schedule, after the warm-up that the arguments give in steps or epochs."""
        if self.args.warmup_epochs is not None:
            if self.batches_per_epoch is None:
                raise ValueError("--warmup_epochs needs a data set of known length; give --warmup_steps for a stream.")
            steps = math.ceil(self.batches_per_epoch / self.args.gradient_accumulation_steps)
            self.args.warmup_steps = round(self.args.warmup_epochs * steps)
        return super().create_scheduler(num_training_steps, *args, **kwargs)

    def _get_grad_norm(self, *args: Any, **kwargs: Any) -> Any:
        norm = super()._get_grad_norm(*args, **kwargs)  # type: ignore[no-untyped-call]
        if norm is not None and not self.args.fp16:  # the scaler of fp16 leaves out such steps
            check_gradient(float(norm), self.state.global_step + 1)
        return norm

    def training_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """A step on clips that have been mixed."""
        inputs = self.mixer(self._prepare_inputs(inputs), self.losses.total_batches, self.args.process_index)
        return super().training_step(model, inputs, *args, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, *args: Any, **kwargs: Any
    ) -> Any:
        """The model's loss; in training its parts are recorded."""
        loss, outputs = super().compute_loss(model, inputs, True, *args, **kwargs)
        if model.training:
            step, rate = self.state.global_step + 1, self._get_learning_rate()
            self.losses.add(batch_losses(outputs, self.accelerator, step, rate))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log the losses in parts; the mean over a run is that of all its steps, before and after a resume."""
        if "loss" in logs and self.losses.window_batches:
            logs.update(self.losses.take())
        if "train_loss" in logs and self.losses.total_batches:
            logs["train_loss"] = self.losses.total / self.losses.total_batches
        super().log(logs, *args, **kwargs)

    # Evaluation

    def _compute_metrics(self, prediction: Any, compute_result: bool) -> dict[str, float]:
        assert self.evaluation is not None  # for the type checker: `evaluation_loop` makes it
        self.evaluation.add(prediction.predictions, prediction.label_ids)
        return self.evaluation.compute() if compute_result else {}

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """Whether an evaluation is the best so far. Of equal accuracies, frequent on few clips, the lower loss is."""
        breaks_tie = self.breaks_tie(metrics)
        if breaks_tie:
            self.state.best_global_step = self.state.global_step
        return super()._determine_best_metric(metrics, trial) or breaks_tie

    def breaks_tie(self, metrics: dict[str, float]) -> bool:
        """Whether the metric that chooses the best equals the best so far, at a lower loss."""
        name = f"eval_{(self.args.metric_for_best_model or 'loss').removeprefix('eval_')}"
        if name not in metrics or metrics[name] != self.state.best_metric:
            return False
        evaluated: dict[Any, float] = {e["step"]: e["eval_loss"] for e in self.state.log_history if "eval_loss" in e}
        best = evaluated.get(self.state.best_global_step, -math.inf)
        return metrics.get("eval_loss", math.inf) < best

    def evaluation_loop(self, dataloader: Any, *args: Any, **kwargs: Any) -> Any:
        """As in the Trainer, with averaged weights if there are any; it leaves the random state as it was."""
        labels = self.model.config.id2label
        rows = getattr(dataloader.dataset, "data", None)
        predictions = self.predictions_file if self.is_world_process_zero() else None
        self.evaluation = Evaluation([labels[i] for i in range(len(labels))], rows, predictions)
        share_statistics(self.model)
        with torch.random.fork_rng(devices=[]), self._averaged_weights(), self.evaluation:
            return super().evaluation_loop(dataloader, *args, **kwargs)

    predictions_file: Path | None = None  # where `evaluate` writes what it predicts for every clip

    def _averaged_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.applied_to(self.model)

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> Any:
        """Probabilities (B, K), averaged over the views; NaN for a clip that could not be read.

        A user's own metrics get what the model gives, and of several views the logarithm of the average.
        """
        if not self.streams_metrics and inputs["pixel_values"].ndim == 5:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            probabilities = predict(model, inputs)
        return None, probabilities if self.streams_metrics else probabilities.log(), inputs["labels"]

    # Checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write all of a checkpoint, then mark it as complete, then delete older ones and push."""
        folder = checkpoint_folder(self._get_output_dir(trial), self.state.global_step)
        self.schedule.keep(self.state)
        with writing(folder, folder.parent):
            if self.args.should_save:
                unmark(folder)
            with _no_limit(self.args):
                super()._save_checkpoint(model, trial)
            if self.args.should_save:
                if self.average is not None:
                    self.average.save(folder)
                torch.save(self.args, folder / TRAINING_ARGS_NAME)  # with their limit
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                mark_complete(folder)
        if self.args.should_save:
            keep_newest(folder.parent, self.args.save_total_limit, self.state.best_model_checkpoint)
        if self.args.push_to_hub:
            self._push_in_background(str(folder))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Nothing: the Trainer pushes a checkpoint that is not complete yet; `_save_checkpoint` does it afterwards."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except ValueError as error:  # torch compares the groups of parameters
            raise CheckpointError(
                f"The checkpoint {checkpoint!r} trained other parameters than this run; give the --freeze and --head "
                f"of the run that made it: {error}"
            ) from error
        if checkpoint is not None and self.average is not None:
            self.average.load(checkpoint)

    def _load_best_model(self) -> None:
        folder = cast("str", self.state.best_model_checkpoint)
        if isinstance(self.model, ILAPreTrainedModel) and getattr(self.model, "_hf_peft_config_loaded", False):
            # An adapter without a wrapper of peft: for the Trainer it is no model of peft, and has no weights there
            load_adapter_weights(self.model, folder)
        else:
            super()._load_best_model()
        if self.average is not None:
            self.average.load(cast("str", self.state.best_model_checkpoint))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save model and processor; outside of checkpoints whole and with averaged weights.

        With --push_to_hub they are pushed, too; if that fails it is a warning.
        """
        if _internal_call and output_dir is not None:  # a checkpoint
            super().save_model(output_dir, _internal_call=True)
            return
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        folder = output_dir or self.args.output_dir
        with writing(folder, self.args.output_dir, is_checkpoint=False), self._averaged_weights():
            super().save_model(output_dir, _internal_call=True)
            if self.args.should_save:
                leave_out_local_lists(folder)
        if self.args.push_to_hub and not _internal_call:
            try:
                self.push_to_hub("Model save")
            except PushError as error:  # what follows a training must not be lost with it
                warnings.warn(str(error), stacklevel=2)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if state_dict is not None:  # of FSDP
            state_dict = with_scalars(state_dict, self.scalars)
        super()._save(output_dir, state_dict)

    def end(self) -> None:
        """Wait for all processes, then part from them: one that just exits may abort the others."""
        self.accelerator.wait_for_everyone()
        self.accelerator.end_training()

    # The Hub

    hub_model_id: Any  # the repository, with its owner; None until `init_hf_repo`

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Before any work: create the repository, or find that it may not be written to.

        Args:
            token, private: Default: those of the arguments.

        Raises:
            PushError: As [`open_repo`] does.
        """
        if not self.is_world_process_zero():
            return
        args, output = self.args, Path(self.args.output_dir).absolute()
        token, private = token or args.hub_token, args.hub_private_repo if private is None else private
        self.hub_model_id = open_repo(args.hub_model_id or output.name, output, token, private, args.hub_revision)
        self.push_in_progress = None

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """As in the Trainer.

        Raises:
            PushError: Telling how to push the output folder later; it is complete then.
        """
        name = self.hub_model_id or self.args.hub_model_id or Path(self.args.output_dir).absolute().name
        with pushing(name, self.args.output_dir, kwargs.get("revision") or self.args.hub_revision):
            return super().push_to_hub(*args, **kwargs)

    def _push_in_background(self, folder: str) -> None:
        """Push a checkpoint that is complete, as --hub_strategy says; a push that fails is a warning."""
        if self.is_world_process_zero():
            for file in Path(folder).glob("*.py"):  # code of the model; the Trainer copies all else that is pushed
                shutil.copy(file, self.args.output_dir)
        before = self._pushes()
        super()._push_from_checkpoint(folder)
        warn_of_failures([job for job in self._pushes() if job not in before], self.hub_model_id)

    def _pushes(self) -> list[Any]:
        pushes = getattr(self, "push_in_progress", None)  # the first process has it
        return [] if pushes is None else list(pushes.jobs)

    def create_model_card(  # type: ignore[override]
        self,
        model_name: str | None = None,
        dataset: str | None = None,
        finetuned_from: str | None = None,
        license: str | None = None,
        recipe: dict[str, Any] | None = None,
        evaluated_on: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Write the card of the run, README.md, with the metrics of the last evaluation; see [`card_from_run`].

        Beside it, after an evaluation on a data set of the Hub, lies `.eval_results/ila_hf.yaml`.

        Args:
            model_name: Default: the Hub id, else the output folder.
            dataset, finetuned_from: Names of the data set and of the model that the run began with.
            license: Of the weights.
            recipe: What the arguments do not tell of the training, such as the augmentation.
            evaluated_on: As in [`save_eval_results`].
            kwargs: Not used; they are those of the Trainer.
        """
        if not self.is_world_process_zero():
            return
        evaluated = [entry for entry in self.state.log_history if "eval_top1" in entry] or [{}]
        metrics = {name: evaluated[-1][f"eval_{name}"] for name in METRICS if f"eval_{name}" in evaluated[-1]}
        reader = getattr(self.eval_dataset, "reader", None)  # it knows the views of the evaluation
        processor = cast("Any", self.processing_class) if reader is None else reader.processor
        notes = ["weights chosen on these videos"] if self.args.load_best_model_at_end else []
        save_eval_results(self.args.output_dir, evaluated_on, metrics, processor, notes)
        card = card_from_run(
            unwrap_peft_model(self.accelerator.unwrap_model(self.model)),
            processor,
            model_name=self.args.hub_model_id or model_name or str(self.args.output_dir),
            dataset_name=dataset,
            base_model=finetuned_from,
            recipe=describe_recipe(self.args, self.model, self.state.global_step) | (recipe or {}),
            metrics=metrics,
            license=license,
        )
        card.save(Path(self.args.output_dir) / "README.md")


def _eval_loss(metrics: dict[str, float]) -> float:
    return metrics["eval_loss"]


@contextmanager
def _no_limit(args: ILATrainingArguments) -> Iterator[None]:
    """Have the Trainer delete no checkpoints inside the block: it would go by dates, complete or not."""
    kept, args.save_total_limit = args.save_total_limit, None
    try:
        yield
    finally:
        args.save_total_limit = kept


def describe_recipe(args: ILATrainingArguments, model: torch.nn.Module, steps: int) -> dict[str, Any]:
    """What a card says of a training: names and values; nothing for a model that has not been trained.

    Args:
        args: Of the training.
        model: For what was frozen.
        steps: Optimizer steps.
    """
    if not steps:
        return {}
    clips = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    recipe = {
        "Optimizer": f"{getattr(args.optim, 'value', args.optim)}, betas {args.adam_beta1} and {args.adam_beta2}",
        "Learning rate": f"{args.learning_rate:g}, {args.new_lr_factor:g} times that for weights that are not CLIP's",
        "Schedule": f"{getattr(args.lr_scheduler_type, 'value', args.lr_scheduler_type)}, "
        f"{args.get_warmup_steps(steps)} warm-up steps",
        "Weight decay": f"{args.weight_decay:g}",
        "Optimizer steps": steps,
        "Clips per step": clips,
        "Trained parameters": f"{trained:,}",
        "Gradient clipping": f"{args.max_grad_norm:g}" if args.max_grad_norm else "none",
        "Label smoothing": f"{args.label_smoothing_factor:g}",
        "Mixup, cutmix": f"{args.mixup_alpha:g}, {args.cutmix_alpha:g}",
        "Precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "Seed": args.seed,
    }
    if args.ema_decay is not None:
        recipe["Moving average of the weights"] = f"{args.ema_decay:g}"
    if args.load_best_model_at_end:
        recipe["Weights"] = f"those of the evaluation with the best {args.metric_for_best_model}"
    return recipe
