# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Between the towers: multi-frame integration (Eq. 8) and the video-specific text prompt. See modeling_ila.py."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from transformers import CLIPVisionConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, eager_attention_forward

from .configuration_ila import ILAConfig


class ILAMultiframeIntegration(nn.Module):
    """Multi-frame integration (Eq. 8): per-frame features (B, T, E) -> video features (B, E).

    Original: `mit`. The positions of `config.num_frames` frames are interpolated to other lengths.
    """

    def __init__(self, config: ILAConfig):
        super().__init__()
        width = config.projection_dim
        self.block_config = CLIPVisionConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_attention_heads=config.head_num_attention_heads,
            num_hidden_layers=config.mit_num_hidden_layers,
        )
        self.block_config._attn_implementation = config._attn_implementation
        self.initializer_range = config.initializer_range
        self.position_embedding = nn.Parameter(torch.zeros(1, config.num_frames, width))
        self.layers = nn.ModuleList(CLIPEncoderLayer(self.block_config) for _ in range(config.mit_num_hidden_layers))

    def init_weights(self) -> None:
        """Positions as other new weights."""
        init.normal_(self.position_embedding, std=self.initializer_range)

    def forward(self, frame_features: torch.Tensor) -> torch.Tensor:
        positions: torch.Tensor = self.position_embedding
        num_frames = frame_features.shape[1]
        # Asking a graph of any T whether T is `num_frames` would make it one of that length; in a trace T is a tensor
        if isinstance(num_frames, torch.Tensor) or not statically_known_true(num_frames == positions.shape[1]):
            positions = nn.functional.interpolate(positions.transpose(1, 2), size=num_frames, mode="linear")
            positions = positions.transpose(1, 2)  # (1, T, E)
        hidden_states = frame_features + positions
        for layer in self.layers:
            hidden_states = layer(hidden_states, None)
        return (frame_features + hidden_states).mean(dim=1)


def attend(
    module: Any,
    queries: torch.Tensor,
    context: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of some tokens to others, through the attention interface of transformers.

    Args:
        module: Has CLIP's `config`, `head_dim`, `scale` and projections.
        queries (B, S, E): Tokens that attend.
        context (B, R, E): Tokens that are attended to.
        attention_mask, dropout, kwargs: For the interface.

    Returns:
        The output (B, S, E), and the weights (B, heads, S, R) where the implementation has them.
    """
    attention: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
        module.config._attn_implementation, eager_attention_forward
    )
    projected = module.q_proj(queries), module.k_proj(context), module.v_proj(context)
    # (B, S, E) -> (B, heads, S, head_dim)
    query, key, value = (x.unflatten(2, (-1, module.head_dim)).transpose(1, 2) for x in projected)
    output, weights = attention(
        module, query, key, value, attention_mask, scaling=module.scale, dropout=dropout, **kwargs
    )
    return module.out_proj(output.flatten(2)), weights  # (B, S, heads, head_dim) -> (B, S, E)


class ILACrossAttention(nn.Module):
    """Attention of the texts (B, K, E) to the patches (B, N, E), through CLIP's attention interface."""

    def __init__(self, config: ILAConfig):
        super().__init__()
        self.config = config
        width = config.projection_dim
        self.head_dim = width // config.head_num_attention_heads
        self.scale = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.out_proj = nn.Linear(width, width)

    def forward(self, text: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        return attend(self, text, patches)[0]


class ILAPromptLayer(nn.Module):
    """One block of the video-specific prompt: cross-attention to the video, then an MLP."""

    def __init__(self, config: ILAConfig):
        super().__init__()
        width, eps = config.projection_dim, config.vision_config.layer_norm_eps
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.cross_attn = ILACrossAttention(config)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        # trf-ignore: TRF036 - two layers in a row, under the names of saved models
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), ACT2FN["quick_gelu"], nn.Linear(4 * width, width))

    def forward(self, text: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        text = text + self.cross_attn(self.norm1(text), patches)
        return text + self.mlp(self.norm2(text))


class ILAVideoPrompt(nn.Module):
    """Video-specific text prompt, as in X-CLIP: texts (K, E) and patch tokens (B, T, N, D) -> (B, K, E).

    Original: `prompts_visual_ln`, `prompts_visual_proj`, `prompts_generator`.
    """

    def __init__(self, config: ILAConfig):
        super().__init__()
        width, eps = config.projection_dim, config.vision_config.layer_norm_eps
        self.patch_norm = nn.LayerNorm(config.vision_config.hidden_size, eps=eps)
        self.patch_projection = nn.Linear(config.vision_config.hidden_size, width, bias=False)
        self.norm = nn.LayerNorm(width, eps=eps)
        self.layers = nn.ModuleList(ILAPromptLayer(config) for _ in range(config.prompt_num_hidden_layers))
        self.initial_alpha = float(config.prompt_alpha)
        self.alpha = nn.Parameter(torch.full((width,), self.initial_alpha))

    def init_weights(self) -> None:
        """α as in the configuration."""
        init.constant_(self.alpha, self.initial_alpha)

    def patch_features(self, patches: torch.Tensor) -> torch.Tensor:
        """Project the patch tokens of every frame: (B, T, N, D) -> (B, T, N, E)."""
        return self.patch_projection(self.patch_norm(patches))

    def forward(self, text: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        patches = self.norm(self.patch_features(patches).mean(dim=1))  # (B, N, E)
        text = text.expand(patches.shape[0], -1, -1)  # (K, E) -> (B, K, E)
        prompt = text
        for layer in self.layers:
            prompt = layer(prompt, patches)
        return text + self.alpha * prompt
