# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Folding into the weights what is constant in inference: `model.fuse()`.

Folded are, in the trunk, BatchNorm into the convolution before it, the 1.702 of CLIP's activation into the two layers
of the MLP, and in the released architecture the two linear layers after the temporal convolution into one.
"""

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from .checks_ila import check_plain_weights


@torch.no_grad()
def fuse_norm(convolution: Any, norm: Any) -> Any:
    """A convolution that includes the BatchNorm after it, unless it already does.

    A dense kernel is stored as the maps are, channels last.
    """
    if isinstance(norm, nn.Identity):
        return convolution
    dtype = convolution.weight.dtype
    fused: Any = fuse_conv_bn_eval(convolution.float(), norm.float()).to(dtype)
    is_dense = fused.groups == 1 and fused.kernel_size != (1, 1)
    return fused.to(memory_format=torch.channels_last) if is_dense else fused


@torch.no_grad()
def fuse_linear(first: nn.Linear, second: nn.Linear) -> nn.Linear:
    """Two linear layers, one after the other, as one."""
    fused = nn.Linear(first.in_features, second.out_features, device="meta")
    # In float64, which not all devices have
    weight, bias, first_weight, first_bias = (
        each.cpu().double() for each in (second.weight, second.bias, first.weight, first.bias)
    )
    fused.weight = nn.Parameter((weight @ first_weight).to(first.weight))
    fused.bias = nn.Parameter((weight @ first_bias + bias).to(first.weight))
    return fused


class ILAFusionMixin:
    """Of a model: a form that is faster, and for inference only."""

    modules: Any
    requires_grad_: Any
    _is_fused = False

    def fuse(self) -> Any:
        """Fold BatchNorm and other constants of inference into the weights, in place, and switch to evaluation.

        Results differ by rounding, of weights, too, where these have half precision. A fused model runs, compiles and
        exports as before, but neither trains nor saves, and takes no other weights and no adapter: load it again for
        that, and merge an adapter first.

        Returns:
            The model itself.

        Raises:
            ValueError: For a model that is quantised or offloaded, or has an adapter.
        """
        check_plain_weights(self, "fused")
        self.train(False)
        # First: a model that is fused in part must not pass for a whole one. Where nothing is folded, nothing changes
        for tower in self.modules():
            if isinstance(tower, ILAFusionMixin):  # this model among them
                tower._is_fused = bool(tower._parts_to_fuse())
        for part in self._parts_to_fuse():
            part.fuse()
        self.requires_grad_(False)
        return self

    def _parts_to_fuse(self) -> list[Any]:
        return [part for part in self.modules() if hasattr(part, "fuse") and not isinstance(part, ILAFusionMixin)]

    def _has_fused_part(self) -> bool:
        """Whether it or one of its towers is fused."""
        return any(module._is_fused for module in self.modules() if isinstance(module, ILAFusionMixin))

    def train(self, mode: bool = True) -> Any:
        """As in every model; a fused one stays in evaluation.

        Raises:
            ValueError: For a fused model, if it is to train.
        """
        if mode:
            self._check_not_fused("be trained", "load the model that it was made of")
        parent: Any = super()
        return parent.train(mode)

    def _check_not_fused(self, purpose: str, advice: str) -> None:
        if self._has_fused_part():
            raise ValueError(f"A fused model cannot {purpose}: {advice}.")

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in every model.

        Raises:
            ValueError: For a fused model.
        """
        self._check_not_fused("be saved", "save the model that it was made of, and fuse it once loaded")
        parent: Any = super()
        parent.save_pretrained(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As in every model.

        Raises:
            ValueError: For a fused model, whose weights have others in them.
        """
        self._check_not_fused("load weights", "load the model that it was made of")
        parent: Any = super()
        return parent.load_state_dict(*args, **kwargs)
