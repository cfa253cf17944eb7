# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a layer learns from other frames: the contract of temporal modules, ILA's own two, and the table of all.

A temporal module is an `nn.Module` that takes an [`ILAVisionConfig`] and has

    forward(patches, prefix, grid, with_loss) -> ILATemporalOutput

for the patches of all frames, (B, T, N, D), the tokens before them, (B, T, P, D), here the class token; the patch grid
(h, w), and whether anybody wants more than the layer does. The output holds what the layer adds to its input, or the
tokens that its attention also sees, and on request whatever else the module has: a loss, diagnostics. All of it is
optional. If the module has weights that must not start as transformers starts linear layers and norms, it sets them in

    init_weights()
    init_from(layer)

with the functions of `transformers.initialization`, which leave loaded weights alone; the second, for what starts as a
copy of the layer's own, comes when these are there. What is constant in inference it may fold into its weights in

    fuse()

A module that changes the layer itself, not only its input, runs it, in

    run_layer(layer, hidden_states, kwargs of the attention) -> hidden_states

where (B, T, L, D) have the residual added, and `layer` is an [`ILAEncoderLayer`], which can `split` them into prefix
and patches. The kwargs are for the layer's attention, whose queries and keys EVL's decoder reads. One that must tell
the frames apart has a position of each of `options.num_frames` frames added before the first layer, to the patches or
to all tokens:

    time_positions = "patches" or "all"

A module in which no frame depends on later ones may say so, and then takes part in streaming ([`ILACache`]):

    is_causal = True
    forward(patches, prefix, grid, with_loss, previous=None) -> ILATemporalOutput

where `previous` (B, 1, P + N, D) holds the tokens of the frame before the first, and in a new stream the first itself.

Fields of `temporal_options` of the configuration are those of the dataclass `options_class` of the module, if it has
any. Modules of other systems are in temporal_baselines_ila.py. One of your own needs no change here:

```python
ILA_TEMPORAL_MODULES["mine"] = MyModule
config = ILAConfig.from_preset("ila-base-patch16", vision_config={"temporal_module": "mine"})
```

Its code does not travel with saved models: register it before loading one.

Notation as in modeling_ila.py; M pairs of neighbouring frames as in alignment_ila.py.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from transformers import initialization as init

from .alignment_ila import ILAAlignment, ILAPairs, ILATemporalConv, pool_patches, reset_convolutions
from .checks_ila import check_grid, check_pairs
from .configuration_ila import ILAVisionConfig
from .fusion_ila import fuse_linear
from .outputs_ila import ILATemporalOutput
from .temporal_baselines_ila import (
    ILAAIMAdapters,
    ILAATAAttention,
    ILAAveragePooling,
    ILABaselineModule,
    ILADividedAttention,
    ILAJointAttention,
    ILAMessageToken,
    ILASTAdapter,
    ILATemporalShift,
)


