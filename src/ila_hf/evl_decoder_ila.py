# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""EVL's decoder, which the paper compares with ILA and combines with it (Tables 1 to 3).

Lin et al., Frozen CLIP Models are Efficient Video Learners, https://arxiv.org/abs/2208.03550, written from its
equations. It stands in the place of the multi-frame integration, behind a trunk with any temporal module or none: with
`integration_module="evl"` and `temporal_module="none"` a model is EVL, with `temporal_module="ila"` EVL + ILA.

Of each of the last layers of the trunk, a layer of the decoder takes the output f (B, T, L, D), and the queries q and
keys k of the layer's own attention. What becomes the video, x (B, 1, D), starts as a learned query.

    y = f + DWConv(f) + P + c(q, k)     over three frames · position of a frame · frame-difference attention
    x = x + MHA(LN x, LN y)             keys and values are the tokens of all frames
    x = x + W qgelu(W LN x)

    c_t[m] = Σ_n A(t, t-1)[m, n] w1[n - m] + Σ_n A(t, t+1)[m, n] w2[n - m]
    A(s, t) = mean over the heads of softmax(q_s k_tᵀ / √d)

m and n are patches, and w1 and w2 have a vector for each of the (2h-1)·(2w-1) ways from one patch to another: c says
where what a patch shows is in the frames before and after. It is 0 for the tokens before the patches, and at the
ends of a clip a frame has one neighbour.

Notation as in modeling_ila.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import CLIPVisionConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.clip.modeling_clip import CLIPAttention

from .alignment_ila import ILATemporalConv
from .checks_ila import read_options
from .configuration_ila import ILAConfig
from .integration_ila import ILAMultiframeIntegration, attend, interpolate_positions


# trf-ignore: TRF031 - options of a configuration, no output
@strict
@dataclass
class ILAEVLOptions:
    """Options of [`ILAEVLDecoder`]: the fields of `integration_options`.

    Args:
        num_hidden_layers: Layers of the decoder, for as many of the last layers of the trunk: 4 for Kinetics-400; for
            Something-Something v2 the FLOPs of the paper tell 12.
        temporal_convolution: Whether the features are convolved over time.
        temporal_position: Whether frames have positions, of which the configuration's `num_frames` are learned, and
            others interpolated.
        frame_difference: Whether there is frame-difference attention.
        dropout: In the MLPs.
    """

    num_hidden_layers: int = 4
    temporal_convolution: bool = True
    temporal_position: bool = True
    frame_difference: bool = True
    dropout: float | int = 0.5

    def validate_sizes(self) -> None:
        """Part of the `@strict` validation."""
        if self.num_hidden_layers < 1:
            raise ValueError(f"`num_hidden_layers` must be at least 1, got {self.num_hidden_layers}.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout}.")


