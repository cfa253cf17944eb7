"""What FSDP2 needs of a model; that it trains, saves and resumes is in test_distributed.py."""

import pytest
import torch
from peft import get_peft_model
from torch import nn

from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification, ILAModel
from ila_hf.outputs_ila import ILATemporalOutput
from ila_hf.temporal_ila import ILA_TEMPORAL_MODULES
from ila_hf.training.fsdp import flatten_scalars, unit_names, with_scalars
from ila_hf.training.lora import lora_config


@torch.no_grad()
def test_flat_scalars_are_saved_as_clip_has_them(tiny_model, clips, tmp_path):
    model = tiny_model()
    expected = model(clips).logits
    model.logit_scale.requires_grad_(False)
    assert flatten_scalars(model) == ["logit_scale"]
    assert model.logit_scale.shape == (1,)
    assert not model.logit_scale.requires_grad
    assert isinstance(model.logit_scale, torch.nn.Parameter)
    assert all(parameter.ndim > 0 for parameter in model.parameters())
    torch.testing.assert_close(model(clips).logits, expected)
    model.save_pretrained(tmp_path, state_dict=with_scalars(model.state_dict(), ["logit_scale"]))
    loaded, info = ILAForVideoTextClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert loaded.logit_scale.shape == ()
    assert torch.equal(loaded.logit_scale, model.logit_scale[0])
    torch.testing.assert_close(loaded.eval()(clips).logits, expected)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("architecture", ["paper", "released"])
def test_a_model_with_an_adapter_has_the_units_and_scalars_of_the_model(tiny_model, architecture):
    base = tiny_model(vision={"architecture": architecture})
    units = unit_names(base)
    model = get_peft_model(base, lora_config(base, rank=2))
    assert unit_names(model) == units
    assert flatten_scalars(model) == ["logit_scale"]
    assert base.logit_scale.shape == (1,)


def test_models_without_scalars_stay(tiny_model):
    model = tiny_model(ILAForVideoClassification)
    before = dict(model.named_parameters())
    assert flatten_scalars(model) == []
    assert all(parameter is before[name] for name, parameter in model.named_parameters())
    assert with_scalars(model.state_dict(), ["logit_scale"]).keys() == model.state_dict().keys()


class Nothing(nn.Module):
    """A temporal module that is none of ILA's own."""

    def __init__(self, config):
        super().__init__()

    def forward(self, patches, prefix, grid, with_loss):
        return ILATemporalOutput()


@pytest.mark.parametrize(
    ("vision", "temporal"),
    [
        ({}, ["ILAMutualInformation"]),
        ({"architecture": "released"}, ["ILAAlignedResidual"]),
        ({"temporal_module": "nothing"}, ["Nothing"]),
        ({"alignment_layers": []}, []),
        ({"temporal_module": "none"}, []),
        ({"temporal_module": "message_token"}, ["ILAMessageToken"]),
        ({"temporal_module": "divided"}, ["ILADividedAttention"]),
        ({"temporal_module": "aim"}, []),
        ({"temporal_module": "st_adapter"}, []),
        ({"temporal_module": "joint"}, []),
    ],
)
def test_units(tiny_model, monkeypatch, vision, temporal):
    monkeypatch.setitem(ILA_TEMPORAL_MODULES, "nothing", Nothing)
    assert unit_names(tiny_model(ILAModel, vision=vision)) == sorted(
        ["CLIPEncoderLayer", "ILAEncoderLayer", *temporal]
    )
