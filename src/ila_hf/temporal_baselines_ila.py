# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Temporal modules of other systems, which the paper compares with ILA's (Tables 1 to 4 and 15).

Each is written from the equations of its paper, for CLIP's layers with a class token of every frame, and fulfils the
contract in temporal_ila.py. It is what their layers learn from other frames: not their heads, and without stochastic
depth. Where the original starts as CLIP, a new model on a CLIP checkpoint is that CLIP: divided, ata, st_adapter and
aim. Options are the fields of the module's `options_class`, given as `temporal_options` of the configuration.

Notation as in modeling_ila.py.
"""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import initialization as init
from transformers.models.clip.modeling_clip import CLIPAttention

from .alignment_ila import ILATemporalConv
from .checks_ila import read_options
from .configuration_ila import ILAVisionConfig
from .outputs_ila import ILATemporalOutput


try:  # models load without it: transformers refuses remote code with other imports that are missing
    from scipy.optimize import linear_sum_assignment
except ImportError:
    linear_sum_assignment = None


#: What the modules are, by their names in `temporal_module`
SYSTEMS = {
    "average_pooling": "the mean of a frame's patches as a token: ILA's own without a mask (Table 4)",
    "message_token": "the cross-frame attention of X-CLIP",
    "divided": "the divided space-time attention of TimeSformer",
    "joint": "the joint space-time attention of TimeSformer",
    "shift": "the temporal shift of ActionCLIP and TSM",
    "ata": "Alignment-guided Temporal Attention",
    "st_adapter": "ST-Adapter",
    "aim": "AIM",
}


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1, got {value}.")


# trf-ignore: TRF031 - options of a configuration, no output
@strict
@dataclass
class ILATimeOptions:
    """Options of modules that tell the frames apart.

    Args:
        num_frames: T, the length of the temporal positions; for another, the nearest are taken.
    """

    num_frames: int = 8

    def validate_size(self) -> None:
        """Part of the `@strict` validation."""
        _require_positive("num_frames", self.num_frames)


# trf-ignore: TRF031 - options of a configuration, no output
@strict
@dataclass
class ILAShiftOptions:
    """Options of [`ILATemporalShift`].

    Args:
        shift_position: Where channels are shifted: of the patches in the layer's input, or of the keys and values of
            all tokens in its attention.
        shift_div: One of so many channels comes from the next frame, and as many from the one before.
    """

    shift_position: Literal["input", "key_value"] = "input"
    shift_div: int = 8

    def validate_size(self) -> None:
        """Part of the `@strict` validation."""
        if self.shift_div < 2:
            raise ValueError(f"`shift_div` must be at least 2, got {self.shift_div}.")


# trf-ignore: TRF031 - options of a configuration, no output
@strict
@dataclass
class ILASTAdapterOptions:
    """Options of [`ILASTAdapter`].

    Args:
        adapter_hidden_size: Width of the bottleneck.
        before_attention: A second adapter before the attention, as for Something-Something v2.
    """

    adapter_hidden_size: int = 384
    before_attention: bool = False

    def validate_size(self) -> None:
        """Part of the `@strict` validation."""
        _require_positive("adapter_hidden_size", self.adapter_hidden_size)


# trf-ignore: TRF031 - options of a configuration, no output
@strict
@dataclass
class ILAAIMOptions(ILATimeOptions):
    """Options of [`ILAAIMAdapters`].

    Args:
        num_frames: T, the length of the temporal positions.
        reduction_factor: The width of the layer over that of the bottlenecks.
        before_temporal_attention: A second temporal adapter, as for Something-Something v2.
        joint_scale: Weight of the adapter beside the MLP: 0.5 for Kinetics-400, 1 for Something-Something v2.
    """

    reduction_factor: int = 4
    before_temporal_attention: bool = False
    joint_scale: float | int = 0.5

    def validate_adapters(self) -> None:
        """Part of the `@strict` validation."""
        _require_positive("reduction_factor", self.reduction_factor)


def _require_part(name: str, value: int, width: int) -> None:
    if value > width:
        raise ValueError(f"`{name}` must be at most `hidden_size`, {width}, or nothing would be left, got {value}.")


class ILABaselineModule(nn.Module):
    """What the modules of other systems share: their options, and that they add nothing beside `run_layer`."""

    options_class: Any = None

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        self.options: Any = None
        if self.options_class is not None:
            self.options = read_options(self.options_class, config.temporal_options, "temporal_options")

    def forward(
        self, patches: torch.Tensor, prefix: torch.Tensor, grid: tuple[int, int], with_loss: bool = True
    ) -> ILATemporalOutput:
        return ILATemporalOutput()


class ILAAveragePooling(ILABaselineModule):
    """A token of every frame, the mean of its patches: Eq. 3a without a mask. Frames learn nothing of each other."""

    is_causal = True

    def forward(
        self,
        patches: torch.Tensor,
        prefix: torch.Tensor,
        grid: tuple[int, int],
        with_loss: bool = True,
        previous: torch.Tensor | None = None,
    ) -> ILATemporalOutput:
        return ILATemporalOutput(tokens=patches.mean(2, keepdim=True))


class ILAMessageToken(ILABaselineModule):
    """X-CLIP's cross-frame attention: a message of every frame, m = W z_cls + b, exchanged over the frames.

    m + MHA(LN m) joins the self-attention of its frame.
    """

    def __init__(self, config: ILAVisionConfig):
        super().__init__(config)
        width = config.hidden_size
        self.fc = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.attention = CLIPAttention(config)

    def init_weights(self) -> None:
        """All as torch's linear layer and multi-head attention have it, as in the original."""
        self.fc.reset_parameters()
        width = self.fc.in_features
        for projection in (self.attention.q_proj, self.attention.k_proj, self.attention.v_proj):
            bound = (6 / (width + 3 * width)) ** 0.5  # Xavier's, of the three as one matrix
            init.uniform_(projection.weight, -bound, bound)
            init.zeros_(projection.bias)
        self.attention.out_proj.reset_parameters()
        init.zeros_(self.attention.out_proj.bias)

    def forward(
        self, patches: torch.Tensor, prefix: torch.Tensor, grid: tuple[int, int], with_loss: bool = True
    ) -> ILATemporalOutput:
        messages = self.fc(prefix[:, :, 0])  # (B, T, D)
        messages = messages + self.attention(self.norm(messages))[0]
        return ILATemporalOutput(tokens=messages[:, :, None])


