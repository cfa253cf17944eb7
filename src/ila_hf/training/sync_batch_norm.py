# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""BatchNorm in several processes."""

from typing import Any, ClassVar, cast

import torch
from torch import distributed, nn


class _SumOverProcesses(torch.autograd.Function):
    """Gradients go through it. `torch.distributed.nn` has such a function, which is deprecated."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        total = values.clone()
        distributed.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _SumOverProcesses.forward(ctx, gradient, ctx.group), None


class SyncBatchNorm2d(nn.BatchNorm2d):
    """What torch's SyncBatchNorm, which refuses tensors on the CPU, does on a GPU: (B, C, h, w) -> (B, C, h, w).

    Mean and variance are those of the batches of all processes, and gradients go through them.
    """

    # Of its own: DDP reduces gradients at the same time, in an order that may differ between the processes
    group: ClassVar[Any] = None

    def _total(self, values: torch.Tensor) -> torch.Tensor:
        return cast("torch.Tensor", _SumOverProcesses.apply(values, self.group))

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        is_alone = not distributed.is_initialized() or distributed.get_world_size() == 1
        if not self.training or is_alone:
            return super().forward(input)
        values = input.float()
        count = self._total(values.new_full((1,), values[:, 0].numel()))
        mean = self._total(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = self._total(centred.square().sum((0, 2, 3))) / count
        momentum = cast("float", self.momentum)
        cast("torch.Tensor", self.num_batches_tracked).add_(1)
        cast("torch.Tensor", self.running_mean).lerp_(mean.detach(), momentum)
        cast("torch.Tensor", self.running_var).lerp_(variance.detach() * count / (count - 1), momentum)
        scale = self.weight * (variance + self.eps).rsqrt()
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(input.dtype)


def synchronize_batch_norm(model: nn.Module, device_type: str) -> nn.Module:
    """Let every BatchNorm of a model see the batches of all processes; names of weights stay.

    Args:
        model: Changed in place.
        device_type: Where it trains: on "cpu" the class above is used, elsewhere torch's.
    """
    if device_type != "cpu":
        return cast("nn.Module", nn.SyncBatchNorm.convert_sync_batchnorm(model))
    if distributed.is_initialized() and SyncBatchNorm2d.group is None:
        SyncBatchNorm2d.group = distributed.new_group()
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm2d
    return model


@torch.no_grad()
def share_statistics(model: nn.Module) -> None:
    """Give all processes the BatchNorm statistics of the first, whose are saved: each has seen other batches."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            for buffer in module.buffers():
                distributed.broadcast(buffer, src=0)
