# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Folding into the weights what is constant in inference: `model.fuse()`.

Folded are, in the trunk, BatchNorm into the convolution before it, the 1.702 of CLIP's activation into the two layers
of the MLP, and in the released architecture the two linear layers after the temporal convolution into one.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


@torch.no_grad()
def fuse_norm(convolution: Any, norm: Any) -> Any:
    """A convolution that includes the BatchNorm after it. A dense kernel is stored as the maps are, channels last."""
    dtype = convolution.weight.dtype
    fused: Any = fuse_conv_bn_eval(convolution.float(), norm.float()).to(dtype)
    is_dense = fused.groups == 1 and fused.kernel_size != (1, 1)
    return fused.to(memory_format=torch.channels_last) if is_dense else fused


@torch.no_grad()
def fuse_linear(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Two linear layers, one after the other, as one."""
    fused = nn.Linear(first.in_features, second.out_features, device="meta")
    weight, bias = second.weight.double(), second.bias.double()
    fused.weight = nn.Parameter((weight @ first.weight.double()).to(first.weight.dtype))
    fused.bias = nn.Parameter((weight @ first.bias.double() + bias).to(first.weight.dtype))
    return fused


class ILAFusionMixin:
    """Of a model: a form that is faster, and for inference only."""

    modules: Any
    named_parameters: Any

    def fuse(self) -> Any:
        """Fold BatchNorm and other constants of inference into the weights, in place, and switch to evaluation.

        Results differ by rounding, of weights, too, where these have half precision. A fused model runs, compiles and
        exports as before, but neither trains nor saves: load it again for that.

        Returns:
            The model itself.

        Raises:
            ValueError: For a model that is quantised or offloaded, or has an adapter.
        """
        if getattr(self, "hf_quantizer", None) is not None:
            raise ValueError("A quantised model cannot be fused: fuse it before it is quantised.")
        offloaded = [name for name, parameter in self.named_parameters() if parameter.is_meta]
        if offloaded:
            raise ValueError(f"{offloaded[0]!r} is offloaded: load the model without `device_map` to fuse it.")
        adapters = [type(module).__name__ for module in self.modules() if hasattr(module, "merge_adapter")]
        adapters += [type(module).__name__ for module in self.modules() if hasattr(module, "get_base_layer")]
        if adapters:
            raise ValueError(f"A model with an adapter ({adapters[0]}) cannot be fused: merge the adapter first.")
        self.train(False)
        for module in list(self.modules()):
            if hasattr(module, "fuse") and not isinstance(module, ILAFusionMixin) and not hasattr(module, "is_fused"):
                module.fuse()
                module.is_fused = True
        for _, parameter in self.named_parameters():
            parameter.requires_grad_(False)
        return self

    def _is_fused(self) -> bool:
        """Also where only a tower is."""
        return any(hasattr(module, "is_fused") for module in self.modules())

    def train(self, mode: bool = True) -> Any:
        """As in every model; a fused one stays in evaluation.

        Raises:
            ValueError: For a fused model, if it is to train.
        """
        if mode and self._is_fused():
            raise ValueError("A fused model cannot be trained: load the model that it was made of.")
        parent: Any = super()
        return parent.train(mode)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in every model.

        Raises:
            ValueError: For a fused model.
        """
        if self._is_fused():
            raise ValueError(
                "A fused model cannot be saved: save the model that it was made of, and fuse it once loaded."
            )
        parent: Any = super()
        parent.save_pretrained(*args, **kwargs)
