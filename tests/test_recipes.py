"""The published recipes: one file per preset, which holds what Table 14 says."""

import json
from pathlib import Path

import pytest
import torch
from test_examples import load_script
from transformers import CLIPConfig, CLIPModel

from ila_hf import PRESET_NAMES, ILAConfig, ILAForVideoClassification, ILAForVideoTextClassification
from ila_hf.data.video_data import load_videos
from ila_hf.demo.tiny import tiny_config, tiny_processor
from ila_hf.training import ILATrainer, ILATrainingArguments
from ila_hf.training.arguments import (
    DataArguments,
    ModelArguments,
    given_arguments,
    parse_arguments,
    training_defaults,
)
from ila_hf.training.finetuning import make_clips
from ila_hf.training.splits import VideoSplits


FOLDER = Path(__file__).parent.parent / "examples" / "configs"

# Table 14. Kinetics-400: 8e-6 for CLIP's weights and ten times that for the others. SSv2: CLIP's weights do not train.
BOTH = {
    "adam_beta1": 0.9,
    "adam_beta2": 0.98,
    "total_batch_size": 256,
    "warmup_epochs": 5,
    "lr_scheduler_type": "cosine_with_min_lr",
    "lr_scheduler_kwargs": {"min_lr_rate": 0.01},
    "label_smoothing_factor": 0.1,
    "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0,
    "mix_switch_probability": 0.5,
    "augment": True,
    "num_clips": 4,
    "num_crops": 3,
}
K400 = {
    **BOTH,
    "max_steps": 50000,
    "learning_rate": 8e-6,
    "new_lr_factor": 10,
    "weight_decay": 0.003,
    "freeze": ["text"],
    "flip": None,  # 0.5: no class of Kinetics-400 names a side
}
SSV2 = {
    **BOTH,
    "max_steps": 30000,
    "learning_rate": 5e-4,
    "new_lr_factor": 1,
    "weight_decay": 0.01,
    "freeze": ["clip"],
    "flip": 0,
}
# preset -> recipe, CLIP checkpoint, frames, pixels, patch size
PRESETS = {
    "ila-base-patch32": (K400, "openai/clip-vit-base-patch32", 8, 224, 32),
    "ila-base-patch32-16-frames": (K400, "openai/clip-vit-base-patch32", 16, 224, 32),
    "ila-base-patch16": (K400, "openai/clip-vit-base-patch16", 8, 224, 16),
    "ila-base-patch16-16-frames": (K400, "openai/clip-vit-base-patch16", 16, 224, 16),
    "ila-large-patch14": (K400, "openai/clip-vit-large-patch14", 8, 224, 14),
    "ila-large-patch14-336-16-frames": (K400, "openai/clip-vit-large-patch14-336", 16, 336, 14),
    "ila-base-patch16-ssv2": (SSV2, "openai/clip-vit-base-patch16", 8, 224, 16),
    "ila-base-patch16-16-frames-ssv2": (SSV2, "openai/clip-vit-base-patch16", 16, 224, 16),
    "ila-large-patch14-ssv2": (SSV2, "openai/clip-vit-large-patch14", 8, 224, 14),
    "ila-large-patch14-336-16-frames-ssv2": (SSV2, "openai/clip-vit-large-patch14-336", 16, 336, 14),
}
# What a recipe says beside Table 14: how the run is organised
ORGANISATION = {
    "do_train": True,
    "do_eval": True,
    "per_device_train_batch_size": 8,
    "per_device_eval_batch_size": 8,
    "dataloader_num_workers": 8,
    "logging_steps": 50,
    "save_steps": 1000,
    "save_total_limit": 2,
}


def parse(name, tmp_path, *more):
    flags = ["--config", name, "--output_dir", str(tmp_path), "--use_cpu", "True", *more]
    return parse_arguments((ModelArguments, DataArguments, ILATrainingArguments), flags, FOLDER)


def test_there_is_a_recipe_for_every_preset():
    assert {file.stem for file in FOLDER.glob("*.json")} == {*PRESETS, "demo", "small-data"}
    assert set(PRESETS) == set(PRESET_NAMES)


def test_small_data(tmp_path):
    """It says how to learn, not what, how long or from where, and leaves evaluating and saving to the defaults."""
    model, _, training = parse("small-data", tmp_path)
    assert (training.learning_rate, training.new_lr_factor, model.freeze) == (3e-5, 33.3, ["text"])
    given = given_arguments(
        (ModelArguments, DataArguments, ILATrainingArguments),
        ["--config", "small-data", "--do_train", "--do_eval"],
        FOLDER,
    )
    assert not given.keys() & {"model_name_or_path", "num_train_epochs", "max_steps"}
    assert training_defaults(given)["load_best_model_at_end"]


def test_the_table_of_the_recipe_is_that_of_the_benchmark():
    found = json.loads((FOLDER.parents[1] / "benchmarks" / "results" / "small_data.json").read_text())
    assert load_script("benchmarks/small_data.py").table(found) in (FOLDER.parents[1] / "docs/training.md").read_text()