class ILAAligningModule(nn.Module):
    """What ILA's own temporal modules share: the alignment of neighbouring frames, its loss and its diagnostics."""

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        self.alignment = ILAAlignment(config)
        self.pair_with_itself = config.first_frame == "self"
        self.reference_frame = config.reference_frame
        self.loss_type = config.alignment_loss_type
        self.patch_size = config.patch_size

    def train(self, mode: bool = True) -> "ILAAligningModule":
        """Switch the mode; a frozen module stays in evaluation: no jitter, and BatchNorm keeps its statistics."""
        return super().train(mode and any(parameter.requires_grad for parameter in self.parameters()))

    def align(self, patches: torch.Tensor, grid: tuple[int, int], previous: torch.Tensor | None = None) -> ILAPairs:
        """Align the maps of neighbouring frames: patches (B, T, N, D), and (B, 1, P + N, D) before -> [`ILAPairs`]."""
        check_grid(grid, self.patch_size)
        maps = patches.unflatten(2, grid)  # (B, T, N, D) -> (B, T, h, w, D)
        if previous is not None:
            return self.alignment(maps, before=previous[:, :, -patches.shape[2] :].unflatten(2, grid))
        batch, num_frames = maps.shape[:2]
        pair_with_itself = self.pair_with_itself or num_frames == 1  # a clip of one frame has no neighbours
        reference = {"previous": None, "first": 0, "middle": num_frames // 2}[self.reference_frame]
        if self.training and self.alignment.prediction.pool_first:
            has_all = pair_with_itself or reference is not None
            check_pairs(batch * (num_frames if has_all else num_frames - 1), grid)
        return self.alignment(maps, pair_with_itself, reference=reference)

    def alignment_outputs(self, pairs: ILAPairs, masks: torch.Tensor, pooled: torch.Tensor) -> dict[str, torch.Tensor]:
        """Loss and diagnostics of the T - 1 pairs.

        Eq. 9's indices could also mean the tokens of neighbouring frames, each from its own pair; the released code
        compares the two pooled features of one pair, and so does this.
        """
        pooled = pairs.neighbours(pooled)  # (B, T-1, 2, D)
        similarity = nn.functional.cosine_similarity(pooled[:, :, 0].float(), pooled[:, :, 1].float(), dim=-1)
        if self.loss_type == "negative_cosine":
            loss = -similarity.sum(1).mean()
        else:  # a clip of one frame has no pair and no loss
            loss = (1 - similarity).sum() / max(similarity.numel(), 1)
        return {
            "loss": loss,
            "interactive_points": pairs.neighbours(pairs.points),
            "alignment_masks": pairs.neighbours(masks),
            "mutual_information_tokens": pooled,
        }


class ILAMutualInformation(ILAAligningModule):
    """Paper architecture: one mutual-information token per frame (Eq. 3a), and on request our interaction token.

    The token of frame t is its own aligned feature in the pair (t-1, t). The paper defines no pair for the first
    frame: it takes its feature as the previous frame of the first pair, or is paired with itself (`first_frame`).

    The interaction token is our extension, not the paper's: the interaction channels of the same pair, max-pooled over
    the patches and projected to D. It keeps what the convolution extracted from the pair.
    """

    def __init__(self, config: ILAVisionConfig):
        super().__init__(config)
        use_token = config.interaction_token
        self.interaction_fc = nn.Linear(config.alignment_hidden_size, config.hidden_size) if use_token else None
        self.join = config.alignment_join

    @property
    def is_causal(self) -> bool:
        """Whether no frame depends on later ones, and on earlier ones only through the one before."""
        return self.pair_with_itself and self.reference_frame == "previous"

    def own_masks(self, pairs: ILAPairs, grid: tuple[int, int]) -> torch.Tensor:
        """The mask of every frame in its own pair: (B, T, h, w)."""
        return self.alignment.mask(pairs.own(pairs.points), *grid)

    def forward(
        self,
        patches: torch.Tensor,
        prefix: torch.Tensor,
        grid: tuple[int, int],
        with_loss: bool = True,
        previous: torch.Tensor | None = None,
    ) -> ILATemporalOutput:
        pairs = self.align(patches, grid, previous)
        outputs, tokens = {}, []
        if with_loss:
            masks = self.alignment.mask(pairs.points, *grid)
            pooled = pairs.pool(patches, masks, mean=True)  # (B, M, 2, D)
            outputs = self.alignment_outputs(pairs, masks, pooled)
        # CODEPATH: "token" in the published models, the others in rows of Table 9
        if self.join == "token" and with_loss:
            tokens.append(pairs.own(pooled)[:, :, None])
        elif self.join == "token":
            tokens.append(pool_patches(patches, self.own_masks(pairs, grid)[:, :, None], mean=True))
        else:
            aligned = patches * self.own_masks(pairs, grid).flatten(2)[..., None].to(patches.dtype)  # (B, T, N, D)
            if self.join == "concatenate":
                tokens.append(aligned)
            else:
                outputs["residual"] = torch.cat([torch.zeros_like(prefix), aligned], dim=2)
        if self.interaction_fc is not None:
            interaction = self.interaction_fc(pairs.interaction.amax((3, 4)))  # (B, M, C, h, w) -> (B, M, D)
            if not pairs.has_all_frames:
                interaction = torch.cat([interaction[:, :1], interaction], dim=1)
            tokens.append(interaction[:, :, None])
        return ILATemporalOutput(tokens=torch.cat(tokens, dim=2) if tokens else None, **outputs)  # (B, T, A, D)


class ILAAlignedResidual(ILAAligningModule):
    """Released architecture: the layer's input plus projections of the aligned frame and of the interaction.

    Original: `message_fc`, `message_ln`, `message_attn.{conv, fc}`, `temporal_skip_align_fc`, `temporal_skip_fc`. The
    last two start at zero, so that a new model starts as plain CLIP. Here the pooled features are sums.
    """

    def __init__(self, config: ILAVisionConfig):
        super().__init__(config)
        width, channels = config.hidden_size, config.alignment_hidden_size // 2
        self.input_fc = nn.Linear(width, width)
        self.input_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.temporal_conv = ILATemporalConv(channels, channels, (3, 1, 1), padding=(1, 0, 0))
        self.interaction_fc = nn.Linear(channels, width)
        self.aligned_out = nn.Linear(width, width)
        self.interaction_out = nn.Linear(width, width)
        self.interaction_fused: nn.Linear | None = None

    def init_weights(self) -> None:
        """Convolutions as those of the alignment; the two projections at the end start at zero."""
        reset_convolutions(self)
        self.alignment.prediction.start_in_the_centre()
        for linear in (self.aligned_out, self.interaction_out):
            init.zeros_(linear.weight)
            init.zeros_(linear.bias)

    def fuse(self) -> None:
        """See `fuse` of the models. The temporal convolution stays: in one map with it, FLOPs would be doubled."""
        if self.interaction_fused is None:
            self.interaction_fused = fuse_linear(self.interaction_fc, self.interaction_out)
            del self.interaction_fc

    def project_interaction(self, interaction: torch.Tensor) -> torch.Tensor:
        """What the interaction adds to the patches: (B, T, N, C/2) -> (B, T, N, D)."""
        if self.interaction_fused is not None:
            return self.interaction_fused(interaction)
        return self.interaction_out(self.interaction_fc(interaction))

    @staticmethod
    def per_frame(pairs: ILAPairs, previous: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        """Mean of what a frame is as previous and as current frame of its pairs: twice (B, M, ...) -> (B, T, ...)."""
        if pairs.itself is not None:
            return (previous + current) / 2
        # The first and the last frame, in one pair each, count twice; every part exists for every T.
        as_previous = torch.cat([previous, current[:, -1:]], dim=1)
        as_current = torch.cat([previous[:, :1], current], dim=1)
        return (as_previous + as_current) / 2

    def forward(
        self, patches: torch.Tensor, prefix: torch.Tensor, grid: tuple[int, int], with_loss: bool = True
    ) -> ILATemporalOutput:
        inputs = self.input_norm(self.input_fc(torch.cat([prefix, patches], dim=2)))
        class_tokens, patches = inputs.split([prefix.shape[2], patches.shape[2]], dim=2)
        pairs = self.align(patches, grid)

        # Both aligned maps of a frame are masks of the same map, so the masks are averaged, not the maps.
        masks = self.alignment.mask(pairs.points, *grid)  # (B, M, 2, h, w)
        per_frame = self.per_frame(pairs, masks[:, :, 0], masks[:, :, 1]).flatten(2)  # (B, T, N)
        aligned = torch.cat([class_tokens, patches * per_frame[..., None].to(patches.dtype)], dim=2)

        interaction = self.per_frame(pairs, *pairs.interaction.chunk(2, dim=2))  # (B, T, C/2, h, w)
        interaction = self.temporal_conv(interaction.transpose(1, 2)).flatten(3)  # (B, C/2, T, N)
        interaction = self.project_interaction(interaction.permute(0, 2, 3, 1))  # (B, T, N, D)
        interaction = torch.cat([self.interaction_out(class_tokens), interaction], dim=2)
        residual = self.aligned_out(aligned) + interaction  # (B, T, L, D)
        outputs = {}
        if with_loss:
            outputs = self.alignment_outputs(pairs, masks, pairs.pool(patches, masks, mean=False))
        return ILATemporalOutput(residual=residual, **outputs)


def _ila(config: ILAVisionConfig) -> nn.Module:
    # CODEPATH: "released" in the models converted from the original repository, "paper" in all others
    return (ILAMutualInformation if config.architecture == "paper" else ILAAlignedResidual)(config)


def _none(config: ILAVisionConfig) -> None:
    """CLIP's layer as it is."""


#: Values of `ILAVisionConfig.temporal_module`, and the classes, or functions, that make the module of a layer.
ILA_TEMPORAL_MODULES: dict[str, Callable[[ILAVisionConfig], nn.Module | None]] = {
    "ila": _ila,
    "none": _none,
    "average_pooling": ILAAveragePooling,
    "message_token": ILAMessageToken,
    "divided": ILADividedAttention,
    "joint": ILAJointAttention,
    "shift": ILATemporalShift,
    "ata": ILAATAAttention,
    "st_adapter": ILASTAdapter,
    "aim": ILAAIMAdapters,
}


#: Fields of the configuration that say what ILA's own modules are, and what they are where it has others. Constants of
#: masks and loss, sizes, and `alignment_conv`, which the presets of Something-Something v2 set, may be as they are
ILA_ONLY_FIELDS = {
    "architecture": "paper",
    "first_frame": "next",
    "reference_frame": "previous",
    "alignment_operator": "convolution",
    "alignment_join": "token",
    "interaction_token": False,
}


class ILATimePositions(nn.Module):
    """A learned position of every frame, which starts at zero; for another number of frames, the nearest."""

    def __init__(self, config: ILAVisionConfig, num_frames: int, of_patches: bool):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_frames, config.hidden_size))
        self.of_patches = of_patches

    def init_weights(self) -> None:
        init.zeros_(self.weight)

    def forward(self, prefix: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """Add them: (B, T, P, D), (B, T, N, D) -> (B, T, P + N, D)."""
        num_frames = patches.shape[1]
        positions = nn.functional.interpolate(self.weight.t()[None], size=num_frames)[0].t()[:, None]  # (T, 1, D)
        return torch.cat([prefix if self.of_patches else prefix + positions, patches + positions], dim=2)


def make_time_positions(config: ILAVisionConfig, modules: Iterable[Any]) -> ILATimePositions | None:
    """Those that the temporal modules of a trunk ask for, if any."""
    for module in modules:
        kind = getattr(module, "time_positions", None)
        if kind is not None:
            return ILATimePositions(config, module.options.num_frames, of_patches=kind == "patches")
    return None


def check_ila_only_fields(config: ILAVisionConfig) -> None:
    """Refuse fields that mean nothing to modules of other systems; one of your own may read them."""
    factory = ILA_TEMPORAL_MODULES.get(config.temporal_module)
    if factory is not _none and not (isinstance(factory, type) and issubclass(factory, ILABaselineModule)):
        return
    for name, default in ILA_ONLY_FIELDS.items():
        if getattr(config, name) != default:
            raise ValueError(
                f"`{name}` must be {default!r} with temporal_module={config.temporal_module!r}, to which it means "
                f'nothing, got {getattr(config, name)!r}: it is of temporal_module="ila".'
            )


def make_temporal_module(config: ILAVisionConfig, layer_index: int) -> nn.Module | None:
    """The temporal module of a layer; None for one that has none (`alignment_layers`).

    Raises:
        ValueError: If the table has no such module, and for options and fields that mean nothing to it.
    """
    # CODEPATH: all layers align in the published models; in the rows of Table 7 three do, in plain CLIP none
    if config.alignment_layers is not None and layer_index not in config.alignment_layers:
        return None
    if config.temporal_module not in ILA_TEMPORAL_MODULES:
        known = ", ".join(map(repr, sorted(ILA_TEMPORAL_MODULES)))
        raise ValueError(
            f"`temporal_module` must be one of {known}, got {config.temporal_module!r}. Register a module of your own "
            f"first: ila_hf.temporal_ila.ILA_TEMPORAL_MODULES[{config.temporal_module!r}] = YourClass."
        )
    check_ila_only_fields(config)
    factory = ILA_TEMPORAL_MODULES[config.temporal_module]
    if config.temporal_options and getattr(factory, "options_class", None) is None:
        raise ValueError(
            f"`temporal_options` must be empty with temporal_module={config.temporal_module!r}, which has none, got "
            f"{config.temporal_options!r}."
        )
    return factory(config)
