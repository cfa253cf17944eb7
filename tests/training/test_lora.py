"""LoRA with peft: what trains, what an adapter holds, merging, the Trainer."""

import copy
import inspect
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForVideoClassification
from transformers.integrations import PeftAdapterMixin
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from ila_hf import (
    ILAConfig,
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAModel,
    ILATextModel,
    ILAVisionModel,
)
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.tiny import save_tiny_clip, tiny_processor, tiny_tokenizer
from ila_hf.training import ILATrainer, ILATrainingArguments
from ila_hf.training.lora import lora_config
from ila_hf.training.optimization import parameter_groups


# peft 0.21 asks for it under the name that transformers has given up
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

# 5.11 passes over `modules_to_save` without a word; peft's own `PeftModel.from_pretrained` does not
needs_whole_adapters = pytest.mark.skipif(
    "AuxiliaryTrainingWrapper" not in inspect.getsource(PeftAdapterMixin),
    reason="this version of transformers loads the LoRA part of an adapter only",
)

HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)
ARCHITECTURES = ("paper", "released")
LABELS = torch.tensor([0, 1])
EXACT = {"rtol": 0, "atol": 1e-6}


def with_lora(model, seed=0, **options):
    torch.manual_seed(seed)
    return get_peft_model(model, lora_config(model, rank=4, **options))


