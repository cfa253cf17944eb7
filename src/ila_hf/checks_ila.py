# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What the models refuse, and what they say then: one place, so that it does not stand between the equations.

Letters in shapes: see modeling_ila.py.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch

from .configuration_ila import MIN_GRID_SIZE, ILAConfig, ILATextConfig, ILAVisionConfig


def check_clips(pixel_values: torch.Tensor | None, config: ILAVisionConfig) -> tuple[int, int]:
    """The patch grid (h, w) of clips (B, T, 3, H, W).

    Raises:
        ValueError: For clips of another rank, channel count or data type, and without frames.
    """
    if pixel_values is None:
        raise ValueError("`pixel_values` is missing: pass clips of shape (B, T, 3, H, W).")
    expected = f"(B, T, {config.num_channels}, H, W)"
    shape = tuple(pixel_values.shape)
    if len(shape) != 5:
        raise ValueError(f"`pixel_values` must have five dimensions, {expected}, got shape {shape}.")
    if shape[2] != config.num_channels:
        raise ValueError(f"`pixel_values` must have {config.num_channels} channels, {expected}, got {shape}.")
    if 0 in shape:
        raise ValueError(f"`pixel_values` must hold at least one clip and one frame, {expected}, got {shape}.")
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"`pixel_values` must be floating point, got {pixel_values.dtype}: ILAVideoProcessor makes normalised "
            "clips from uint8 frames."
        )
    return shape[3] // config.patch_size, shape[4] // config.patch_size


def check_stream(trunk: Any) -> None:
    """Refuse to stream through a trunk that trains, or in which a frame depends on later ones."""
    if trunk.training:
        raise ValueError("A cache is for inference: call `model.eval()` first.")
    if getattr(trunk, "_is_replica", False):
        raise ValueError("DataParallel cannot divide a cache: run the model itself.")
    layer = layer_that_sees_later_frames(trunk)
    if layer is not None:
        config = trunk.config
        advice = "no other setting of it is"
        can_be = config.architecture == "paper" and config.reference_frame == "previous"
        # CODEPATH: models of the paper's architecture can be made causal, the released checkpoints cannot
        if config.temporal_module == "ila" and can_be:
            advice = (
                'call `model.set_first_frame("self")`, or pass `--first_frame self`, which changes how a clip begins'
            )
        sees = "is not causal"
        # CODEPATH: a row of Table 6 aligns all frames with the first; the published models with the one before
        if config.temporal_module == "ila" and config.reference_frame == "first":
            sees = "sees the first frame, which a cache does not keep"
        raise ValueError(
            f"A cache needs a causal trunk. Layer {layer} {sees} (temporal_module={config.temporal_module!r}, "
            f"architecture={config.architecture!r}, first_frame={config.first_frame!r}, "
            f"reference_frame={config.reference_frame!r}): {advice}."
        )


def check_feature_layers(count: int, config: ILAVisionConfig) -> None:
    """Refuse features of more layers than the trunk has."""
    if not 0 <= count <= config.num_hidden_layers:
        raise ValueError(f"`num_feature_layers` must be between 0 and {config.num_hidden_layers}, got {count}.")


