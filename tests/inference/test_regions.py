"""One compilation for all layers, and the same results."""

import copy

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from ila_hf import ILAForVideoTextClassification, ILAVisionModel
from ila_hf.inference import compile_layers


@pytest.fixture(autouse=True)
def _reset():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("vision", [{}, {"interaction_token": True}, {"architecture": "released"}], ids=str)
@torch.no_grad()
def test_all_layers_share_their_code(tiny_model, clips, vision):
    """As many graphs for three layers as for one: those of a layer and of what aligns its frames."""
    counts = []
    for layers in (1, 3):
        torch._dynamo.reset()
        model = tiny_model(ILAVisionModel, vision={**vision, "num_hidden_layers": layers})
        expected = model(clips).last_hidden_state
        counter = CompileCounterWithBackend("eager")
        compiled = compile_layers(model, backend=counter, fullgraph=True)
        assert compiled is model
        torch.testing.assert_close(compiled(clips).last_hidden_state, expected, atol=1e-5, rtol=1e-5)
        counts.append(counter.frame_count)
    assert counts == [2, 2]


@torch.no_grad()
def test_one_dynamic_compilation_serves_all_batches(tiny_model):
    """Of two clips or more with 16 pairs of frames or more; for fewer torch's convolutions compile others."""
    model = tiny_model(ILAVisionModel, vision={"num_hidden_layers": 2})
    expected = copy.deepcopy(model)
    counter = CompileCounterWithBackend("eager")
    compile_layers(model, backend=counter, dynamic=True)
    for batch, frames in ((4, 7), (3, 9), (2, 12), (6, 8)):
        clips = torch.randn(batch, frames, 3, 32, 32)
        torch.testing.assert_close(
            model(clips).last_hidden_state, expected(clips).last_hidden_state, atol=1e-5, rtol=1e-5
        )
    assert counter.frame_count == 2


def test_options_are_those_of_torch(tiny_model, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: asked.append(options))
    compile_layers(tiny_model(vision={"num_hidden_layers": 2}), mode="max-autotune", dynamic=False)
    assert asked == [{"mode": "max-autotune", "dynamic": False}] * 4  # a layer and what aligns its frames


def test_it_trains_and_saves(tiny_model, clips, tmp_path):
    model = tiny_model(vision={"num_hidden_layers": 2}, training=True)
    expected = copy.deepcopy(model)
    compile_layers(model, backend="aot_eager")
    labels = torch.tensor([0, 1])
    for each in (model, expected):
        each(clips, labels=labels).loss.backward()
    for (name, found), wanted in zip(model.named_parameters(), expected.parameters(), strict=True):
        if wanted.grad is not None:
            torch.testing.assert_close(found.grad, wanted.grad, atol=1e-4, rtol=1e-3, msg=name)
    model.save_pretrained(tmp_path)
    loaded = ILAForVideoTextClassification.from_pretrained(tmp_path)
    assert loaded.state_dict().keys() == expected.state_dict().keys()
