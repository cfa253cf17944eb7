# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Fine-tune and evaluate ILA on labelled videos with Accelerate alone: the training loop, step by step.

    accelerate launch examples/run_video_classification_no_trainer.py \
        --model_name_or_path openai/clip-vit-base-patch16 --freeze text \
        --train_dir videos/train --validation_dir videos/validation --output_dir outputs/mine

It is the job of run_video_classification.py with fewer options, to read and to change. A run that was killed goes on,
exactly, with `--resume_from_checkpoint True`.
"""

import json
import logging
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.utils import set_seed
from datasets import Dataset
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import get_scheduler

from ila_hf import ILAProcessor, ILAVideoProcessor
from ila_hf.__main__ import errors_in_one_line
from ila_hf.data.video_clips import ClipSampler, VideoClips, collate_clips
from ila_hf.evaluation.model_card import card_from_run, save_eval_results
from ila_hf.evaluation.reports import draw_curves, write_confusion_matrix
from ila_hf.evaluation.views import Evaluation, predict
from ila_hf.training.arguments import DataArguments, ModelArguments, parse_arguments
from ila_hf.training.checkpoints import (
    check_writable,
    checkpoint_folder,
    checkpoint_to_resume,
    keep_newest,
    mark_complete,
    unmark,
    writing,
)
from ila_hf.training.finetuning import (
    ClipSets,
    describe_dataset,
    evaluated_on,
    load_config,
    load_model_and_processor,
    make_clips,
    remove_old_list,
)
from ila_hf.training.hub import leave_out_local_lists, open_repo, push_folder
from ila_hf.training.optimization import ClipMixer, parameter_groups
from ila_hf.training.progress import LossRecord, batch_losses, check_gradient
from ila_hf.training.splits import load_splits
from ila_hf.training.sync_batch_norm import share_statistics


logger = logging.getLogger(__name__)

NOT_IN_THE_CARD = ("output_dir", "resume_from_checkpoint", "report_to", "push_to_hub", "hub_model_id", "num_workers")


@dataclass
class LoopArguments:
    output_dir: str = field(metadata={"help": "Folder for model, checkpoints, metrics and card."})
    learning_rate: float = field(default=5e-5, metadata={"help": "Of CLIP's weights."})
    new_lr_factor: float = field(default=1.0, metadata={"help": "Other weights learn so many times faster."})
    weight_decay: float = field(default=0.01, metadata={"help": "Not of biases, norms and positions."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Clips per process and batch."})
    per_device_eval_batch_size: int = field(default=8, metadata={"help": "Clips per process and batch."})
    gradient_accumulation_steps: int = field(default=1, metadata={"help": "Batches per optimizer step."})
    num_train_epochs: int = field(default=3, metadata={"help": "Passes over the training videos."})
    warmup_steps: int = field(default=0, metadata={"help": "Optimizer steps over which the learning rate rises."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Longer gradients are cut to it; 0 for none."})
    mixup_alpha: float = field(default=0.0, metadata={"help": "Mixup; 0 for none."})
    cutmix_alpha: float = field(default=0.0, metadata={"help": "Cutmix; 0 for none."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Share of the target that all classes split."})
    mixed_precision: str = field(default="no", metadata={"help": "bf16 on newer GPUs.", "choices": ["no", "bf16"]})
    num_workers: int = field(default=0, metadata={"help": "Processes that decode videos."})
    checkpointing_steps: str = field(
        default="epoch", metadata={"help": "A checkpoint after so many optimizer steps, or after every epoch."}
    )
    save_total_limit: int | None = field(default=None, metadata={"help": "Checkpoints to keep."})
    resume_from_checkpoint: str | None = field(default=None, metadata={"help": "A checkpoint; True for the last."})
    report_to: str | None = field(default=None, metadata={"help": "A tracker of accelerate, such as tensorboard."})
    push_to_hub: bool = field(default=False, metadata={"help": "Upload model, processor and card at the end."})
    hub_model_id: str | None = field(default=None, metadata={"help": "Default: the name of the output folder."})
    use_cpu: bool = field(default=False, metadata={"help": "Train on the CPU."})
    seed: int = field(default=42, metadata={"help": "Of all random draws."})

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if name.endswith(("batch_size", "accumulation_steps", "epochs")) and value < 1:
                raise ValueError(f"--{name} must be at least 1, got {value}.")
        if self.report_to == "none":
            self.report_to = None
        if self.checkpointing_steps != "epoch" and not self.checkpointing_steps.strip("0").isdecimal():
            raise ValueError(f"--checkpointing_steps is a number or 'epoch', got {self.checkpointing_steps!r}.")


class Progress:
    """Where the run is: part of every checkpoint."""

    def __init__(self) -> None:
        self.epoch, self.batch, self.step = 0, 0, 0  # batches of this epoch, optimizer steps of all
        self.losses = LossRecord()
        self.history: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        return {**self.__dict__, "losses": dict(self.losses.__dict__)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses.__dict__.update(state.pop("losses"))
        self.__dict__.update(state)


def make_loader(
    clips: VideoClips, batch_size: int, args: LoopArguments, sampler: ClipSampler | None
) -> DataLoader[dict[str, Any]]:
    # Its own generator: the loader would draw from the one that dropout draws from, and a resumed run once more
    generator = torch.Generator().manual_seed(args.seed)
    return DataLoader(
        clips,
        batch_size,
        sampler=sampler,
        num_workers=args.num_workers,
        collate_fn=collate_clips,
        generator=generator,
    )


def save_checkpoint(accelerator: Accelerator, args: LoopArguments, step: int) -> None:
    folder = checkpoint_folder(args.output_dir, step)
    with writing(folder, args.output_dir):
        if accelerator.is_main_process:
            unmark(folder)
        accelerator.save_state(str(folder))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            mark_complete(folder)
            keep_newest(args.output_dir, args.save_total_limit)


@torch.no_grad()
def evaluate(
    accelerator: Accelerator, model: torch.nn.Module, loader: DataLoader[dict[str, Any]], evaluation: Evaluation
) -> dict[str, float]:
    share_statistics(model)
    model.eval()
    for batch in tqdm(loader, desc="Evaluation", disable=not accelerator.is_main_process):
        # The last batches are filled up with clips that were there before; gathering drops them
        evaluation.add(*accelerator.gather_for_metrics((predict(model, batch), batch["labels"])))
    return evaluation.compute()


def make_optimizer(model: Any, args: LoopArguments, device: torch.device) -> torch.optim.Optimizer:
    """AdamW; on a GPU one kernel updates all weights."""
    groups = parameter_groups(model, args.learning_rate, args.weight_decay, args.new_lr_factor)
    fused = True if device.type == "cuda" else None  # None: as torch finds best
    return torch.optim.AdamW(groups, lr=args.learning_rate, betas=(0.9, 0.98), fused=fused)


def train_epoch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: Any,
    loader: Any,
    sampler: ClipSampler,
    mixer: ClipMixer,
    progress: Progress,
    args: LoopArguments,
) -> None:
    """One pass over the training clips, or what remains of it after a resume."""
    every = None if args.checkpointing_steps == "epoch" else int(args.checkpointing_steps)
    batches_per_epoch = len(loader)
    if progress.batch:
        loader = accelerator.skip_first_batches(loader, progress.batch)
    # The loader passes an epoch on, its own count of them by default, but not to all that need it
    for receiver in (loader, loader.dataset, sampler):
        receiver.set_epoch(progress.epoch)
    accelerator.unwrap_model(model).set_mask_jitter_epoch(progress.epoch)
    model.train()
    for batch in tqdm(loader, desc=f"Epoch {progress.epoch}", disable=not accelerator.is_main_process):
        with accelerator.accumulate(model):
            batch = mixer(batch, progress.losses.total_batches, accelerator.process_index)
            outputs = model(**batch)
            rate = scheduler.get_last_lr()[0]
            progress.losses.add(batch_losses(outputs, accelerator, progress.step + 1, rate))
            # accelerate divides by the number of batches that make a step; the last of an epoch may have fewer
            begin = progress.batch // args.gradient_accumulation_steps * args.gradient_accumulation_steps
            batches = min(args.gradient_accumulation_steps, batches_per_epoch - begin)
            accelerator.backward(outputs.loss * args.gradient_accumulation_steps / batches)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm or math.inf)
                check_gradient(float(norm), progress.step + 1)
            optimizer.step()
            optimizer.zero_grad()
        progress.batch += 1
        if not accelerator.sync_gradients:
            continue
        scheduler.step()
        progress.step += 1
        progress.history.append({"step": progress.step, "learning_rate": rate, **progress.losses.take()})
        accelerator.log(progress.history[-1], step=progress.step)
        if every is not None and progress.step % every == 0:
            save_checkpoint(accelerator, args, progress.step)
    progress.epoch, progress.batch = progress.epoch + 1, 0


def finish(
    accelerator: Accelerator,
    args: LoopArguments,
    model: Any,
    processor: ILAProcessor | ILAVideoProcessor,
    clips: ClipSets,
    progress: Progress,
    names: dict[str, Any],
    dataset: str | None,
) -> None:
    """Save results, model, processor and card, and upload them."""
    output = Path(args.output_dir)
    state = accelerator.get_state_dict(model)
    if not accelerator.is_main_process:
        return
    results = [entry for entry in progress.history if "eval_top1" in entry][-1]
    losses = progress.losses
    shown = {**results, "train_loss": losses.total / losses.total_batches}
    (output / "all_results.json").write_text(json.dumps(shown, indent=4))
    model = accelerator.unwrap_model(model)
    with writing(output, output, is_checkpoint=False):
        model.save_pretrained(output, state_dict=state)
        processor.save_pretrained(output)
        leave_out_local_lists(output)
    metrics = {name.removeprefix("eval_"): value for name, value in results.items() if name != "step"}
    recipe = {"optimizer": "AdamW", "optimizer_steps": progress.step, "processes": accelerator.num_processes}
    recipe |= {name: value for name, value in asdict(args).items() if name not in NOT_IN_THE_CARD}
    assert clips.validation is not None  # for the type checker
    views = clips.validation.reader.processor
    names = {"model_name": args.hub_model_id or str(output), **names}
    card_from_run(model, views, recipe=recipe, metrics=metrics, **names).save(output / "README.md")
    save_eval_results(output, dataset, metrics, views)
    if args.push_to_hub:
        push_folder(str(args.hub_model_id), output, "End of training")


def main() -> None:
    # 1. Arguments, and the processes
    model_args, data_args, args = parse_arguments((ModelArguments, DataArguments, LoopArguments))
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logger.setLevel(logging.INFO)
    if data_args.test_dir or data_args.test_file or data_args.streaming or data_args.zero_shot:
        raise ValueError("--test_dir, --test_file, --streaming and --zero_shot are for run_video_classification.py.")
    check_writable(args.output_dir)
    checkpoint = checkpoint_to_resume(args.resume_from_checkpoint, args.output_dir)
    accelerator = Accelerator(
        cpu=args.use_cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=args.report_to,
        project_dir=args.output_dir,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=False)],
    )
    if args.push_to_hub and accelerator.is_main_process:  # before the work: it may be refused
        name = args.hub_model_id or Path(args.output_dir).absolute().name
        args.hub_model_id = open_repo(name, args.output_dir)
    set_seed(args.seed)

    # 2. Data, model, clips
    config = load_config(model_args)
    splits = load_splits(data_args, args.seed, predicts=False)
    if not isinstance(splits.train, Dataset) or splits.validation is None or splits.label_names is None:
        raise ValueError("Give training and validation videos, such as --train_dir and --validation_dir, no stream.")
    model, processor = load_model_and_processor(model_args, data_args, config, splits.label_names)
    if checkpoint is None and accelerator.is_main_process:
        remove_old_list(args.output_dir, data_args)
    clips = make_clips(splits, processor, data_args, args.output_dir, args.seed)
    assert isinstance(clips.train, VideoClips)  # for the type checker, as the next
    assert clips.validation is not None
    batch_size, processes = args.per_device_train_batch_size, accelerator.num_processes
    sampler = ClipSampler(len(clips.train), args.seed, batch_size * processes if processes > 1 else 1)
    train_loader = make_loader(clips.train, batch_size, args, sampler)
    eval_loader = make_loader(clips.validation, args.per_device_eval_batch_size, args, None)

    # 3. Optimizer and schedule: warm-up, then a cosine to a hundredth of every group's learning rate
    optimizer = make_optimizer(model, args, accelerator.device)
    mixes = (args.mixup_alpha, args.cutmix_alpha, 0.5, args.label_smoothing)
    mixer = ClipMixer(len(splits.label_names), *mixes, seed=args.seed)
    model, optimizer, train_loader, eval_loader = accelerator.prepare(model, optimizer, train_loader, eval_loader)
    steps = math.ceil(len(train_loader) / args.gradient_accumulation_steps) * args.num_train_epochs
    floor = {"min_lr_rate": 0.01}
    scheduler = get_scheduler("cosine_with_min_lr", optimizer, args.warmup_steps, steps, floor)

    # 4. Go on from a checkpoint
    progress = Progress()
    accelerator.register_for_checkpointing(scheduler, progress)
    if args.report_to is not None:
        shown = {name: value for name, value in asdict(args).items() if isinstance(value, int | float | str)}
        accelerator.init_trackers("ila", config=shown)
    if checkpoint is not None:
        accelerator.load_state(checkpoint)

    # 5. Train, and evaluate after every epoch
    while progress.epoch < args.num_train_epochs:
        train_epoch(accelerator, model, optimizer, scheduler, train_loader, sampler, mixer, progress, args)
        evaluation = Evaluation(splits.label_names, clips.validation.data)
        metrics = evaluate(accelerator, accelerator.unwrap_model(model), eval_loader, evaluation)
        metrics = {f"eval_{name}": value for name, value in metrics.items()}
        progress.history.append({"step": progress.step, **metrics})
        accelerator.log(metrics, step=progress.step)
        if accelerator.is_main_process:
            logger.info(f"After epoch {progress.epoch}: {metrics}")
            draw_curves(Path(args.output_dir) / "curves.png", progress.history)
            matrix = evaluation.metric.confusion_matrix
            write_confusion_matrix(Path(args.output_dir) / "confusion_matrix.csv", matrix, splits.label_names)
        if args.checkpointing_steps == "epoch":
            save_checkpoint(accelerator, args, progress.step)

    # 6. Results, model, card
    names = {"base_model": model_args.model_name_or_path, "dataset_name": describe_dataset(data_args)}
    finish(accelerator, args, model, processor, clips, progress, names, evaluated_on(data_args))
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    with errors_in_one_line(Path(__file__).name):
        main()