class ILAFrameDifference(nn.Module):
    """Frame-difference attention c, of queries and keys (B, T, L, D) -> (B, T, L, D).

    For frames of another size than the configuration's, w1 and w2 are interpolated so that the ways between opposite
    sides keep theirs; EVL leaves this open.
    """

    def __init__(self, config: ILAConfig):
        super().__init__()
        vision = config.vision_config
        self.num_heads = vision.num_attention_heads
        self.scale = (vision.hidden_size // vision.num_attention_heads) ** -0.5
        self.side = vision.image_size // vision.patch_size
        size = ((2 * self.side - 1) ** 2, vision.hidden_size)
        self.to_previous, self.to_next = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))

    def init_weights(self) -> None:
        """Both start at zero."""
        init.zeros_(self.to_previous)
        init.zeros_(self.to_next)

    def of_pairs(self, table: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        """The vector of the way from each patch to each: ((2h-1)·(2w-1), D) -> (N, N, D)."""
        height, width = grid
        if grid != (self.side, self.side):
            maps = table.t().unflatten(1, (2 * self.side - 1, -1))[None]  # (1, D, 2h-1, 2w-1)
            size = (2 * height - 1, 2 * width - 1)
            maps = nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=True)
            table = maps[0].flatten(1).t()
        rows, columns = (torch.arange(side, device=table.device) for side in grid)
        down, right = (n - n[:, None] + len(n) - 1 for n in (rows, columns))  # (h, h), (w, w), from 0 on
        ways = down[:, None, :, None] * (2 * width - 1) + right[None, :, None, :]  # (h, w, h, w)
        return nn.functional.embedding(ways.flatten(2).flatten(0, 1), table)

    def towards(
        self, queries: torch.Tensor, keys: torch.Tensor, table: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """One of the two sums: of S pairs of frames, (B, S, heads, N, d) twice -> (B, S, N, D)."""
        weights = (queries * self.scale @ keys.transpose(3, 4)).softmax(-1).mean(2)  # (B, S, N, N)
        return torch.einsum("bsmn,mnd->bsmd", weights, self.of_pairs(table, grid))

    def forward(self, queries: torch.Tensor, keys: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        prefix = queries.shape[2] - grid[0] * grid[1]  # P tokens before the patches
        # (B, T, L, D) -> (B, T, heads, N, d)
        queries, keys = (x[:, :, prefix:].unflatten(3, (self.num_heads, -1)).transpose(2, 3) for x in (queries, keys))
        previous = self.towards(queries[:, 1:], keys[:, :-1], self.to_previous, grid)
        following = self.towards(queries[:, :-1], keys[:, 1:], self.to_next, grid)
        # Zeros for the tokens before, and for the frame that has no such neighbour
        previous = nn.functional.pad(previous, (0, 0, prefix, 0, 1, 0))
        return previous + nn.functional.pad(following, (0, 0, prefix, 0, 0, 1))


class ILAEVLDecoderLayer(GradientCheckpointingLayer):
    """A layer of the decoder: see the equations above."""

    def __init__(self, config: ILAConfig, block_config: CLIPVisionConfig, options: ILAEVLOptions):
        super().__init__()
        width, eps = config.vision_config.hidden_size, config.vision_config.layer_norm_eps
        self.temporal_conv: ILATemporalConv | None = None
        self.position_embedding: nn.Parameter | None = None
        self.frame_difference: ILAFrameDifference | None = None
        if options.temporal_convolution:
            self.temporal_conv = ILATemporalConv(width, width, (3, 1, 1), padding=(1, 0, 0), groups=width)
        if options.temporal_position:
            self.position_embedding = nn.Parameter(torch.zeros(1, config.num_frames, width))
        if options.frame_difference:
            self.frame_difference = ILAFrameDifference(config)
        self.query_norm = nn.LayerNorm(width, eps=eps)
        self.context_norm = nn.LayerNorm(width, eps=eps)
        self.cross_attn = CLIPAttention(block_config)
        self.mlp_norm = nn.LayerNorm(width, eps=eps)
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation_fn = ACT2FN["quick_gelu"]
        self.dropout = nn.Dropout(options.dropout)

    def init_weights(self) -> None:
        """Positions start at zero, the convolution as torch's, matrices as Xavier's, biases at zero or almost."""
        if self.temporal_conv is not None:
            self.temporal_conv.reset_parameters()
        if self.position_embedding is not None:
            init.zeros_(self.position_embedding)
        attention = self.cross_attn
        for linear in (attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj):
            init.xavier_uniform_(linear.weight)
            init.zeros_(linear.bias)
        for linear in (self.fc1, self.fc2):
            init.xavier_uniform_(linear.weight)
            init.normal_(linear.bias, std=1e-6)

    def context(
        self, features: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, grid: tuple[int, int]
    ) -> torch.Tensor:
        """The features in time, y: (B, T, L, D) three times -> (B, T, L, D)."""
        context = features
        if self.temporal_conv is not None:
            channels = features.permute(0, 3, 1, 2)[..., None]  # (B, T, L, D) -> (B, D, T, L, 1)
            context = context + self.temporal_conv(channels)[..., 0].permute(0, 2, 3, 1)
        if self.position_embedding is not None:
            context = context + interpolate_positions(self.position_embedding, features.shape[1])[:, :, None]
        if self.frame_difference is not None:
            context = context + self.frame_difference(queries, keys, grid)
        return context

    def forward(
        self,
        hidden_states: torch.Tensor,
        features: torch.Tensor,
        queries: torch.Tensor,
        keys: torch.Tensor,
        grid: tuple[int, int],
    ) -> torch.Tensor:
        """x (B, 1, D), and output, queries and keys of a layer of the trunk, (B, T, L, D) each -> (B, 1, D)."""
        context = self.context_norm(self.context(features, queries, keys, grid)).flatten(1, 2)
        hidden_states = hidden_states + attend(self.cross_attn, self.query_norm(hidden_states), context)[0]
        expanded = self.activation_fn(self.fc1(self.mlp_norm(hidden_states)))
        output: torch.Tensor = hidden_states + self.fc2(self.dropout(expanded))
        return output


class ILAEVLDecoder(nn.Module):
    """EVL's decoder: the features of the last layers of the trunk -> those of the video, (B, D).

    They take the place of a class token: CLIP's last LayerNorm, its projection and ILA's head follow. EVL's own head
    is a LayerNorm, dropout and a linear layer.

    Raises:
        ValueError: For more layers than the trunk has, and for options that are not of [`ILAEVLOptions`].
    """

    def __init__(self, config: ILAConfig):
        super().__init__()
        vision = config.vision_config
        options: ILAEVLOptions = read_options(ILAEVLOptions, config.integration_options, "integration_options")
        count = options.num_hidden_layers
        if count > vision.num_hidden_layers:
            raise ValueError(
                f"`num_hidden_layers` of `integration_options` must be at most {vision.num_hidden_layers}, the layers "
                f"of the trunk, got {count}."
            )
        self.block_config = CLIPVisionConfig(
            hidden_size=vision.hidden_size,
            num_attention_heads=vision.num_attention_heads,
            num_hidden_layers=count,
        )
        self.block_config._attn_implementation = config._attn_implementation
        self.query = nn.Parameter(torch.zeros(vision.hidden_size))
        self.layers = nn.ModuleList(ILAEVLDecoderLayer(config, self.block_config, options) for _ in range(count))

    def init_weights(self) -> None:
        """The query starts at zero, as in the original."""
        init.zeros_(self.query)

    def forward(self, layer_features: Sequence[tuple[torch.Tensor, ...]], grid: tuple[int, int]) -> torch.Tensor:
        """`layer_features` of [`ILAVisionModelOutput`], one for each layer, and the patch grid (h, w) -> (B, D)."""
        # A copy: of a view of a parameter, torch's counter of FLOPs wants a gradient function
        hidden_states = self.query.repeat(layer_features[0][0].shape[0], 1, 1)
        for layer, (features, queries, keys) in zip(self.layers, layer_features, strict=True):
            hidden_states = layer(hidden_states, features, queries, keys, grid)
        return hidden_states[:, 0]


def make_integration(config: ILAConfig) -> ILAMultiframeIntegration | ILAEVLDecoder:
    """What makes the features of a video from those of the trunk."""
    # CODEPATH: the published models integrate frames, EVL reads layers
    return ILAEVLDecoder(config) if config.integration_module == "evl" else ILAMultiframeIntegration(config)