class ILADividedAttention(ILABaselineModule):
    """TimeSformer's divided attention: W MHA(LN u) over the frames of every patch, before the layer.

    The class tokens have no part in it. TimeSformer has one for a clip, CLIP one for every frame.
    """

    options_class = ILATimeOptions
    time_positions = "patches"

    def __init__(self, config: ILAVisionConfig):
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = CLIPAttention(config)
        self.fc = nn.Linear(config.hidden_size, config.hidden_size)

    def init_weights(self) -> None:
        """The last projection starts at zero, in all layers: a new model is CLIP."""
        init.zeros_(self.fc.weight)
        init.zeros_(self.fc.bias)

    def init_from(self, layer: Any) -> None:
        """Norm and attention start as copies of the layer's own, where they are new."""
        for own, other in ((self.norm, layer.layer_norm1), (self.attention, layer.self_attn)):
            for parameter, source in zip(own.parameters(), other.parameters(), strict=True):
                init.copy_(parameter, source)

    def over_time(self, tubes: torch.Tensor) -> torch.Tensor:
        """(B, N, T, D) -> (B, N, T, D)."""
        attended, _ = self.attention(self.norm(tubes).flatten(0, 1))
        return self.fc(attended).unflatten(0, tubes.shape[:2])

    def forward(
        self, patches: torch.Tensor, prefix: torch.Tensor, grid: tuple[int, int], with_loss: bool = True
    ) -> ILATemporalOutput:
        return ILATemporalOutput(residual=torch.cat([torch.zeros_like(prefix), self.update(patches)], dim=2))

    def update(self, patches: torch.Tensor) -> torch.Tensor:
        """What is added to the patches: (B, T, N, D) -> (B, T, N, D)."""
        return self.over_time(patches.transpose(1, 2)).transpose(1, 2)