def train(model, clips, steps=3):
    """Steps large enough to move weights, BatchNorm statistics and logits; the mode is evaluation afterwards."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        model(clips, labels=LABELS).loss.backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def logits(model, clips):
    return model(clips).logits


@torch.no_grad()
def renew(model):
    """The same CLIP weights with another alignment, head and state, as where the base is a plain CLIP."""
    model = copy.deepcopy(model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if model.parameter_origin(name) is None and tensor.is_floating_point() and not name.startswith("norm."):
            tensor.uniform_(0.5, 1.5)
    return model


@pytest.fixture(params=HEADS, ids=["text", "linear"])
def head(request):
    return request.param


@pytest.fixture(params=ARCHITECTURES)
def architecture(request):
    return request.param


# --- What trains --------------------------------------------------------------------------------------------------


def test_lora_starts_as_the_base(tiny_model, clips, head, architecture):
    base = tiny_model(head, vision={"architecture": architecture})
    expected = logits(base, clips)
    assert torch.equal(logits(with_lora(base, mlp=True, text=head is HEADS[0]), clips), expected)


def test_only_adapters_and_what_is_new_train(tiny_model, clips, head, architecture):
    base = tiny_model(head, vision={"architecture": architecture})
    before = copy.deepcopy(base.state_dict())
    new = {name for name, _ in base.named_parameters() if base.parameter_origin(name) is None}
    model = with_lora(base)
    train(model, clips)
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, parameter in model.named_parameters() if parameter.requires_grad}

    in_full = {name.removeprefix("base_model.model.") for name in trained if ".lora_" not in name}
    assert {name.replace(".modules_to_save.default", "") for name in in_full} == {
        name for name in new if not name.startswith("norm.")
    }
    adapters = {name for name in trained if ".lora_" in name}
    assert len(adapters) == 2 * 4 * 3  # A and B of four projections in three layers
    assert all(".vision_model.encoder.layers." in name and ".self_attn." in name for name in adapters)

    after = {
        name.removeprefix("base_model.model.").replace(".base_layer.", ".").replace(".original_module.", "."): tensor
        for name, tensor in model.state_dict().items()
    }
    assert before.keys() <= after.keys()
    for name, tensor in before.items():
        assert torch.equal(after[name], tensor), name


@pytest.mark.parametrize(
    ("options", "modules"),
    [
        ({}, {"vision_model.self_attn": 12}),
        ({"mlp": True}, {"vision_model.self_attn": 12, "vision_model.mlp": 6}),
        ({"text": True}, {"vision_model.self_attn": 12, "text_model.self_attn": 8}),
    ],
    ids=str,
)
def test_which_layers_get_adapters(tiny_model, options, modules):
    """Three layers in the vision tower, two in the text tower; none in what trains in full."""
    model = with_lora(tiny_model(vision={"architecture": "released"}), **options)
    found = {}
    for name, _ in model.named_modules():
        if name.endswith(".lora_A.default"):
            parts = name.removeprefix("base_model.model.").split(".")
            kind = f"{parts[0]}.{parts[4] if parts[3].isdigit() else parts[3]}"
            found[kind] = found.get(kind, 0) + 1
    assert found == modules


def test_options_replace_the_defaults(tiny_model):
    model = tiny_model(ILAModel)
    config = lora_config(model)
    assert (config.r, config.lora_alpha, config.lora_dropout) == (16, 16, 0.0)
    assert config.modules_to_save == ["temporal", "integration", "prompt"]
    config = lora_config(model, 4, lora_alpha=2, lora_dropout=0.1, modules_to_save=["prompt"])
    assert (config.r, config.lora_alpha, config.lora_dropout, config.modules_to_save) == (4, 2, 0.1, ["prompt"])
    with pytest.raises(ValueError, match="ILAForVideoClassification has no text tower"):
        lora_config(tiny_model(ILAForVideoClassification), text=True)
    with pytest.raises(ValueError, match="`rank` must be at least 1, got 0"):
        lora_config(model, rank=0)
    with pytest.raises(ValueError, match="`text` must be True"):
        lora_config(tiny_model(ILATextModel))
    text_tower = get_peft_model(tiny_model(ILATextModel), lora_config(tiny_model(ILATextModel), text=True))
    assert any("lora_A" in name for name, _ in text_tower.named_parameters())


def test_a_tower_alone(tiny_model, clips):
    model = tiny_model(ILAVisionModel)
    expected = model(clips).pooler_output
    model = with_lora(model)
    assert torch.equal(model(clips).pooler_output, expected)
    assert sum(name.endswith("lora_B.default.weight") for name, _ in model.named_parameters()) == 12


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        # Rank 16 in 12 layers: four projections of 768 to 768, 4·2·768·16; with the MLP 2·(768 + 3072)·16 more
        ({}, (169_793_329, 20_172_592, 1_179_648)),
        ({"mlp": True}, (169_793_329, 20_172_592, 2_654_208)),
        ({"architecture": "released"}, (199_940_401, 50_319_664, 1_179_648)),
    ],
    ids=str,
)
def test_numbers_of_the_guide(arguments, expected):
    """Parameters of ila-base-patch16: all, trained in full, of the adapters."""
    options = {name: arguments[name] for name in arguments.keys() & {"mlp"}}
    with torch.device("meta"):
        model = ILAForVideoTextClassification(
            ILAConfig.from_preset("ila-base-patch16", architecture=arguments.get("architecture", "paper"))
        )
    total = model.num_parameters()
    if not arguments:
        without_text = total - sum(
            p.numel() for n, p in model.named_parameters() if model.parameter_origin(n) == "text"
        )
        assert without_text == 106_365_233
    model = get_peft_model(model, lora_config(model, **options))
    trained = {name: p.numel() for name, p in model.named_parameters() if p.requires_grad}
    adapters = sum(number for name, number in trained.items() if ".lora_" in name)
    assert (total, sum(trained.values()) - adapters, adapters) == expected


# --- The state of the temporal modules ------------------------------------------------------------------------------


def temporal(model, index=0):
    return model.get_base_model().vision_model.encoder.layers[index].temporal


def test_only_the_copy_that_trains_is_in_training_mode(tiny_model, clips):
    model = with_lora(tiny_model())
    original = copy.deepcopy(temporal(model).original_module.state_dict())
    model.train()
    wrapper = temporal(model)
    assert wrapper.modules_to_save["default"].training
    assert not any(module.training for module in wrapper.original_module.modules())
    model(clips)
    statistics = wrapper.modules_to_save["default"].alignment.prediction.norm1
    assert not torch.equal(statistics.running_mean, original["alignment.prediction.norm1.running_mean"])
    for name, tensor in wrapper.original_module.state_dict().items():
        assert torch.equal(tensor, original[name]), name


def test_a_loaded_adapter_stays_in_evaluation(tiny_model, clips, tmp_path):
    """Unless it is loaded to be trained: no jitter, no new statistics."""
    with_lora(tiny_model()).save_pretrained(tmp_path)
    fixed = PeftModel.from_pretrained(tiny_model(), tmp_path).train()
    assert not any(module.training for module in temporal(fixed).modules_to_save["default"].modules())
    trainable = PeftModel.from_pretrained(tiny_model(), tmp_path, is_trainable=True).train()
    assert temporal(trainable).modules_to_save["default"].alignment.mask.training


def test_mask_jitter_of_a_wrapped_model(tiny_model, clips):
    model = with_lora(tiny_model()).train()
    wide = model(clips, output_alignments=True).alignment_masks[0]
    model.set_mask_jitter_epoch(32)
    assert float(temporal(model).modules_to_save["default"].alignment.mask.jitter_scale) == 0.125
    narrow = model(clips, output_alignments=True).alignment_masks[0]
    assert not torch.equal(wide, narrow)


@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("layers", [None, [1]])
def test_activation_checkpointing_changes_nothing(tiny_model, clips, layers, use_reentrant):
    """Also where the first layer has frozen inputs only."""
    model = with_lora(tiny_model(vision={"alignment_layers": layers})).train()
    with torch.no_grad():  # with B of zeros the gradient of A is zero
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(std=0.05)
    checkpointed = copy.deepcopy(model)
    base = checkpointed.get_base_model()
    # its name since transformers 5.23, and before
    enable = getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)
    enable({"use_reentrant": use_reentrant})
    if use_reentrant:
        base.enable_input_require_grads()
    for each in (model, checkpointed):
        each(clips, labels=LABELS).loss.backward()
    expected = dict(model.named_parameters())
    for name, parameter in checkpointed.named_parameters():
        assert (parameter.grad is None) == (expected[name].grad is None), name
        if parameter.grad is not None:
            torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)
    buffers = dict(model.named_buffers())
    for name, buffer in checkpointed.named_buffers():
        assert torch.equal(buffer, buffers[name]), name


# --- Saving, loading, merging ---------------------------------------------------------------------------------------


@pytest.fixture
def trained(tiny_model, clips, head, architecture, tmp_path):
    """A base, the logits of an adapter trained on it, and where the adapter lies."""
    base = tiny_model(head, vision={"architecture": architecture})
    model = with_lora(copy.deepcopy(base), mlp=True)
    model.set_mask_jitter_epoch(31)
    train(model, clips)
    if head is ILAForVideoTextClassification:
        model.set_class_texts([f"to the {name}" for name in MOTIONS], tiny_tokenizer())
    model.save_pretrained(tmp_path / "adapter")
    expected = logits(model, clips)
    assert (expected - logits(base, clips)).abs().max() > 0.1
    return base, expected, tmp_path / "adapter"


def test_an_adapter_holds_all_that_was_trained(trained, clips):
    """On a base whose alignment is another one, too: nothing of it is left but CLIP's weights."""
    base, expected, folder = trained
    loaded = PeftModel.from_pretrained(renew(base), folder).eval()
    torch.testing.assert_close(logits(loaded, clips), expected, **EXACT)
    assert float(temporal(loaded, 2).alignment.mask.jitter_scale) == 0.25
    assert int(temporal(loaded, 2).alignment.prediction.norm1.num_batches_tracked) == 3
    saved = load_file(folder / "adapter_model.safetensors")
    size = sum(tensor.numel() for tensor in saved.values())
    trains = sum(p.numel() for n, p in base.named_parameters() if base.parameter_origin(n) is None)
    assert size < 1.2 * trains  # and none of CLIP's
    assert (folder / "adapter_config.json").is_file()


