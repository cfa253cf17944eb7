"""Train a tiny model with ILATrainer in the processes of torchrun, on given clips; see test_distributed.py.

    torchrun --nproc_per_node 2 tests/training/train_in_processes.py OPTIONS.json

Writes OUTPUT_DIR/result.pt: gradients of the first step, the evaluation before and after the training, logged losses.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from ila_hf import ILAForVideoTextClassification
from ila_hf.data.video_clips import collate_clips
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.tiny import tiny_config, tiny_tokenizer
from ila_hf.training import ILATrainer, ILATrainingArguments


class RandomClips(torch.utils.data.Dataset):
    """Clips of noise, in which a class is a shift of the mean."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        clip = torch.randn(8, 3, 32, 32, generator=generator) + index % len(MOTIONS) / 4
        return {"pixel_values": clip, "labels": index % len(MOTIONS)}


class KeepGradients(TrainerCallback):
    def __init__(self):
        self.gradients = None

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if self.gradients is None:
            self.gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def train(options):
    """Train as the options say: arguments of the trainer, of the vision configuration, and what to freeze."""
    torch.manual_seed(0)
    model = ILAForVideoTextClassification(tiny_config(options["vision"]))
    model.set_class_texts(MOTIONS, tiny_tokenizer())
    model.freeze(*options["freeze"])
    if options.get("freeze_batch_norm"):
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval().train = lambda mode=True, module=module: module
    args = ILATrainingArguments(
        use_cpu=True,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        logging_steps=1,
        per_device_eval_batch_size=3,
        **options["args"],
    )
    keep = KeepGradients()
    trainer = ILATrainer(
        model,
        args,
        train_dataset=RandomClips(options["train_clips"]),
        eval_dataset=RandomClips(7),
        data_collator=collate_clips,
        callbacks=[keep],
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    trainer.save_model()
    if trainer.is_world_process_zero():
        losses = [entry for entry in trainer.state.log_history if "alignment_loss" in entry]
        result = {"gradients": keep.gradients, "before": before, "after": after, "losses": losses}
        torch.save(result, Path(args.output_dir) / "result.pt")
    trainer.end()


if __name__ == "__main__":
    torch.set_num_threads(1)
    train(json.loads(Path(sys.argv[1]).read_text()))
