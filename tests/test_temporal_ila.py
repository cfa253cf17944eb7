"""The contract of temporal modules: a class from outside is all that it takes."""

import pytest
import torch
from conftest import make_model
from torch import nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from ila_hf import ILAForVideoTextClassification, ILAVisionModel
from ila_hf.analysis.visualization import visualize_video
from ila_hf.conversion.export_ila import export_onnx, largest_difference, onnx_runner
from ila_hf.demo.tiny import tiny_config, tiny_processor
from ila_hf.evaluation.model_card import card_from_run
from ila_hf.outputs_ila import ILATemporalOutput
from ila_hf.temporal_ila import ILA_TEMPORAL_MODULES, ILATemporalConv
from ila_hf.training.optimization import parameter_groups


class ScaledPooling(nn.Module):
    """One token per frame, the mean of its patches: Eq. 3a without a mask (Table 4)."""

    def __init__(self, config):
        super().__init__()
        self.scale = nn.Parameter(torch.empty(config.hidden_size))

    def init_weights(self):
        nn.init.constant_(self.scale, 0.5)

    def forward(self, patches, prefix, grid, with_loss):
        tokens = patches.mean(2, keepdim=True)
        return ILATemporalOutput(tokens=self.scale * tokens)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    monkeypatch.setitem(ILA_TEMPORAL_MODULES, "scaled_pooling", ScaledPooling)


VISION = {"temporal_module": "scaled_pooling", "image_size": 16}  # 2×2 patches: too few for the alignment