@needs_whole_adapters
def test_transformers_loads_and_saves_an_adapter(trained, clips, tmp_path):
    base, expected, folder = trained
    model = renew(base)
    model.load_adapter(str(folder))
    model.eval()
    torch.testing.assert_close(logits(model, clips), expected, rtol=0, atol=3e-6)  # with B and A in another order
    model.save_pretrained(tmp_path / "again")
    first, second = (load_file(f / "adapter_model.safetensors") for f in (folder, tmp_path / "again"))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(second[name], tensor), name


@needs_whole_adapters
def test_an_adapter_is_loaded_by_its_name(trained, clips, tmp_path):
    base, expected, folder = trained
    base.save_pretrained(tmp_path / "base")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": str(tmp_path / "base")}))
    model = AutoModelForVideoClassification.from_pretrained(folder).eval()
    assert type(model) is type(base)
    torch.testing.assert_close(logits(model, clips), expected, rtol=0, atol=3e-6)


def test_a_merged_adapter_is_a_plain_model(trained, clips, tmp_path):
    base, expected, folder = trained
    merged = PeftModel.from_pretrained(renew(base), folder).merge_and_unload().eval()
    assert type(merged) is type(base)
    assert merged.state_dict().keys() == base.state_dict().keys()
    torch.testing.assert_close(logits(merged, clips), expected, rtol=1e-5, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    loaded, info = type(base).from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    torch.testing.assert_close(logits(loaded.eval(), clips), logits(merged, clips), **EXACT)


def test_add_adapter_of_transformers(tiny_model, clips, tmp_path):
    """Without a wrapper: the model stays what it is."""
    base = tiny_model()
    expected = logits(base, clips)
    model = copy.deepcopy(base)
    model.add_adapter(lora_config(model, rank=4))
    assert torch.equal(logits(model, clips), expected)
    train(model, clips)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(renew(base), tmp_path).eval()
    torch.testing.assert_close(logits(loaded, clips), logits(model, clips), **EXACT)


@pytest.fixture
def clip_folder(tmp_path):
    save_tiny_clip(tmp_path / "clip")
    return tmp_path / "clip"


def from_clip(head, folder, seed):
    """What is not CLIP's differs from seed to seed."""
    torch.manual_seed(seed)
    model = head.from_pretrained(folder, num_labels=2)
    if head is ILAForVideoTextClassification:
        model.set_class_texts(["go", "stop"], tiny_tokenizer())
    return model


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["temporal"]}], ids=["plain", "some modules"])
@pytest.mark.parametrize("way", ["get_peft_model", pytest.param("add_adapter", marks=needs_whole_adapters)])
def test_a_plain_configuration_keeps_what_is_new(clip_folder, clips, head, way, options, tmp_path):
    """From a plain CLIP: no other model has its alignment. peft's defaults would neither train nor save it."""
    config = LoraConfig(target_modules=["q_proj", "v_proj"], **options)  # of the integration, too
    model = from_clip(head, clip_folder, seed=1)
    if way == "get_peft_model":
        model = get_peft_model(model, config)
    else:
        model.add_adapter(config)
    train(model, clips)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any(".integration.modules_to_save." in f".{name}" for name in trained)
    assert not any("integration" in name and "lora" in name for name in trained)
    model.save_pretrained(tmp_path / "adapter")
    loaded = from_clip(head, clip_folder, seed=2)
    assert (logits(loaded.eval(), clips) - logits(model, clips)).abs().max() > 0.01
    if way == "get_peft_model":
        loaded = PeftModel.from_pretrained(loaded, tmp_path / "adapter")
    else:
        loaded.load_adapter(str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(loaded.eval(), clips), logits(model, clips), rtol=0, atol=3e-6)


