"""The graph of a model: a copy in float32 on the CPU, or an error that says why there is none."""

import pytest
import torch
from accelerate import cpu_offload
from conftest import make_model
from transformers import TorchAoConfig

from ila_hf import ILAForVideoTextClassification, ILAModel, ILAVisionModel
from ila_hf.demo.tiny import tiny_config
from ila_hf.inference import inference_graph


@torch.no_grad()
def test_a_graph_is_a_copy():
    model = make_model(training=True).bfloat16()
    model.set_attn_implementation("eager")
    graph = inference_graph(model)
    assert {parameter.dtype for parameter in graph.parameters()} == {torch.float32}
    assert not graph.training
    assert not any(parameter.requires_grad for parameter in graph.parameters())
    assert graph.model.vision_model.config._attn_implementation == "sdpa"
    assert model.training
    assert model.dtype == torch.bfloat16
    assert model.config.vision_config._attn_implementation == "eager"
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_offloaded_model(tiny_model):
    with pytest.raises(
        ValueError, match=r"offloaded weights cannot be exported, got '.*' on the meta device.*device_map"
    ):
        inference_graph(cpu_offload(tiny_model(), execution_device="cpu"))


def test_a_quantised_model(tiny_model, tmp_path):
    torchao = pytest.importorskip("torchao.quantization", reason="it needs a newer torch than the lowest supported")
    scheme = TorchAoConfig(torchao.Int8WeightOnlyConfig(set_inductor_config=False))
    tiny_model().save_pretrained(tmp_path)
    model = ILAForVideoTextClassification.from_pretrained(tmp_path, quantization_config=scheme)
    with pytest.raises(ValueError, match="A quantised model cannot be exported: load the model that it was made of"):
        inference_graph(model)


def test_other_models(tiny_model):
    with pytest.raises(ValueError, match="Only vision and classification models can be exported, got ILAModel"):
        inference_graph(tiny_model(ILAModel))
    with pytest.raises(ValueError, match="no class texts"):
        inference_graph(ILAForVideoTextClassification(tiny_config()))


@torch.no_grad()
def test_what_it_computes(tiny_model, clips):
    model = tiny_model()
    torch.testing.assert_close(inference_graph(model)(clips)["logits"], model(clips).logits)
    assert not hasattr(inference_graph(model).model, "text_model")
    trunk = tiny_model(ILAVisionModel)
    outputs, expected = inference_graph(trunk)(clips), trunk(clips)
    assert outputs.keys() == {"last_hidden_state", "pooler_output"}
    torch.testing.assert_close(outputs["last_hidden_state"], expected.last_hidden_state)