@pytest.mark.parametrize("name", PRESETS)
def test_values(name, tmp_path):
    recipe, clip, frames, size, patch_size = PRESETS[name]
    expected = {"model_name_or_path": clip, "config_name": name, **recipe, **ORGANISATION}
    parsed = {key: value for part in parse(name, tmp_path) for key, value in vars(part).items()}
    assert {key: parsed[key] for key in expected} == expected
    assert parsed["gradient_accumulation_steps"] == 32  # 256 clips, 8 at a time in one process
    assert parsed["optim"] in ("adamw_torch", "adamw_torch_fused")
    assert json.loads((FOLDER / f"{name}.json").read_text()).keys() <= expected.keys()  # and nothing else
    config = ILAConfig.from_preset(name)
    vision = config.vision_config
    assert (config.num_frames, vision.image_size, vision.patch_size) == (frames, size, patch_size)
    assert config.prompt_num_hidden_layers == (0 if recipe is SSV2 else 2)  # SSv2 has no prompt branch
    assert f"patch{patch_size}" in clip
    assert ("336" in clip) == (size == 336)


@pytest.mark.parametrize("name", PRESETS)
def test_what_is_frozen(name, tmp_path):
    """Kinetics-400: the text tower; SSv2: all that is CLIP's. On the meta device, with two layers."""
    model_args, *_ = parse(name, tmp_path)
    config = ILAConfig.from_preset(name, vision_config={"num_hidden_layers": 2})
    with torch.device("meta"):
        model = (ILAForVideoClassification if name.endswith("ssv2") else ILAForVideoTextClassification)(config)
        vision = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 2}
        clip = CLIPModel(CLIPConfig(vision_config=vision, text_config={"num_hidden_layers": 12}))
    every = {n for n, _ in model.named_parameters()}
    model.freeze(*model_args.freeze)
    trained = {n for n, parameter in model.named_parameters() if parameter.requires_grad}
    if PRESETS[name][0] is K400:
        assert every - trained == {n for n, _ in clip.named_parameters() if n.startswith("text")}
    else:
        assert trained == every - {n for n, _ in clip.named_parameters()}
    assert trained < every


@pytest.mark.parametrize(("name", "flip"), [("ila-base-patch16", 0.5), ("ila-base-patch16-ssv2", None)])
def test_augmentation(name, flip, tmp_path):
    """Crop 1, 0.875, 0.75 or 0.66 of the short side, colours 0.8, grey 0.2; SSv2 without mirroring."""
    _, data_args, _ = parse(name, tmp_path)
    (tmp_path / "videos" / "diving cliff").mkdir(parents=True)
    (tmp_path / "videos" / "diving cliff" / "1.mp4").write_bytes(b"")
    videos = load_videos(tmp_path / "videos")
    splits = VideoSplits(videos, videos, None, ["diving cliff"])
    clips = make_clips(splits, tiny_processor(tiny_config()), data_args, tmp_path, 0)
    crop, *mirror, colours, grey = clips.train.reader.transform.transforms
    assert (crop.size, crop.scales) == (32, (1, 0.875, 0.75, 0.66))
    assert [step.p for step in mirror] == ([] if flip is None else [flip])
    assert (colours.p, grey.p) == (0.8, 0.2)
    views = clips.validation.reader.processor
    assert (views.num_clips, views.num_crops) == (4, 3)


@pytest.mark.parametrize("name", ["ila-base-patch16", "ila-base-patch16-ssv2"])
def test_optimizer_and_schedule(name, tmp_path, tiny_model):
    """What the Trainer makes of a recipe: 512 clips are 2 steps per epoch, so 5 epochs of warm-up are 10 steps."""
    model_args, _, training_args = parse(name, tmp_path, "--dataloader_num_workers", "0")
    model = tiny_model(ILAForVideoClassification if name.endswith("ssv2") else ILAForVideoTextClassification)
    model.freeze(*model_args.freeze)
    trainer = ILATrainer(model, training_args, train_dataset=range(512))
    trainer.get_train_dataloader()
    trainer.create_optimizer_and_scheduler(training_args.max_steps)
    groups = trainer.optimizer.param_groups
    assert type(trainer.optimizer) is torch.optim.AdamW
    assert {group["betas"] for group in groups} == {(0.9, 0.98)}
    found = sorted((round(group["initial_lr"], 12), group["weight_decay"]) for group in groups)
    if PRESETS[name][0] is K400:
        assert found == [(8e-6, 0), (8e-6, 0.003), (8e-5, 0), (8e-5, 0.003)]
    else:
        assert found == [(5e-4, 0), (5e-4, 0.01)]
    for factor in trainer.lr_scheduler.lr_lambdas:
        assert [factor(step) for step in (0, 5, 10)] == [0, 0.5, 1]
        assert factor((10 + training_args.max_steps) // 2) == pytest.approx((1 + 0.01) / 2)
        assert factor(training_args.max_steps) == pytest.approx(0.01)
