"""`model.fuse()`: the same results from fewer operations, also compiled and exported; what it refuses."""

import copy

import pytest
import torch
from accelerate import cpu_offload
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import TorchAoConfig

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAModel, ILAVisionModel
from ila_hf.conversion.export_ila import export_onnx, onnx_runner
from ila_hf.fusion_ila import fuse_linear, fuse_norm
from ila_hf.inference import inference_graph


VARIANTS = {
    "paper": {},
    "causal-token": {"first_frame": "self", "interaction_token": True},
    "dense": {"alignment_conv": "dense"},
    "released": {"architecture": "released"},
    "gelu": {"hidden_act": "gelu"},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("model_class", [ILAForVideoTextClassification, ILAForVideoClassification])
@torch.no_grad()
def test_results_stay(tiny_model, clips, model_class, variant):
    model = tiny_model(model_class, vision=VARIANTS[variant])
    labels = torch.tensor([0, 1])
    expected = model(clips, labels=labels, output_alignments=True, output_hidden_states=True)
    assert model.fuse() is model
    found = model(clips, labels=labels, output_alignments=True, output_hidden_states=True)
    assert list(found) == list(expected)
    torch.testing.assert_close(found.to_tuple(), expected.to_tuple(), atol=1e-5, rtol=1e-5)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    assert model.fuse() is model
    torch.testing.assert_close(model(clips).logits, found.logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_stays_as_exact_as_it_is(tiny_model, clips, dtype):
    model = tiny_model(ILAVisionModel, vision={"architecture": "released"}).to(dtype)
    expected = copy.deepcopy(model).float()(clips).last_hidden_state
    errors = [(model(clips.to(dtype)).last_hidden_state - expected).norm()]
    errors += [(model.fuse()(clips.to(dtype)).last_hidden_state - expected).norm()]
    assert model.dtype == dtype
    assert errors[1] < 1.2 * errors[0]


@torch.no_grad()
def test_a_folded_convolution_is_convolution_and_norm():
    """Written out, with the statistics and weights of the norm far from 0 and 1."""
    convolution, norm = nn.Conv2d(4, 6, 3, padding=1).eval(), nn.BatchNorm2d(6).eval()
    for tensor in (norm.running_mean, norm.weight, norm.bias):
        tensor.normal_()
    norm.running_var.uniform_(0.1, 3)
    maps = torch.randn(2, 4, 5, 5)
    expected = convolution(maps)
    for i in range(6):
        scale = norm.weight[i] / (norm.running_var[i] + norm.eps) ** 0.5
        expected[:, i] = (expected[:, i] - norm.running_mean[i]) * scale + norm.bias[i]
    torch.testing.assert_close(fuse_norm(convolution, norm)(maps), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_two_linear_layers_are_one():
    first, second, inputs = nn.Linear(5, 7), nn.Linear(7, 3), torch.randn(4, 5)
    torch.testing.assert_close(fuse_linear(first, second)(inputs), second(first(inputs)))


@pytest.mark.slow
@torch.no_grad()
def test_fused_models_compile_and_export(tiny_model, clips, tmp_path):
    model = tiny_model(vision={"architecture": "released", "num_hidden_layers": 1})
    expected = model(clips).logits
    model.fuse()
    compiled = torch.compile(inference_graph(model), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(clips)["logits"], expected, atol=1e-4, rtol=1e-4)
    export_onnx(model, tmp_path / "model.onnx")
    torch.testing.assert_close(onnx_runner(tmp_path / "model.onnx")(clips)["logits"], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_a_fused_model_neither_trains_nor_saves(tiny_model, tmp_path, variant):
    model = tiny_model(training=True, vision=VARIANTS[variant]).fuse()
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(ValueError, match="A fused model cannot be trained: load the model that it was made of"):
        model.train()
    with pytest.raises(ValueError, match="A fused model cannot be saved: save the model that it was made of"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
    assert model.eval() is model


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_fused_model_takes_neither_weights_nor_an_adapter(tiny_model, tmp_path):
    plain = tiny_model(vision={"temporal_module": "none"})  # no BatchNorm whose statistics would be missed
    weights = {name: value.clone() for name, value in plain.state_dict().items()}
    fused = plain.fuse()
    with pytest.raises(ValueError, match="A fused model cannot load weights: load the model that it was made of"):
        fused.load_state_dict(weights)
    get_peft_model(tiny_model(), LoraConfig(target_modules=["fc1"])).save_pretrained(tmp_path)
    for adapt in (
        lambda model: PeftModel.from_pretrained(model, tmp_path),
        lambda model: model.load_adapter(str(tmp_path)),
        lambda model: get_peft_model(model, LoraConfig(target_modules=["fc1"])),
    ):
        with pytest.raises(ValueError, match="A fused model cannot have an adapter: merge it into the model"):
            adapt(tiny_model().fuse())


@torch.no_grad()
def test_a_fused_tower(tiny_model, clips, tmp_path):
    """What holds for a fused model holds for one of which a part is."""
    model = tiny_model()
    expected = model(clips).logits
    model.vision_model.fuse()
    with pytest.raises(ValueError, match="A fused model cannot be saved"):
        model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="A fused model cannot be trained"):
        model.train()
    torch.testing.assert_close(model.fuse()(clips).logits, expected, atol=1e-5, rtol=1e-5)


def test_towers_and_models_without_a_trunk_of_their_own(tiny_model):
    model = tiny_model(ILAModel).fuse()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    model.text_model.train()  # of which nothing is folded


def test_what_fails_on_the_way_does_not_pass_for_whole(tiny_model, monkeypatch, tmp_path):
    def fail(*arguments):
        raise RuntimeError("out of memory")

    monkeypatch.setattr("ila_hf.alignment_ila.fuse_norm", fail)
    model = tiny_model()
    with pytest.raises(RuntimeError, match="out of memory"):
        model.fuse()
    with pytest.raises(ValueError, match="A fused model cannot be saved"):
        model.save_pretrained(tmp_path)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_adapters_are_merged_first(tiny_model):
    base = tiny_model()
    adapted = get_peft_model(base, LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(ValueError, match="A model with an adapter cannot be fused: merge the adapter first"):
        base.fuse()
    with pytest.raises(ValueError, match="A model with an adapter cannot be exported"):
        inference_graph(base)
    adapted.merge_and_unload().fuse()


def test_offloaded_and_quantised_models(tiny_model, tmp_path):
    with pytest.raises(
        ValueError, match=r"offloaded weights cannot be fused, got '.*' on the meta device: load it without"
    ):
        cpu_offload(tiny_model(), execution_device="cpu").fuse()
    torchao = pytest.importorskip("torchao.quantization", reason="it needs a newer torch than the lowest supported")
    tiny_model().save_pretrained(tmp_path)
    scheme = TorchAoConfig(torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    model = ILAForVideoTextClassification.from_pretrained(tmp_path, quantization_config=scheme)
    with pytest.raises(ValueError, match="A quantised model cannot be fused"):
        model.fuse()
    model = tiny_model()
    torchao.quantize_(model, torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    with pytest.raises(ValueError, match=r"quantised or divided cannot be fused, got '.*' as Int8"):
        model.fuse()
