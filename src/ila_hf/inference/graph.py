# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A model as a module of one tensor: what is exported, and what `torch.compile` takes best."""

import copy
from typing import Any

import torch
from torch import nn

from ..cache_ila import ILACache
from ..checks_ila import check_integrates_streams, check_plain_weights, check_stream
from ..modeling_ila import ILAForVideoClassification, ILAForVideoTextClassification, ILAPreTrainedModel, ILAVisionModel


Outputs = dict[str, torch.Tensor]


class ILAVisionGraph(nn.Module):
    """The visual trunk: `pixel_values` (B, T, 3, S, S) -> last hidden state (B, T, L, D), class tokens (B, T, D)."""

    output_names = ("last_hidden_state", "pooler_output")

    def __init__(self, model: ILAVisionModel, interpolate_pos_encoding: bool = False):
        super().__init__()
        self.model, self.interpolate_pos_encoding = model, interpolate_pos_encoding

    def forward(self, pixel_values: torch.Tensor) -> Outputs:
        outputs = self.model(pixel_values, self.interpolate_pos_encoding, return_dict=True)
        return {name: outputs[name] for name in self.output_names}


class ILAClassifierGraph(nn.Module):
    """A classifier of fixed classes: `pixel_values` (B, T, 3, S, S) -> logits (B, K).

    The features (K, E) of class texts become a buffer, and `model` loses its text tower.
    """

    output_names = ("logits",)

    def __init__(
        self, model: ILAForVideoTextClassification | ILAForVideoClassification, interpolate_pos_encoding: bool = False
    ):
        super().__init__()
        self.model, self.interpolate_pos_encoding = model, interpolate_pos_encoding
        if isinstance(model, ILAForVideoTextClassification):
            with torch.no_grad():
                self.text_features = nn.Buffer(model.class_features().clone())
            del model.text_model, model.text_projection, model.class_texts

    def forward(self, pixel_values: torch.Tensor, cache: ILACache | None = None) -> Outputs:
        arguments = {"interpolate_pos_encoding": self.interpolate_pos_encoding, "return_dict": True}
        if isinstance(self.model, ILAForVideoClassification):
            return {"logits": self.model(pixel_values, cache=cache, **arguments).logits}
        begun = None if cache is None else cache.begin()
        vision_outputs = self.model.get_video_features(pixel_values, cache=begun, **arguments)
        logits = self.model.video_text_logits(vision_outputs, self.text_features)[0]
        if cache is not None and begun is not None:
            cache.finish(begun)
        return {"logits": logits}


class ILAStreamGraph(nn.Module):
    """A classifier of streams: the next frame of each, and their state, to logits and the state that follows.

    `pixel_values` (B, 1, 3, S, S) -> logits (B, K). The state is that of an [`ILACache`], tensor by tensor: `lengths`
    (B,) int64, and its `states`, streams first, all zeros where a stream begins.
    """

    def __init__(self, classifier: ILAClassifierGraph, num_frames: int):
        super().__init__()
        check_integrates_streams(classifier.model.config)
        check_stream(classifier.model.vision_model)
        self.classifier, self.num_frames = classifier, num_frames

    def initial_state(self, frames: torch.Tensor) -> Outputs:
        """Of streams that begin with `frames` (B, 1, 3, S, S)."""
        cache = ILACache(self.num_frames)
        with torch.no_grad():
            self.classifier(frames, cache)
        return {name: torch.zeros_like(tensor) for name, tensor in _state(cache).items()}

    def forward(self, pixel_values: torch.Tensor, state: Outputs) -> Outputs:
        cache = ILACache(self.num_frames)
        cache.states = {**state}
        cache.lengths = cache.states.pop("lengths")
        logits = self.classifier(pixel_values, cache)["logits"][:, 0]
        return {"logits": logits, **_state(cache)}


def _state(cache: ILACache) -> Outputs:
    return {"lengths": cache.lengths, **cache.states}


def stream_graph(
    model: ILAPreTrainedModel, num_frames: int | None = None, image_size: int | None = None
) -> ILAStreamGraph:
    """As [`inference_graph`], of a causal classification model and the next frame of streams.

    Args:
        model: A classification model.
        num_frames: T, the frames that a prediction looks back on. Default: that of the configuration.
        image_size: See [`inference_graph`].

    Raises:
        ValueError: As [`inference_graph`], for a T below 1, and for a model that is not causal.
    """
    graph = inference_graph(model, image_size)
    if not isinstance(graph, ILAClassifierGraph):
        raise ValueError("Streams are exported of classification models, not of a vision model alone.")
    return ILAStreamGraph(graph, model.config.num_frames if num_frames is None else num_frames)


def inference_graph(model: ILAPreTrainedModel, image_size: int | None = None) -> ILAVisionGraph | ILAClassifierGraph:
    """What is exported of a model: a module of one tensor with a fused copy of the weights in float32 on the CPU.

    It also serves `torch.compile`, which would otherwise put the text tower into the graph and run it for every batch.

    Args:
        model: An [`ILAVisionModel`] or one of the two classification models.
        image_size: S. Default: that of the configuration; CLIP's positions are interpolated to another.

    Raises:
        ValueError: For another model, for one without class texts, and for one that is quantised, offloaded or has an
            adapter.
    """
    if not isinstance(model, ILAVisionModel | ILAForVideoTextClassification | ILAForVideoClassification):
        raise ValueError(f"Only vision and classification models can be exported, got {type(model).__name__}.")
    check_plain_weights(model, "exported")
    copied: Any = copy.deepcopy(model)
    copied.cpu().float().fuse()
    copied.set_attn_implementation("sdpa")
    config: Any = getattr(model.config, "vision_config", model.config)
    interpolate = image_size not in (None, config.image_size)
    if isinstance(copied, ILAVisionModel):
        return ILAVisionGraph(copied, interpolate).eval()
    return ILAClassifierGraph(copied, interpolate).eval()