def test_a_plain_configuration_of_a_trained_base_stays_as_it_is(tiny_model, tmp_path):
    tiny_model().save_pretrained(tmp_path)
    base = ILAForVideoTextClassification.from_pretrained(tmp_path)
    model = get_peft_model(base, LoraConfig(target_modules=["q_proj", "v_proj"]))
    assert model.peft_config["default"].modules_to_save is None
    assert all(".lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)


def test_an_adapter_that_lacks_what_is_new_is_told(tiny_model, clip_folder, tmp_path):
    get_peft_model(tiny_model(num_labels=2), LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path)
    with CaptureLogger(logging.get_logger("ila_hf.new_weights_ila")) as logs:
        PeftModel.from_pretrained(from_clip(ILAForVideoTextClassification, clip_folder, 1), tmp_path)
    assert "does not hold temporal, integration, prompt, class_texts" in logs.out


# --- Class texts ----------------------------------------------------------------------------------------------------


def test_other_classes_than_those_of_the_base(tiny_model, clips, tmp_path):
    """Their texts are part of the adapter; their names are part of the configuration."""
    base = tiny_model()
    base.save_pretrained(tmp_path / "base")
    model = with_lora(base).eval()
    model.set_class_texts(["go", "stop", "wait"], tiny_tokenizer())
    expected = logits(model, clips)
    assert expected.shape == (2, 3)
    model.save_pretrained(tmp_path / "adapter")
    model.config.save_pretrained(tmp_path / "config")

    base = ILAForVideoTextClassification.from_pretrained(
        tmp_path / "base", config=ILAConfig.from_pretrained(tmp_path / "config"), ignore_mismatched_sizes=True
    )
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    torch.testing.assert_close(logits(loaded, clips), expected, **EXACT)
    merged = loaded.merge_and_unload()
    assert merged.config.id2label == {0: "go", 1: "stop", 2: "wait"}
    torch.testing.assert_close(logits(merged, clips), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["temporal"]}], ids=["", "same texts"])