def check_projections(projections: Any, temporal: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys of an [`ILAProjections`]; refuse a layer whose temporal module has not had them taken."""
    if projections.queries is None:
        raise ValueError(
            f"{type(temporal).__name__}.run_layer must pass its `kwargs` on to the attention of the layer: EVL's "
            "decoder needs its queries and keys."
        )
    return projections.queries, projections.keys


def check_integrates_streams(config: ILAConfig) -> None:
    """Refuse to stream where the features of a video are not made frame by frame."""
    if config.integration_module == "evl":
        raise ValueError(
            'A cache needs integration_module="transformer", got "evl": EVL\'s decoder sees all frames of a clip, and '
            "each of them with the next."
        )


def can_stream(model: Any) -> bool:
    """Whether a classification model can take a cache: its trunk is causal, and its integration takes frames."""
    is_causal = layer_that_sees_later_frames(model.vision_model) is None
    return is_causal and model.config.integration_module == "transformer"


def layer_that_sees_later_frames(trunk: Any) -> int | None:
    """The first layer in which a frame depends on later ones; None for a causal trunk."""
    for index, layer in enumerate(trunk.encoder.layers):
        if layer.temporal is not None and not getattr(layer.temporal, "is_causal", False):
            return index
    return None


def check_labels_of_clips(labels: torch.Tensor | None, cache: Any) -> None:
    """Refuse labels with a cache."""
    if cache is not None and labels is not None:
        raise ValueError("`labels` are those of clips, and a cache is of streams: pass one or the other.")


def check_kept(kept: Any, cache: Any, pixel_values: torch.Tensor | None) -> None:
    """Refuse places of no frames, and places without a cache, before the cache has taken the frames."""
    if isinstance(kept, int) and kept < 0:
        raise ValueError(f"`logits_to_keep` must be a number of frames, 0 for all, or a tensor of places, got {kept}.")
    if cache is None and not (isinstance(kept, int) and kept == 0):
        raise ValueError("`logits_to_keep` needs `cache`: a clip has one row of logits.")
    if isinstance(kept, torch.Tensor) and (kept.ndim != 1 or kept.is_floating_point()):
        raise ValueError(f"Places in `logits_to_keep` must be whole numbers, (P,), got {kept!r}.")
    # A graph cannot branch on values
    if isinstance(kept, torch.Tensor) and pixel_values is not None and not torch.compiler.is_compiling():
        count = pixel_values.shape[1]
        wrong = kept[(kept < -count) | (kept >= count)].tolist()
        if wrong:
            raise ValueError(f"Places in `logits_to_keep` must be those of {count} frames, got {wrong}.")


def check_no_cache(arguments: dict[str, Any]) -> None:
    """Refuse a cache where every clip is compared with texts of its own."""
    if arguments.get("cache") is not None:
        raise ValueError(
            "ILAModel compares clips with texts: for streams call `get_video_features` with the cache, and "
            "`video_text_logits`."
        )


def check_grid(grid: tuple[int, int], patch_size: int) -> None:
    """Refuse patch grids (h, w) that the two poolings of the alignment reduce to nothing."""
    if min(grid) < MIN_GRID_SIZE:
        size = MIN_GRID_SIZE * patch_size
        raise ValueError(
            f"The alignment needs frames of {MIN_GRID_SIZE}×{MIN_GRID_SIZE} patches, i.e. at least {size}×{size} "
            f"pixels, got {grid[0]}×{grid[1]} patches of {patch_size} pixels."
        )


def check_pairs(num_pairs: int, grid: tuple[int, int]) -> None:
    """Refuse to train BatchNorm on one value: one pair of frames whose map two poolings reduce to one place."""
    if num_pairs == 1 and max(grid) < 8:
        raise ValueError("BatchNorm cannot train on one pair of frames so small: pass at least 2 clips or 3 frames.")


def check_texts(input_ids: torch.Tensor | None) -> None:
    """Refuse token ids (K, S) without a text."""
    if input_ids is not None and 0 in input_ids.shape:
        raise ValueError(f"`input_ids` must hold at least one text, (K, S), got shape {tuple(input_ids.shape)}.")


def check_class_texts(texts: Any, labels: Sequence[str] | None) -> None:
    """Refuse what is no list of texts, and names that are not one per text."""
    if isinstance(texts, str):
        raise ValueError(f"`texts` must be a list with one text per class, got the string {texts!r}.")
    if len(texts) == 0:
        raise ValueError("`texts` is empty: pass at least one class text.")
    if labels is not None and len(labels) != len(texts):
        raise ValueError(f"Got {len(labels)} `labels` for {len(texts)} class texts.")


def check_text_length(texts: Sequence[str], lengths: Sequence[int], limit: int) -> None:
    """Refuse a text that the text tower would not see all of."""
    if max(lengths) > limit:
        text = texts[lengths.index(max(lengths))]
        raise ValueError(f"The class text {text!r} has {max(lengths)} tokens; the text tower takes {limit}.")


def check_token_ids(input_ids: torch.Tensor, config: ILATextConfig) -> None:
    """Refuse token ids (K, S) of class texts that the text tower does not take, or that do not end."""
    shape, length = tuple(input_ids.shape), config.max_position_embeddings
    if len(shape) != 2 or not 0 < shape[1] <= length:
        raise ValueError(f"Token ids of class texts must be (K, S) with S up to {length}, got shape {shape}.")
    lowest, highest = int(input_ids.min()), int(input_ids.max())
    if lowest < 0 or highest >= config.vocab_size:
        raise ValueError(f"Token ids must be in [0, {config.vocab_size - 1}], got values from {lowest} to {highest}.")
    # eos_token_id 2 is the mark of OpenAI's first configs: there CLIP takes the highest id for the end of a text
    ends = (input_ids == config.eos_token_id).any(1)
    if config.eos_token_id != 2 and not ends.all():
        row = int((~ends).nonzero()[0])
        raise ValueError(f"Class text {row} has no end-of-text token (id {config.eos_token_id}).")


def read_options(options_class: Any, options: dict[str, Any] | None, field: str) -> Any:
    """The options that a field of a configuration gives, as their dataclass; refuse names that it does not have."""
    options, known = options or {}, [each.name for each in fields(options_class)]
    unknown = sorted(options.keys() - set(known))
    if unknown:
        raise ValueError(f"`{field}` of this module may have {known}, got {unknown}.")
    return options_class(**options)


def check_plain_weights(model: Any, purpose: str) -> None:
    """Refuse a model whose weights are not all in memory, in its own layers, and numbers of one type each."""
    if getattr(model, "hf_quantizer", None) is not None:
        raise ValueError(f"A quantised model cannot be {purpose}: load the model that it was made of.")
    for name, parameter in model.named_parameters():
        if parameter.is_meta:
            raise ValueError(
                f"A model with offloaded weights cannot be {purpose}, got {name!r} on the meta device: load it "
                "without `device_map`."
            )
        kind = type(parameter.data)
        if kind is not torch.Tensor:  # of torchao, or a part of what several devices hold
            raise ValueError(
                f"A model that is quantised or divided cannot be {purpose}, got {name!r} as {kind.__name__}: load the "
                "model that it was made of."
            )
    for module in model.modules():
        if hasattr(module, "get_base_layer"):
            raise ValueError(f"A model with an adapter cannot be {purpose}: merge the adapter first.")


def has_plain_weights(model: Any) -> bool:
    """Whether [`check_plain_weights`] would let it pass."""
    try:
        check_plain_weights(model, "tested")
    except ValueError:
        return False
    return True


def check_names(names: Sequence[str], what: str) -> None:
    """Refuse names that repeat."""
    repeated = sorted(name for name, count in Counter(names).items() if count > 1)
    if repeated:
        raise ValueError(f"{what} must be different, got {repeated} more than once.")


def check_pairing(logits: torch.Tensor) -> None:
    """Refuse logits (B, K) for a loss that takes text i for that of clip i."""
    if logits.shape[0] != logits.shape[1]:
        raise ValueError(f"`return_loss=True` needs one text per clip, got {tuple(logits.shape)} clips × texts.")


def check_labels(labels: torch.Tensor, logits: torch.Tensor, is_soft: bool) -> None:
    """Refuse labels that do not fit logits (B, K): soft targets are (B, K), class ids (B,), in [0, K) or -100."""
    batch, num_classes = logits.shape
    shape = tuple(labels.shape)
    if is_soft:
        if shape != (batch, num_classes):
            raise ValueError(f"Soft `labels` must be (B, K) = {(batch, num_classes)} like the logits, got {shape}.")
        return
    if shape != (batch,):
        raise ValueError(f"`labels` must hold one class id per clip, ({batch},), got shape {shape}.")
    # A graph cannot branch on values; there an id out of range fails inside the kernel
    if torch.compiler.is_compiling():
        return
    is_wrong = (labels != -100) & ((labels < 0) | (labels >= num_classes))
    if is_wrong.any():
        wrong = labels[is_wrong].tolist()
        raise ValueError(f"`labels` must be in [0, {num_classes - 1}] for {num_classes} classes, got {wrong}.")
