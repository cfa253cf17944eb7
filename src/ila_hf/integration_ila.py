# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Between the towers: multi-frame integration (Eq. 8) and the video-specific text prompt. See modeling_ila.py."""

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import statically_known_true
from transformers import CLIPVisionConfig
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, eager_attention_forward

from .cache_ila import ILACache
from .configuration_ila import ILAConfig


def interpolate_positions(positions: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Positions of other frames than they were learned for: (1, T, E) -> (1, `num_frames`, E)."""
    # Asking a graph of any T whether T is `num_frames` would make it one of that length; in a trace T is a tensor
    if isinstance(num_frames, torch.Tensor) or not statically_known_true(num_frames == positions.shape[1]):
        positions = nn.functional.interpolate(positions.transpose(1, 2), size=num_frames, mode="linear")
        positions = positions.transpose(1, 2)
    return positions


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

    def positions(self, num_frames: int) -> torch.Tensor:
        """Positions (1, T, E) of so many frames."""
        return interpolate_positions(self.position_embedding, num_frames)

    def forward(self, frame_features: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
        """See the class. With `lengths` (B,), clips are so many frames at the end of the T, and zeros before."""
        num_frames = frame_features.shape[1]
        if lengths is None:
            return self.integrate(frame_features, self.positions(num_frames), None).mean(dim=1)
        lengths = lengths.to(frame_features.device)[:, None]
        table = [nn.functional.pad(self.positions(i), (0, 0, num_frames - i, 0)) for i in range(1, num_frames + 1)]
        is_frame = torch.arange(num_frames, device=lengths.device) >= num_frames - lengths  # (B, T)
        mask = create_bidirectional_mask(self.block_config, frame_features, is_frame)
        integrated = self.integrate(frame_features, torch.cat(table)[lengths[:, 0] - 1], mask)
        return torch.where(is_frame[..., None], integrated, 0).sum(dim=1) / lengths

    def of_clips_or_streams(
        self, frame_features: torch.Tensor, cache: ILACache | None, logits_to_keep: int | torch.Tensor
    ) -> torch.Tensor:
        """As the class; of streams (B, S, E), of each frame that is kept the clip that ends with it: (B, P, E)."""
        if cache is None:
            return cast("torch.Tensor", self(frame_features))
        if cache.num_frames is None:
            cache.num_frames = self.position_embedding.shape[1]
        clips = cache.clips("frame_features", frame_features, logits_to_keep)  # (B, P, T, E)
        lengths = cache.clip_lengths(frame_features.shape[1], logits_to_keep)
        video: torch.Tensor = self(clips.flatten(0, 1), None if lengths is None else lengths.flatten())
        return video.unflatten(0, clips.shape[:2])

    def integrate(self, frame_features: torch.Tensor, positions: torch.Tensor, mask: Any) -> torch.Tensor:
        """Eq. 8 before the mean: (B, T, E), (1 or B, T, E) -> (B, T, E)."""
        hidden_states = frame_features + positions
        for layer in self.layers:
            hidden_states = layer(hidden_states, mask)
        return frame_features + hidden_states


class ILAProjections:
    """What an attention leaves behind on request: its queries and its keys of the same tokens, (B, S, E) each.

    An object, because accelerate's hooks would fill a copy of a list.
    """

    queries: torch.Tensor | None = None
    keys: torch.Tensor | None = None


def attend(
    module: Any,
    queries: torch.Tensor,
    context: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    dropout: float = 0.0,
    key_value_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
    projections: ILAProjections | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Attention of some tokens to others, through the attention interface of transformers.

    Args:
        module: Has CLIP's `config`, `head_dim`, `scale` and projections.
        queries (B, S, E): Tokens that attend.
        context (B, R, E): Tokens that are attended to.
        attention_mask, dropout, kwargs: For the interface.
        key_value_transform: Of keys and values, each (B, R, E).
        projections: Is given queries and keys, of self-attention: those of the first S of `context`, as projected.

    Returns:
        The output (B, S, E), and the weights (B, heads, S, R) where the implementation has them.
    """
    attention: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(
        module.config._attn_implementation, eager_attention_forward
    )
    projected = module.q_proj(queries), module.k_proj(context), module.v_proj(context)
    if projections is not None:
        projections.queries, projections.keys = projected[0], projected[1][:, : queries.shape[1]]
    if key_value_transform is not None:
        projected = (projected[0], *map(key_value_transform, projected[1:]))
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
    """Video-specific text prompt, as in X-CLIP: texts (K, E) and features of patches (B, N, E) -> (B, K, E).

    The latter are the mean of [`patch_features`] over the frames of a clip.

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

    def of_streams(self, patches: torch.Tensor, cache: ILACache, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
        """Patch tokens of the next frames of streams (B, S, N, D) -> means over clips as above, (B, P, N, E)."""
        clips = cache.clips("patch_features", self.patch_features(patches), logits_to_keep)  # (B, P, T, N, E)
        lengths = cache.clip_lengths(patches.shape[1], logits_to_keep)
        if lengths is None:
            return clips.mean(dim=2)
        return clips.sum(dim=2) / lengths.to(clips.device)[..., None, None]

    def forward(self, text: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        patches = self.norm(features)
        text = text.expand(patches.shape[0], -1, -1)  # (K, E) -> (B, K, E)
        prompt = text
        for layer in self.layers:
            prompt = layer(prompt, patches)
        return text + self.alpha * prompt
