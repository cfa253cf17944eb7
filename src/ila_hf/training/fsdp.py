# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""FSDP2: which modules are its units, and parameters that it cannot split."""

import torch
from torch import nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.trainer_utils import unwrap_peft_model

from ..evl_decoder_ila import ILAEVLDecoderLayer


def unit_names(model: nn.Module) -> list[str]:
    """Names of the classes that FSDP gathers one at a time: layers, and temporal modules, called outside of theirs.

    Embeddings are none: accelerate, which makes one of the tokens' embedding, fails where it is inside of another.
    """
    layers = [module for module in model.modules() if isinstance(module, CLIPEncoderLayer | ILAEVLDecoderLayer)]
    temporal = [getattr(layer, "temporal", None) for layer in layers]
    temporal = [getattr(module, "original_module", module) for module in temporal]  # peft wraps what trains in full
    # What works within the layer is gathered with it: its own `forward` is over by then
    units = [module for module in temporal if module is not None and not hasattr(module, "run_layer")]
    return sorted({type(module).__name__ for module in (*layers, *units)})


def flatten_scalars(model: nn.Module) -> list[str]:
    """Give the parameters of the model itself that have no dimension, CLIP's logit scale, one; returns their names.

    FSDP2 cannot split them otherwise.
    """
    model = unwrap_peft_model(model)
    names = [name for name, parameter in model.named_parameters(recurse=False) if parameter.ndim == 0]
    for name in names:
        scalar = getattr(model, name)
        setattr(model, name, nn.Parameter(scalar.detach().reshape(1), requires_grad=scalar.requires_grad))
    return names


def with_scalars(state_dict: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """The weights as they are loaded, after `flatten_scalars`, which returned the names."""
    return {**state_dict, **{name: state_dict[name].reshape(()) for name in names if name in state_dict}}