class ILAATAAttention(ILADividedAttention):
    """ATA: divided attention along tubes of patches that belong together.

    Patches of neighbouring frames are matched one to one so that the sum of their cosine similarities is the largest
    (the Hungarian algorithm); tubes follow the matches from the first frame on. Nothing is learned in it, and no
    gradient goes through it. The paper leaves open which features are compared: here, the layer's input.

    Raises:
        ImportError: Without scipy.
    """

    def __init__(self, config: ILAVisionConfig):
        super().__init__(config)
        if linear_sum_assignment is None:
            raise ImportError('`temporal_module="ata"` needs scipy: pip install "ila-hf[laboratory]".')

    @torch.compiler.disable
    @torch.no_grad()
    def match(self, patches: torch.Tensor) -> torch.Tensor:
        """Where each tube is in each frame: (B, T, N, D) -> (B, T, N)."""
        # In half precision many similarities are equal
        full = torch.autocast(patches.device.type, enabled=False) if not patches.is_meta else nullcontext()
        with full:
            unit = nn.functional.normalize(patches.float(), dim=-1)
            similarity = (unit[:, :-1] @ unit[:, 1:].transpose(2, 3)).flatten(0, 1)  # (B·(T-1), N, N)
        if similarity.is_meta:  # where FLOPs are counted, nothing is known
            return torch.zeros(patches.shape[:3], dtype=torch.long, device="meta")
        found = [torch.from_numpy(linear_sum_assignment(each, maximize=True)[1]) for each in similarity.cpu().numpy()]
        places = [torch.arange(patches.shape[2]).expand(len(patches), -1)]
        if found:
            for match in torch.stack(found).unflatten(0, (len(patches), -1)).unbind(1):  # (B, N), frame by frame
                places.append(match.gather(1, places[-1]))
        return torch.stack(places, dim=1).to(patches.device)

    def update(self, patches: torch.Tensor) -> torch.Tensor:
        """Along the tubes: (B, T, N, D) -> (B, T, N, D)."""
        if torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export():
            raise ValueError('`temporal_module="ata"` cannot be exported: it solves an assignment for every pair.')
        places = self.match(patches)[..., None].expand_as(patches)
        tubes = patches.gather(2, places).transpose(1, 2)  # (B, N, T, D)
        attended = self.over_time(tubes).transpose(1, 2)
        return torch.zeros_like(attended).scatter(2, places, attended)  # back where they were


