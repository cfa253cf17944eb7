# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a run keeps track of: losses in parts, what an epoch begins with, curves."""

import math
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from transformers import EarlyStoppingCallback, TrainerCallback
from transformers.trainer_utils import has_length

from ..evaluation.reports import draw_curves


# What must not change over a resume
SETTINGS = (
    "learning_rate",
    "new_lr_factor",
    "weight_decay",
    "max_grad_norm",
    "seed",
    "data_seed",
    "mixup_alpha",
    "cutmix_alpha",
    "mix_switch_probability",
    "label_smoothing_factor",
    "ema_decay",
)
LOSS_PARTS = ("loss", "classification_loss", "alignment_loss")


def batch_losses(outputs: Any, accelerator: Accelerator, step: int, learning_rate: float) -> dict[str, float]:
    """The loss of a batch and its parts, each the mean over the processes, in all of them.

    Args:
        outputs: Of the model.
        accelerator: Of the run.
        step, learning_rate: For the error.

    Raises:
        FloatingPointError: If the loss is not finite; in every process, so that none waits for another.
    """
    values = torch.stack([outputs[name].detach().float().mean() for name in LOSS_PARTS])
    losses = dict(zip(LOSS_PARTS, accelerator.reduce(values, "mean").tolist(), strict=True))
    if not all(math.isfinite(value) for value in losses.values()):
        shown = ", ".join(f"{name} {value:g}" for name, value in losses.items())
        raise FloatingPointError(
            f"The loss is not finite in step {step}: {shown}, at a learning rate of {learning_rate:g}. A lower "
            "learning rate, a longer warm-up, gradient clipping or bf16 in place of fp16 may help. Checkpoints are as "
            "they were."
        )
    return losses


def check_gradient(norm: float, step: int) -> None:
    """Stop before a step that would spoil the weights.

    Raises:
        FloatingPointError: If the norm of the gradient is not finite.
    """
    if not math.isfinite(norm):
        raise FloatingPointError(
            f"The gradient is not finite in step {step}: its norm is {norm:g}. The weights are as they were before it."
        )


class LossRecord:
    """Means of the losses since the last log and since the start; checkpoints keep its attributes."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all."""
        self.window = dict.fromkeys(LOSS_PARTS, 0.0)
        self.window_batches, self.total, self.total_batches = 0, 0.0, 0

    def add(self, losses: dict[str, float]) -> None:
        """Take a batch into account."""
        for name in LOSS_PARTS:
            self.window[name] += losses[name]
        self.window_batches += 1
        self.total += losses["loss"]
        self.total_batches += 1

    def take(self) -> dict[str, float]:
        """Means since the last call."""
        means = {name: value / self.window_batches for name, value in self.window.items()}
        self.window, self.window_batches = dict.fromkeys(LOSS_PARTS, 0.0), 0
        return means


class ScheduleCallback(TrainerCallback):
    """Tells model, data set and sampler which epoch begins, averages the weights, and saves when an epoch has ended.

    It sets the mask jitter ([`ILAPreTrainedModel.set_mask_jitter_epoch`]) and what is drawn for clips and their order.
    """

    KEPT = "ila_hf"  # under this name the state of the Trainer, and thus a checkpoint, keeps what follows

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.stream_epoch, self.waits = -1, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on from a checkpoint, or from nothing."""
        kept = state.stateful_callbacks.get(self.KEPT)
        self.trainer.losses.reset()
        self.stream_epoch = -1
        if kept is not None:
            self._compare(kept["settings"])
            self.trainer.losses.__dict__.update(kept["losses"])
            self.stream_epoch = kept["stream_epoch"]
        else:
            self.trainer.begin_training()

    def keep(self, state: Any) -> None:
        """Before a checkpoint: put into the state what a resume needs."""
        losses = {**self.trainer.losses.__dict__, "window": dict(self.trainer.losses.window)}
        kept = {"losses": losses, "stream_epoch": self.stream_epoch, "settings": self._settings()}
        state.stateful_callbacks[self.KEPT] = kept

    def _settings(self) -> dict[str, Any]:
        """What must not change over a resume if it is to be exact."""
        args = self.trainer.args
        clips = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return {name: getattr(args, name) for name in SETTINGS} | {"clips per step": clips}

    def _compare(self, kept: dict[str, Any]) -> None:
        for name, value in self._settings().items():
            if kept[name] != value:
                warnings.warn(
                    f"The run began with {name} {kept[name]!r}, and goes on with {value!r}: it is not the same as one "
                    "without interruption. Optimizer and schedule keep what the checkpoint holds.",
                    stacklevel=2,
                )

    def on_epoch_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Set the epoch. accelerate reaches the data set of one process only, and not after a resume."""
        self.stream_epoch += 1  # a stream has no length: the passes over it are counted
        is_sized = has_length(self.trainer.train_dataset)
        epoch = int(state.epoch or 0) if is_sized else self.stream_epoch
        model.set_mask_jitter_epoch(epoch)
        for receiver in (self.trainer.train_dataset, self.trainer.train_sampler):
            set_epoch = getattr(receiver, "set_epoch", None)
            if set_epoch is not None:
                set_epoch(epoch)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Average. A checkpoint on the last step of an epoch waits for its evaluation, which a resume would omit."""
        if self.trainer.average is not None:
            self.trainer.average.update(self.trainer.model)
        self.waits = control.should_save and state.epoch == int(state.epoch) and has_length(self.trainer.train_dataset)
        if self.waits:
            control.should_save = False

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save what has waited."""
        if self.waits:
            control.should_save, self.waits = True, False


class PatienceCallback(EarlyStoppingCallback):
    """Ends a training after so many evaluations in a row that were not better; see [`ILATrainer.breaks_tie`]."""

    def __init__(self, trainer: Any, patience: int):
        super().__init__(patience)
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Go on counting from a checkpoint, in which the Trainer saves callbacks, or from nothing."""
        is_resumed = ScheduleCallback.KEPT in state.stateful_callbacks
        saved = state.stateful_callbacks[type(self).__name__]["attributes"]
        self.early_stopping_patience_counter = saved["early_stopping_patience_counter"] if is_resumed else 0

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        """Count, before the Trainer looks whether the evaluation is the best; after the training there is none."""
        if self.trainer.breaks_tie(metrics):
            self.early_stopping_patience_counter = 0
        elif self.trainer.is_in_train:
            super().on_evaluate(args, state, control, metrics, **kwargs)  # type: ignore[no-untyped-call]


class CurvesCallback(TrainerCallback):
    """Draws losses and accuracy over the steps, curves.png in the output folder."""

    FILE = "curves.png"

    def __init__(self, trainer: Any):
        self.trainer = trainer

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw anew, if the run trains: an evaluation alone would overwrite the curves of the training.

        After the training the weights may be those of an earlier step, which is no point of the curve.
        """
        if self.trainer.is_in_train or (state.global_step > 0 and not args.load_best_model_at_end):
            self.on_train_end(args, state, control)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the last losses, too."""
        if state.is_world_process_zero:
            draw_curves(Path(args.output_dir) / self.FILE, state.log_history)
