"""Train a tiny model under FSDP2 on two CPU processes; see test_distributed.py.

    torchrun --nproc_per_node 2 tests/training/train_with_fsdp.py FOLDER STATE_DICT_TYPE STEPS [CHECKPOINT]

Writes FOLDER/logits.pt: what the sharded model said after the training, in evaluation mode.
"""

import sys
from pathlib import Path

import torch
from accelerate.utils import DistributedType
from torch.distributed.tensor import DTensor

from ila_hf import ILAForVideoTextClassification
from ila_hf.data.video_clips import collate_clips
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.tiny import tiny_config, tiny_tokenizer
from ila_hf.training import ILATrainer, ILATrainingArguments


class RandomClips(torch.utils.data.Dataset):
    """Sixteen clips of noise."""

    def __len__(self):
        return 16

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        return {"pixel_values": torch.randn(8, 3, 32, 32, generator=generator), "labels": index % len(MOTIONS)}


def main(folder):
    args = ILATrainingArguments(
        output_dir=folder,
        fsdp=True,
        fsdp_config={"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP", "state_dict_type": sys.argv[2]},
        use_cpu=True,
        max_steps=int(sys.argv[3]),
        save_steps=2,
        per_device_train_batch_size=4,
        learning_rate=1e-3,
        report_to="none",
        disable_tqdm=True,
    )
    # accelerate passes over FSDP on the CPU without a word; torch's fully_shard works there
    args.distributed_state.distributed_type = DistributedType.MULTI_XPU
    torch.manual_seed(0)
    model = ILAForVideoTextClassification(tiny_config({"interaction_token": True}))
    model.set_class_texts(MOTIONS, tiny_tokenizer())
    model.freeze("text")
    clips = RandomClips()
    trainer = ILATrainer(model, args, train_dataset=clips, eval_dataset=clips, data_collator=collate_clips)
    assert trainer.is_fsdp_enabled
    before = model.vision_model.encoder.layers[0].mlp.fc1.weight.detach().clone()
    trainer.train(resume_from_checkpoint=sys.argv[4] if len(sys.argv) > 4 else None)
    weight = trainer.model.vision_model.encoder.layers[0].mlp.fc1.weight
    assert isinstance(weight, DTensor)
    assert weight.to_local().shape[0] == before.shape[0] // 2
    assert not torch.equal(weight.full_tensor().detach(), before)
    assert trainer.evaluate()["eval_num_clips"] == 16
    trainer.model.eval()
    with torch.no_grad():
        logits = trainer.model(pixel_values=torch.stack([clips[i]["pixel_values"] for i in range(4)])).logits
    trainer.save_model()
    if trainer.is_world_process_zero():
        torch.save(logits, Path(folder) / "logits.pt")
        torch.save(trainer.losses.total, Path(folder) / "loss.pt")
    trainer.end()


if __name__ == "__main__":
    main(sys.argv[1])