class ILAJointAttention(ILABaselineModule):
    """TimeSformer's joint attention: every token attends to those of all frames, class tokens included."""

    options_class = ILATimeOptions
    time_positions = "patches"

    def run_layer(self, layer: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The layer on all frames at once: (B, T, L, D) -> (B, T, L, D)."""
        tokens = hidden_states.flatten(1, 2)
        attended, _ = layer.self_attn(layer.layer_norm1(tokens), **kwargs)
        return layer.add_mlp(tokens + attended).unflatten(1, hidden_states.shape[1:3])


class ILATemporalShift(ILABaselineModule):
    """ActionCLIP's and TSM's shift: one of eight channels comes from the next frame, one of eight from the one before.

    At the ends of a clip, where there is none, they are 0.
    """

    options_class = ILAShiftOptions

    def __init__(self, config: ILAVisionConfig):
        super().__init__(config)
        _require_part("shift_div", self.options.shift_div, config.hidden_size)

    def shifted(self, states: torch.Tensor) -> torch.Tensor:
        """(B, T, ..., D) -> (B, T, ..., D)."""
        fold = states.shape[-1] // self.options.shift_div
        from_next, from_previous, rest = states.split([fold, fold, states.shape[-1] - 2 * fold], dim=-1)
        missing = torch.zeros_like(from_next[:, :1])
        from_next = torch.cat([from_next[:, 1:], missing], dim=1)
        from_previous = torch.cat([missing, from_previous[:, :-1]], dim=1)
        return torch.cat([from_next, from_previous, rest], dim=-1)

    def run_layer(self, layer: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The layer with channels of the neighbours: (B, T, L, D) -> (B, T, L, D)."""
        num_frames = hidden_states.shape[1]
        if self.options.shift_position == "input":
            prefix, patches = layer.split(hidden_states)
            hidden_states = torch.cat([prefix, self.shifted(patches)], dim=2)
        else:

            def shift(states: torch.Tensor) -> torch.Tensor:  # keys or values, (B·T, L, D)
                return self.shifted(states.unflatten(0, (-1, num_frames))).flatten(0, 1)

            kwargs["key_value_transform"] = shift
        hidden_states = hidden_states + layer.attended(hidden_states, **kwargs)
        return layer.add_mlp(hidden_states)


class ILAAIMAdapter(nn.Module):
    """Of AIM: W gelu(W x), which starts as nothing."""

    def __init__(self, width: int, ratio: int):
        super().__init__()
        self.down = nn.Linear(width, width // ratio)
        self.up = nn.Linear(width // ratio, width)

    def init_weights(self) -> None:
        init.trunc_normal_(self.down.weight, std=0.02)
        init.zeros_(self.down.bias)
        init.zeros_(self.up.weight)
        init.zeros_(self.up.bias)

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return self.up(nn.functional.gelu(self.down(input)))


class ILAAIMAdapters(ILABaselineModule):
    """AIM: the layer's own attention, used over the frames of every token, too, and three adapters.

    x = z + b(attn(LN1 z)) over time · x + attn(LN1 x) + b(attn(LN1 x)) · x + mlp(LN2 x) + s b(LN2 x)
    """

    options_class = ILAAIMOptions
    time_positions = "all"

    def __init__(self, config: ILAVisionConfig):
        super().__init__(config)
        size = (config.hidden_size, self.options.reduction_factor)
        _require_part("reduction_factor", size[1], size[0])
        self.temporal_in = ILAAIMAdapter(*size) if self.options.before_temporal_attention else None
        self.temporal_out, self.spatial, self.joint = ILAAIMAdapter(*size), ILAAIMAdapter(*size), ILAAIMAdapter(*size)

    def run_layer(self, layer: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The layer with adapters: (B, T, L, D) -> (B, T, L, D)."""
        tubes = layer.layer_norm1(hidden_states).transpose(1, 2)  # (B, L, T, D)
        if self.temporal_in is not None:
            tubes = tubes + self.temporal_in(tubes)
        over_time = CLIPAttention.forward(layer.self_attn, tubes.flatten(0, 1))[0].unflatten(0, tubes.shape[:2])
        hidden_states = hidden_states + self.temporal_out(over_time).transpose(1, 2)
        attended = layer.attended(hidden_states, **kwargs)
        hidden_states = hidden_states + attended + self.spatial(attended)
        normed = layer.layer_norm2(hidden_states)
        return hidden_states + layer.mlp(normed) + self.options.joint_scale * self.joint(normed)


class ILASTAdapterBlock(nn.Module):
    """Of ST-Adapter: z + W DWConv(W z) of the patches, with a kernel over three frames; it starts as nothing."""

    def __init__(self, width: int, channels: int):
        super().__init__()
        self.down = nn.Linear(width, channels)
        self.conv = ILATemporalConv(channels, channels, (3, 1, 1), padding=(1, 0, 0), groups=channels)
        self.up = nn.Linear(channels, width)

    def init_weights(self) -> None:
        """The convolution starts at zero; so do the biases, without which the module would not start as nothing."""
        self.down.reset_parameters()
        self.up.reset_parameters()
        for parameter in (self.down.bias, self.up.bias, *self.conv.parameters()):
            init.zeros_(parameter)

    def forward(self, prefix: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        channels = self.down(patches).permute(0, 3, 1, 2)[..., None]  # (B, T, N, C) -> (B, C, T, N, 1)
        added = self.up(self.conv(channels)[..., 0].permute(0, 2, 3, 1))
        return torch.cat([prefix, patches + added], dim=2)


class ILASTAdapter(ILABaselineModule):
    """ST-Adapter: a depthwise convolution over time in a bottleneck, between attention and MLP."""

    options_class = ILASTAdapterOptions

    def __init__(self, config: ILAVisionConfig):
        super().__init__(config)
        size = (config.hidden_size, self.options.adapter_hidden_size)
        self.before_attention = ILASTAdapterBlock(*size) if self.options.before_attention else None
        self.before_mlp = ILASTAdapterBlock(*size)

    def run_layer(self, layer: Any, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The layer with adapters: (B, T, L, D) -> (B, T, L, D)."""
        if self.before_attention is not None:
            hidden_states = self.before_attention(*layer.split(hidden_states))
        hidden_states = hidden_states + layer.attended(hidden_states, **kwargs)
        return layer.add_mlp(self.before_mlp(*layer.split(hidden_states)))
