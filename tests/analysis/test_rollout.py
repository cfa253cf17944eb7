"""Attention rollout against the product written out, from attention weights that the model returns."""

import pytest
import torch
from torch import nn

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAVisionModel
from ila_hf.analysis import attention_rollout
from ila_hf.outputs_ila import ILATemporalOutput
from ila_hf.temporal_ila import ILA_TEMPORAL_MODULES


def attentions_of(model, clips):
    """The weights of every layer, as the model itself returns them."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        return model(clips, output_attentions=True, return_dict=True).attentions


@pytest.mark.parametrize(
    "vision",
    [
        {},
        {"interaction_token": True},
        {"architecture": "released"},
        {"alignment_join": "concatenate"},
        *({"temporal_module": name} for name in ("none", "message_token", "divided", "shift", "st_adapter", "aim")),
        {"temporal_module": "shift", "temporal_options": {"shift_position": "key_value"}},
    ],
    ids=str,
)
def test_within_frames(tiny_model, clips, vision):
    model = tiny_model(ILAVisionModel, vision=vision)
    found = attention_rollout(model, clips)
    assert found.shape == (3, 2, 8, 4, 4)
    attentions = attentions_of(model, clips)
    for frame in range(16):
        product = torch.eye(17)
        for layer, weights in enumerate(attentions):
            rows = torch.zeros(17, 17)
            for head in range(2):
                rows += weights[frame, head, :, :17] / 2
            rows = torch.stack([row / row.sum() for row in rows])
            product = ((rows + torch.eye(17)) / 2) @ product
            torch.testing.assert_close(found[layer].flatten(0, 1)[frame].flatten(), product[0, 1:])
            torch.testing.assert_close(product.sum(1), torch.ones(17))


def test_appended_tokens_are_among_the_weights(tiny_model, clips):
    """That there are any, in the first test above."""
    assert attentions_of(tiny_model(ILAVisionModel, vision={"interaction_token": True}), clips)[0].shape[3] == 19


@pytest.mark.parametrize("layers", [None, [1]])
def test_over_all_frames(tiny_model, clips, layers):
    """Joint attention in all layers, and in one between layers within frames: one matrix over T·L tokens."""
    model = tiny_model(ILAVisionModel, vision={"temporal_module": "joint", "alignment_layers": layers})
    clips = clips[:, :3]
    found = attention_rollout(model, clips)
    attentions = attentions_of(model, clips)
    for clip in range(2):
        product = torch.eye(51)
        for layer, weights in enumerate(attentions):
            if layers is None or layer in layers:
                matrix = weights[clip].mean(0)
            else:
                matrix = torch.block_diag(*weights[3 * clip : 3 * clip + 3].mean(1))
            product = ((matrix + torch.eye(51)) / 2) @ product
            of_class_tokens = product[[0, 17, 34]].sum(0)
            for t in range(3):
                expected = of_class_tokens[17 * t + 1 : 17 * t + 17]
                torch.testing.assert_close(found[layer, clip, t].flatten(), expected)


@pytest.mark.parametrize("vision", [{}, {"temporal_module": "joint"}])
def test_one_frame_and_another_grid(tiny_model, vision):
    model = tiny_model(ILAForVideoTextClassification, vision=vision)
    found = attention_rollout(model, torch.randn(1, 1, 3, 40, 56))
    assert found.shape == (3, 1, 1, 5, 7)
    assert (found > 0).all()
    assert (found.sum((3, 4)) < 1).all()  # the class token has the rest


@pytest.mark.parametrize("model_class", [ILAForVideoTextClassification, ILAForVideoClassification])
def test_the_attention_is_switched_back(tiny_model, clips, model_class):
    model = tiny_model(model_class)
    model.set_attn_implementation("sdpa")

    def implementations():
        configs = [module.config for module in model.modules() if hasattr(module, "config")]
        return [config._attn_implementation for config in configs]

    before = implementations()
    assert set(before) == {"sdpa"}
    attention_rollout(model, clips)
    assert implementations() == before
    model.vision_model.encoder.layers[1].register_forward_hook(lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        attention_rollout(model, clips)
    assert implementations() == before


class Twice(nn.Module):
    """A module whose layer attends twice, or not at all, or to half of the tokens."""

    mode = "twice"

    def __init__(self, config):
        super().__init__()

    def forward(self, patches, prefix, grid, with_loss=True):
        return ILATemporalOutput()

    def run_layer(self, layer, hidden_states, **kwargs):
        if self.mode == "half":
            half = layer.self_attn(layer.layer_norm1(hidden_states[:, :, :9]).flatten(0, 1), **kwargs)[0]
            return hidden_states + half.mean()
        for _ in range(2 if self.mode == "twice" else 0):
            hidden_states = hidden_states + layer.attended(hidden_states, **kwargs)
        return layer.add_mlp(hidden_states)


@pytest.mark.parametrize(
    ("mode", "message"),
    [("twice", "it is run more than once"), ("none", "it is not run"), ("half", r"its weights are \(16, 2, 9, 9\)")],
)
def test_layers_that_attend_otherwise_are_refused(tiny_model, clips, monkeypatch, mode, message):
    monkeypatch.setitem(ILA_TEMPORAL_MODULES, "twice", Twice)
    monkeypatch.setattr(Twice, "mode", mode)
    model = ILAVisionModel(tiny_model(vision={"temporal_module": "twice"}).config.vision_config)
    with pytest.raises(ValueError, match=rf"In layer 0, which Twice changes, {message}\."):
        attention_rollout(model, clips)