@pytest.fixture
def clips():
    return torch.randn(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def test_it_joins_the_attention(clips):
    """Each layer is CLIP's own on one more token, written out."""
    model = make_model(ILAVisionModel, VISION)
    hidden = model.pre_layrnorm(model.embeddings(clips.flatten(0, 1)))
    for layer in model.encoder.layers:
        token = layer.temporal.scale * hidden[:, 1:].mean(1, keepdim=True)
        hidden = super(type(layer), layer).forward(torch.cat([hidden, token], 1), None)[:, :-1]
    found = model(clips).last_hidden_state.flatten(0, 1)
    torch.testing.assert_close(found, hidden)
    plain = make_model(ILAVisionModel, {**VISION, "alignment_layers": []})
    assert not torch.allclose(found, plain(clips).last_hidden_state.flatten(0, 1), atol=1e-3)


def test_what_it_lacks_is_left_out(clips):
    outputs = make_model(ILAForVideoTextClassification, VISION)(
        clips, labels=torch.tensor([0, 1]), output_alignments=True
    )
    assert outputs.alignment_loss == 0
    assert outputs.loss == outputs.classification_loss
    for name in ("alignment_losses", "interactive_points", "alignment_masks", "mutual_information_tokens"):
        assert outputs[name] == ()


def test_outputs_hold_the_layers_that_have_the_thing(monkeypatch):
    """One layer aligns, the others pool: of points and losses there is one."""

    def mixed(config):
        mixed.count += 1
        return ILA_TEMPORAL_MODULES["ila" if mixed.count == 2 else "scaled_pooling"](config)

    mixed.count = 0
    monkeypatch.setitem(ILA_TEMPORAL_MODULES, "mixed", mixed)
    model = make_model(ILAVisionModel, {"temporal_module": "mixed"})
    outputs = model(torch.randn(1, 4, 3, 32, 32), output_alignments=True)
    assert [points.shape for points in outputs.interactive_points] == [(1, 3, 2, 2)]
    assert outputs.alignment_losses == (outputs.alignment_loss,)


class Attention(nn.Module):
    """A layer of CLIP over the frames of each patch: of the names that transformers records."""

    def __init__(self, config):
        super().__init__()
        self.layer = CLIPEncoderLayer(config)

    def forward(self, patches, prefix, grid, with_loss):
        hidden_states = torch.cat([prefix, patches], dim=2)
        columns = hidden_states.transpose(1, 2).flatten(0, 1)  # (B·L, T, D)
        columns = self.layer(columns, None).unflatten(0, (len(hidden_states), -1))
        return ILATemporalOutput(residual=columns.transpose(1, 2))


def test_states_and_attentions_are_those_of_the_trunk(monkeypatch, clips):
    monkeypatch.setitem(ILA_TEMPORAL_MODULES, "attention", Attention)
    model = make_model(ILAVisionModel, {**VISION, "temporal_module": "attention"})
    model.set_attn_implementation("eager")
    outputs = model(clips, output_hidden_states=True, output_attentions=True)
    layers = model.config.num_hidden_layers
    assert [tuple(states.shape) for states in outputs.hidden_states] == [(2, 8, 5, 64)] * (layers + 1)
    assert [tuple(weights.shape[-2:]) for weights in outputs.attentions] == [(5, 5)] * layers


def test_it_starts_as_it_says(tmp_path):
    """Also where a checkpoint lacks its weights, and loaded ones stay."""
    model = ILAVisionModel(tiny_config(VISION).vision_config)
    layers = model.encoder.layers
    assert all((layer.temporal.scale == 0.5).all() for layer in layers)
    with torch.no_grad():
        layers[0].temporal.scale.fill_(3)
    state = {name: value for name, value in model.state_dict().items() if "layers.1.temporal" not in name}
    model.save_pretrained(tmp_path, state_dict=state)
    loaded = ILAVisionModel.from_pretrained(tmp_path).encoder.layers
    assert [layer.temporal.scale[0].item() for layer in loaded] == [3, 0.5, 0.5]


def test_it_trains_saves_loads_and_exports(clips, tmp_path):
    model = make_model(ILAForVideoTextClassification, VISION, training=True)
    groups = parameter_groups(model, 1e-3, 0.1, new_lr_factor=10)
    assert (
        sum(
            parameter is model.vision_model.encoder.layers[0].temporal.scale
            for group in groups
            if group["name"] == "new, no decay"
            for parameter in group["params"]
        )
        == 1
    )
    optimizer = torch.optim.AdamW(groups)
    before = model.vision_model.encoder.layers[0].temporal.scale.detach().clone()
    model(clips, labels=torch.tensor([0, 1])).loss.backward()
    optimizer.step()
    assert not torch.equal(model.vision_model.encoder.layers[0].temporal.scale, before)

    model.eval().save_pretrained(tmp_path / "model")
    loaded = ILAForVideoTextClassification.from_pretrained(tmp_path / "model")
    assert loaded.config.vision_config.temporal_module == "scaled_pooling"
    torch.testing.assert_close(loaded(clips).logits, model(clips).logits)

    card = card_from_run(loaded, tiny_processor(loaded.config), model_name="me/mine", recipe={})
    text = " ".join(card.text.split())
    assert "from other frames is up to the temporal module scaled\\_pooling: register it before you load" in text
    assert "mutual-information" not in text
    assert '"paper"' not in text

    export_onnx(loaded, tmp_path / "model.onnx")
    _, relative = largest_difference(onnx_runner(tmp_path / "model.onnx"), loaded, [clips])
    assert relative <= 1e-4


def test_pictures_say_that_there_are_no_points(video_file):
    model = make_model(ILAForVideoTextClassification, VISION)
    with pytest.raises(ValueError, match="No layer of the model has interactive points"):
        visualize_video(model, tiny_processor(model.config).video_processor, video_file)


def test_unknown_modules_are_named_with_those_that_exist():
    config = tiny_config({"temporal_module": "attention"})
    with pytest.raises(ValueError, match=r"must be one of 'aim', .*'ila', .*'scaled_pooling', .*, got 'attention'"):
        ILAVisionModel(config.vision_config)


def test_the_temporal_convolution_is_torchs():
    convolution = ILATemporalConv(4, 6, (3, 1, 1), padding=(1, 0, 0))
    maps = torch.randn(2, 4, 5, 3, 2)
    torch.testing.assert_close(convolution(maps), nn.Conv3d.forward(convolution, maps))