def test_text_features_follow_the_adapters_of_the_text_tower(tiny_model, clips, options):
    base = tiny_model()
    expected = logits(base, clips)
    model = with_lora(base, text=True, **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "text_model" in name and ".lora_B." in name:
                parameter.normal_(std=0.2)
    adapted = logits(model, clips)
    assert (adapted - expected).abs().max() > 0.01
    with model.disable_adapter():
        assert torch.equal(logits(model, clips), expected)
    assert torch.equal(logits(model, clips), adapted)
    torch.testing.assert_close(logits(model.merge_and_unload(), clips), adapted, rtol=1e-5, atol=1e-5)


def test_text_features_are_kept_beside_adapters_of_the_vision_tower(tiny_model, clips):
    model = with_lora(tiny_model()).train()
    calls = []
    model.text_model.register_forward_hook(lambda *args: calls.append(1))
    for _ in range(3):
        model(clips, labels=LABELS).loss.backward()
    assert len(calls) == 1


@pytest.mark.parametrize("part", ["", "text_model"])
@torch.no_grad()
def test_text_features_of_a_model_into_which_an_adapter_is_merged(tiny_model, clips, part):
    """peft merges into `.data`, and puts the layers back that it had wrapped."""
    model = tiny_model()
    before = logits(model, clips)
    wrapped = getattr(model, part) if part else model
    config = LoraConfig(r=4, target_modules=r".*layers\..*q_proj", init_lora_weights=False)
    assert get_peft_model(wrapped, config).merge_and_unload() is wrapped
    features = model.get_text_features(model.class_texts.input_ids).pooler_output
    assert torch.equal(model.class_features(), features)
    assert (logits(model, clips) - before).abs().max() > 0.01


# --- The Trainer --------------------------------------------------------------------------------------------------


class Clips(torch.utils.data.Dataset):
    """Eight clips of two classes, the same in every epoch."""

    def __init__(self):
        generator = torch.Generator().manual_seed(4)
        self.clips = torch.randn(8, 8, 3, 32, 32, generator=generator)

    def __len__(self):
        return len(self.clips)

    def __getitem__(self, index):
        return {"pixel_values": self.clips[index], "labels": torch.tensor(index % 2)}


def trainer(model, folder, **arguments):
    settings = {"max_steps": 4, "save_steps": 2, "learning_rate": 1e-3, "per_device_train_batch_size": 2, **arguments}
    args = ILATrainingArguments(
        output_dir=str(folder), report_to="none", use_cpu=True, disable_tqdm=True, new_lr_factor=10, **settings
    )
    processor = tiny_processor(model.config)
    return ILATrainer(model, args, train_dataset=Clips(), eval_dataset=Clips(), processing_class=processor)


def test_learning_rates_of_adapters_and_of_what_is_new(tiny_model):
    model = with_lora(tiny_model(), text=True)
    groups = parameter_groups(model, 1e-4, 0.1, new_lr_factor=10)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = {
        group["name"]: (group["lr"], group["weight_decay"], {names[id(p)] for p in group["params"]})
        for group in groups
    }
    adapters = {name for name in names.values() if ".lora_" in name}
    assert found.keys() == {"clip, decay", "new, decay", "new, no decay"}
    assert found["clip, decay"] == (1e-4, 0.1, adapters)
    assert found["new, decay"][:2] == (pytest.approx(1e-3), 0.1)
    assert found["new, no decay"][:2] == (pytest.approx(1e-3), 0.0)
    assert "base_model.model.integration.modules_to_save.default.position_embedding" in found["new, no decay"][2]


def test_a_run_of_the_trainer_can_be_resumed(tiny_model, tmp_path):
    whole = trainer(with_lora(tiny_model()), tmp_path / "whole")
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").is_file()
    assert not (checkpoint / "model.safetensors").exists()
    resumed = trainer(with_lora(tiny_model(), seed=1), tmp_path / "resumed")
    resumed.train(resume_from_checkpoint=str(checkpoint))
    expected = whole.model.state_dict()
    for name, tensor in resumed.model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("greater_is_better", [False, True])
@pytest.mark.parametrize("way", ["get_peft_model", pytest.param("add_adapter", marks=needs_whole_adapters)])
def test_the_best_adapter_is_loaded_at_the_end(tiny_model, tmp_path, way, greater_is_better):
    """Of the least and the greatest loss at most one is that of the last step."""
    if way == "get_peft_model":
        model = with_lora(tiny_model())
    else:
        model = tiny_model()
        model.add_adapter(lora_config(model, rank=4))
    run = trainer(
        *(model, tmp_path / "run"),
        **{"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "load_best_model_at_end": True},
        metric_for_best_model="loss",
        greater_is_better=greater_is_better,
        learning_rate=0.03,
    )
    run.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry}
    best = (max if greater_is_better else min)(losses, key=losses.get)
    assert run.state.best_model_checkpoint.endswith(f"checkpoint-{best}")
    assert run.evaluate()["eval_loss"] == pytest.approx(losses[best], rel=1e-5)
    assert max(losses.values()) > min(losses.values()) + 1e-3


def test_the_trainer_evaluates_saves_and_describes_an_adapter(tiny_model, tmp_path):
    model = with_lora(tiny_model())
    run = trainer(model, tmp_path / "run", max_steps=2, save_strategy="no")
    run.train()
    metrics = run.evaluate()
    run.save_model()
    run.create_model_card()
    assert metrics["eval_num_clips"] == 8
    assert {file.name for file in (tmp_path / "run").glob("adapter*")} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    loaded = PeftModel.from_pretrained(renew(tiny_model()), tmp_path / "run").eval()
    clips = Clips().clips[:2]
    torch.testing.assert_close(logits(loaded, clips), logits(model.eval(), clips), **EXACT)
    card = (tmp_path / "run" / "README.md").read_text()
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert f"{trained:,}" in card
