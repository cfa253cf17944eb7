# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a model has from the order of the frames: its accuracy on shuffled ones, and on minimal pairs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from datasets import Dataset
from torch import nn

from ..data.video_clips import IGNORED_LABEL, video_name
from ..demo.motion_videos import MOTION_SETS, kind_of_motion_videos
from ..evaluation.views import predict
from .observation import load_with_videos


class FrameOrderScores(NamedTuple):
    """Shares of clips, and of pairs, between 0 and 1.

    Args:
        top1: Of clips that are classified correctly.
        shuffled_top1: The same with the frames of every clip in random order: what a bag of frames gives away.
        pair_accuracy: Of minimal pairs of which both clips are; None without pairs.
        shuffled_pair_accuracy: The same with shuffled frames.
    """

    top1: float
    shuffled_top1: float
    pair_accuracy: float | None
    shuffled_pair_accuracy: float | None


def shuffle_frames(clips: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Every clip with its frames in an order of its own, all its views in the same: (B, ..., T, C, H, W)."""
    orders = [torch.randperm(clips.shape[-4], generator=generator) for _ in clips]
    shuffled = [clip.index_select(-4, order.to(clip.device)) for clip, order in zip(clips, orders, strict=True)]
    return torch.stack(shuffled)


def pair_accuracy(hits: Sequence[bool] | torch.Tensor, pairs: Sequence[int]) -> float:
    """The share of minimal pairs of which both clips are classified correctly.

    Between its two clips only what makes their class differs, as between a clip and the same played backwards.

    Args:
        hits: Whether each clip is.
        pairs: The number of the pair of each clip.

    Raises:
        ValueError: Unless every number is that of two clips.
    """
    right: dict[int, list[bool]] = {}
    for hit, pair in zip(hits, pairs, strict=True):
        right.setdefault(int(pair), []).append(bool(hit))
    for pair, clips in right.items():
        if len(clips) != 2:
            raise ValueError(f"A pair must be two clips, got {len(clips)} with the number {pair}.")
    if not right:
        raise ValueError("There must be at least one pair, got none.")
    return sum(map(all, right.values())) / len(right)


@torch.no_grad()
def frame_order_scores(
    model: nn.Module,
    batches: Iterable[dict[str, torch.Tensor]],
    pairs: Sequence[int] | None = None,
    seed: int = 0,
) -> FrameOrderScores:
    """Score a model on clips, on the same with their frames in random order, and on minimal pairs.

    What a model knows of motion is lost with the order: a score that stays is one of single frames (Table 13 asks the
    same with classes that people take for temporal).

    Args:
        model: A classification model; it is set to evaluation mode.
        batches: Of `pixel_values` (B, T, 3, H, W), or (B, V, T, 3, H, W), and `labels` (B,); -100, that of a clip that
            could not be read, is no hit. They are moved to the device of the model.
        pairs: The number of the pair of each clip, in the order of the batches; see [`pair_accuracy`].
        seed: Of the random orders.

    Raises:
        ValueError: Without clips, and as [`pair_accuracy`] does.
    """
    generator = torch.Generator().manual_seed(seed)
    model.eval()
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    hits: list[bool] = []
    shuffled_hits: list[bool] = []
    for batch in batches:
        clips, labels = batch["pixel_values"].to(device), batch["labels"].to(device)
        for found, shown in ((hits, clips), (shuffled_hits, shuffle_frames(clips, generator))):
            is_hit = predict(model, {"pixel_values": shown, "labels": labels}).argmax(1) == labels
            found += (is_hit & (labels != IGNORED_LABEL)).tolist()
    if not hits:
        raise ValueError("There must be at least one clip, got none.")
    of_pairs = [None if pairs is None else pair_accuracy(each, pairs) for each in (hits, shuffled_hits)]
    return FrameOrderScores(sum(hits) / len(hits), sum(shuffled_hits) / len(shuffled_hits), *of_pairs)


def numbers_of_pairs(videos: Dataset) -> list[int]:
    """The number of the pair of each video: of files whose names are numbers, 2 i and 2 i + 1 are a pair.

    Raises:
        ValueError: For another name, and for a set of `ila-hf motion-videos` that is not one of pairs.
    """
    names = [Path(video_name(video)) for video in videos["video"]]
    for name in names:
        if not name.stem.isdecimal():
            raise ValueError(f"Videos in pairs have numbers for names, such as 0000012.mp4, got {name.name!r}.")
    for folder in {name.parents[2] for name in names if len(name.parents) > 2}:  # <split>/<class>/<number>
        kind = kind_of_motion_videos(folder)
        if kind is not None and not MOTION_SETS[kind].in_pairs:
            raise ValueError(f"The videos in {str(folder)!r} are of the kind {kind!r}, which is not made of pairs.")
    return [int(name.stem) // 2 for name in names]


def score_videos(model: str, videos: str, in_pairs: bool = False, batch_size: int = 8) -> FrameOrderScores:
    """[`frame_order_scores`] of a saved model on labelled videos. One that cannot be read counts as wrong.

    Args:
        model: Folder or Hub id of a classification model with its video processor.
        videos: Folder or list, see [`load_videos`].
        in_pairs: They are minimal pairs, see [`numbers_of_pairs`].
        batch_size: Clips that the model sees at once.

    Raises:
        ValueError: As [`load_videos`], [`numbers_of_pairs`] and [`frame_order_scores`] do.
    """
    classifier, rows, loader = load_with_videos(model, videos, batch_size)
    return frame_order_scores(classifier, loader, numbers_of_pairs(rows) if in_pairs else None)
