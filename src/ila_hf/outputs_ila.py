# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the models return. Letters in shapes: see modeling_ila.py."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import ModelOutput

from .cache_ila import ILACache


@dataclass
class ILATemporalOutput(ModelOutput):
    """What a temporal module hands to its layer, with its own loss and its diagnostics; every part is optional.

    Args:
        residual (B, T, L, D): Added to the layer's input.
        tokens (B, T, A, D): Keys and values of the layer's self-attention, beside its own tokens.
        loss (scalar, float32): Alignment loss of this layer (Eq. 9, 10), not weighted.
        interactive_points (B, T-1, 2, 2): Of the previous and the current frame, as (x, y).
        alignment_masks (B, T-1, 2, h, w): Of the previous and the current frame, float32.
        mutual_information_tokens (B, T-1, 2, D): Pooled aligned features of the previous and the current frame.
    """

    residual: torch.Tensor | None = None
    tokens: torch.Tensor | None = None
    loss: torch.Tensor | None = None
    interactive_points: torch.Tensor | None = None
    alignment_masks: torch.Tensor | None = None
    mutual_information_tokens: torch.Tensor | None = None


@dataclass
class ILAVisionModelOutput(BaseModelOutputWithPooling):
    """Output of [`ILAVisionModel`].

    Args:
        last_hidden_state (B, T, L, D): Tokens of the last layer, before the last LayerNorm.
        pooler_output (B, T, D): Class tokens after the last LayerNorm; (B, E), the integrated video features, from
            [`ILAVideoFeaturesMixin.get_video_features`].
        hidden_states (tuple of (B, T, L, D), optional): Embeddings and the output of every layer.
        attentions (tuple of (B·T, heads, L, L + A), optional): A appended tokens come last, and have no queries.
        alignment_loss (scalar, optional): Sum of the layers' alignment losses, not weighted (Eq. 10): in training, and
            on request.
        alignment_losses (tuple of scalars, optional): Of every layer that has one, in order; so for the following.
        interactive_points (tuple of (B, T-1, 2, 2), optional): Previous and current frame, (x, y) in [-1, 1].
        alignment_masks (tuple of (B, T-1, 2, h, w), optional): Eq. 6, in training averaged over nine points.
        mutual_information_tokens (tuple of (B, T-1, 2, D), optional): Pooled aligned features of every pair.
        cache ([`ILACache`], optional): The one that was passed. With it, the `pooler_output` of
            [`ILAVideoFeaturesMixin.get_video_features`] is (B, P, E), of the clips that end with the P frames kept.
        patch_features (B, P, N, E), optional: With a cache, from a model with a prompt: means over the same clips.
        layer_features (tuple of tuples, optional): Of each of the last layers that were asked for, (B, T, L, D) three
            times: its output, and the queries and keys of its attention, as projected.
    """

    alignment_loss: torch.Tensor | None = None
    alignment_losses: tuple[torch.Tensor, ...] | None = None
    interactive_points: tuple[torch.Tensor, ...] | None = None
    alignment_masks: tuple[torch.Tensor, ...] | None = None
    mutual_information_tokens: tuple[torch.Tensor, ...] | None = None
    cache: ILACache | None = None
    patch_features: torch.Tensor | None = None
    layer_features: tuple[tuple[torch.Tensor, ...], ...] | None = None


@dataclass
class ILAOutput(ModelOutput):
    """Output of [`ILAModel`].

    Args:
        loss (scalar, optional): Symmetric contrastive loss plus the weighted alignment loss, with `return_loss=True`.
        logits_per_video (B, K), logits_per_text (K, B): Scaled cosine similarities, float32.
        video_embeds (B, E): Normalised video features, float32.
        text_embeds (B, K, E): Normalised text features with the video-specific prompt of each clip, float32.
        alignment_loss (scalar, optional): See [`ILAVisionModelOutput`].
        text_model_output, vision_model_output: Outputs of the two towers.
    """

    loss: torch.Tensor | None = None
    logits_per_video: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    video_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: ILAVisionModelOutput | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class ILAClassifierOutput(ModelOutput):
    """Output of the two classification models.

    Args:
        loss (scalar, optional): `classification_loss` + `config.alignment_loss_weight` · `alignment_loss`.
        logits (B, K): float32. With a cache (B, P, K), one row for each frame that is kept.
        classification_loss (scalar, optional): With `labels`.
        alignment_loss (scalar, optional): Before weighting; see [`ILAVisionModelOutput`] for this and all below. In
            evaluation with `labels` or `output_alignments`.
        cache ([`ILACache`], optional): The one that was passed.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    classification_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    alignment_losses: tuple[torch.Tensor, ...] | None = None
    interactive_points: tuple[torch.Tensor, ...] | None = None
    alignment_masks: tuple[torch.Tensor, ...] | None = None
    mutual_information_tokens: tuple[torch.Tensor, ...] | None = None
    cache: ILACache | None = None
