# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the training recipes (Table 14) ask of the optimizer and of a batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision import tv_tensors
from torchvision.transforms import v2

from ..modeling_ila import ILAPreTrainedModel
from ..sampling import seeded
from .checkpoints import CheckpointError


def parameter_groups(
    model: ILAPreTrainedModel, learning_rate: float, weight_decay: float, new_lr_factor: float = 1.0
) -> list[dict[str, Any]]:
    """The parameters that train, in up to four groups: from CLIP or new, with or without weight decay.

    Biases, the weights of norms and other parameters of at most one dimension do not decay, nor do positions.

    Args:
        model: Frozen parameters are in no group.
        learning_rate: Of CLIP's weights.
        weight_decay: Of the parameters that decay.
        new_lr_factor: How many times `learning_rate` the others get; the paper's Kinetics-400 recipe has 10.

    Returns:
        Groups as torch's optimizers take them, with their `name`.

    Raises:
        ValueError: If no parameter trains.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        origin = "new" if model.parameter_origin(name) is None else "clip"
        decays = parameter.ndim > 1 and not any(word in name for word in ("position_embedding", "time_positions"))
        group_name = f"{origin}, {'decay' if decays else 'no decay'}"
        group = {
            "name": group_name,
            "params": [],
            "lr": learning_rate * (new_lr_factor if origin == "new" else 1.0),
            "weight_decay": weight_decay if decays else 0.0,
        }
        groups.setdefault(group_name, group)["params"].append(parameter)
    if not groups:
        raise ValueError("There is nothing to train: all parameters are frozen.")
    return [groups[name] for name in sorted(groups)]


class ClipMixer:
    """Mixup and cutmix of the clips of a batch, and label smoothing: targets become soft.

    A batch is mixed with itself, moved on by one. What is drawn depends on the seed and on the numbers that a call
    gives, such as step and process: a resumed run draws what it would have drawn.

    Args:
        num_classes: K.
        mixup_alpha: Of the Beta distribution of mixup (arXiv 1710.09412); 0 for none.
        cutmix_alpha: Of the Beta distribution of cutmix (arXiv 1905.04899); 0 for none.
        switch_probability: Of cutmix, where both are on.
        label_smoothing: ε: a target is 1 - ε + ε/K for its class and ε/K for the others.
        seed: Of the random draws.

    Raises:
        ValueError: For negative α, and for what is no probability.
    """

    def __init__(
        self,
        num_classes: int,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        switch_probability: float = 0.5,
        label_smoothing: float = 0.0,
        seed: int = 0,
    ):
        for name, alpha in (("mixup_alpha", mixup_alpha), ("cutmix_alpha", cutmix_alpha)):
            if alpha < 0:
                raise ValueError(f"`{name}` must be zero (off) or positive, got {alpha!r}.")
        for name, share in (("switch_probability", switch_probability), ("label_smoothing", label_smoothing)):
            if not 0 <= share <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {share!r}.")
        self.num_classes, self.label_smoothing, self.seed = num_classes, label_smoothing, seed
        mixes = [
            (v2.MixUp(alpha=mixup_alpha), 1 - switch_probability) if mixup_alpha else None,
            (v2.CutMix(alpha=cutmix_alpha), switch_probability) if cutmix_alpha else None,
        ]
        chosen = [mix for mix in mixes if mix is not None]
        self.mix = v2.RandomChoice([m for m, _ in chosen], p=[p for _, p in chosen]) if len(chosen) == 2 else None
        if len(chosen) == 1:
            self.mix = chosen[0][0]

    def __call__(self, batch: dict[str, torch.Tensor], *numbers: int) -> dict[str, torch.Tensor]:
        """Mix `pixel_values` (B, T, 3, H, W) and make `labels` (B,) or (B, K) soft, (B, K).

        Args:
            batch: Clips and labels, on any device.
            numbers: What the draws depend on beside the seed: not negative.
        """
        if self.mix is None and self.label_smoothing == 0:
            return batch
        labels = batch["labels"]
        if labels.ndim == 1:
            labels = nn.functional.one_hot(labels, self.num_classes)
        targets = labels.float() * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        clips = batch["pixel_values"]
        if self.mix is not None:
            with seeded(self.seed, *numbers):
                mixed, targets = self.mix(tv_tensors.Video(clips), targets)
                clips = mixed.as_subclass(torch.Tensor)
        return {**batch, "pixel_values": clips, "labels": targets}


class WeightAverage:
    """The exponential moving average of a model's weights, an option beyond the paper's recipe.

    Args:
        model: Whose weights are averaged.
        decay: Share of the average that a step keeps, such as 0.9999.

    Raises:
        ValueError: If the decay is not in (0, 1).
    """

    FILE = "weight_average.pt"

    def __init__(self, model: nn.Module, decay: float):
        if not 0 < decay < 1:
            raise ValueError(f"`ema_decay` must be between 0 and 1, got {decay!r}.")
        self.decay = decay
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    def update(self, model: nn.Module) -> None:
        """Take an optimizer step into account; buffers are those of the model."""
        self.average.update_parameters(model)

    def save(self, folder: str | Path) -> None:
        """Write the average into a checkpoint."""
        torch.save(self.average.state_dict(), Path(folder) / self.FILE)

    def load(self, folder: str | Path) -> None:
        """Read the average from a checkpoint.

        Raises:
            CheckpointError: If there is none.
        """
        file = Path(folder) / self.FILE
        if not file.is_file():
            raise CheckpointError(f"{str(folder)!r} holds no average of the weights: it was made without --ema_decay.")
        self.average.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """The model has the averaged weights inside the block."""
        own = [parameter.detach().clone() for parameter in model.parameters()]
        averages = [parameter.detach() for parameter in self.average.module.parameters()]
        try:
            _copy(averages, model)
            yield
        finally:
            _copy(own, model)


@torch.no_grad()
def _copy(values: list[torch.Tensor], model: nn.Module) -> None:
    for parameter, value in zip(model.parameters(), values, strict=True):
        parameter.copy_(value)
