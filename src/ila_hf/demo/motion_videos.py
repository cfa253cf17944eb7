# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Small labelled video sets, made on the spot: `ila-hf motion-videos`."""

import argparse
import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from .drawing import load_backgrounds, write_video
from .motion_clips import HARD_CLASSES, MOTIONS, draw_clip, draw_hard_clip
from .motion_pairs import (
    EVENT_CLASSES,
    EXCHANGED_CLASSES,
    NOISE_CLASSES,
    draw_exchanged_pair,
    draw_noise,
    draw_reversed_pair,
    draw_two_events,
)


class MotionSet(NamedTuple):
    """A kind of clips.

    Args:
        draw: Draws clip `index` of the set `seed` with backgrounds: frames (T, 64, 64, 3), uint8; class; frames per
            second.
        classes: Names, every one beside its opposite: of classes 2 i and 2 i + 1, each is the other played backwards.
        in_pairs: Whether clips 2 i and 2 i + 1 are a minimal pair; else every clip has a scene of its own.
        help: What it shows.
    """

    draw: Callable[..., tuple[np.ndarray, str, int]]
    classes: tuple[str, ...]
    in_pairs: bool
    help: str


MOTION_SETS = {
    "easy": MotionSet(draw_clip, MOTIONS, False, "one bright object moves"),
    "hard": MotionSet(draw_hard_clip, HARD_CLASSES, False, "several objects, the class naming one and its motion"),
    "noise": MotionSet(draw_noise, NOISE_CLASSES, True, "noise moves, and every single frame is pure noise"),
    "real_noise": MotionSet(
        partial(draw_noise, real_statistics=True), NOISE_CLASSES, True, "the same with the spectrum of real videos"
    ),
    "reversed_pairs": MotionSet(draw_reversed_pair, MOTIONS, True, "easy clips, each also played backwards"),
    "exchanged_pairs": MotionSet(
        draw_exchanged_pair, EXCHANGED_CLASSES, True, "two objects, whose motions are exchanged in a second clip"
    ),
    "two_events": MotionSet(draw_two_events, EVENT_CLASSES, True, "two events, in either order"),
}
SPLIT_STRIDE = 1_000_000  # splits draw clips of other numbers, however many clips they have


def _numbered(splits: dict[str, int]) -> Iterator[tuple[str, int]]:
    for position, (split, count) in enumerate(splits.items()):
        yield from ((split, position * SPLIT_STRIDE + i) for i in range(count))


_KIND_FILE = ".motion_videos.json"  # hidden: those who look for videos pass it over


def kind_of_motion_videos(folder: Path) -> str | None:
    """The kind of the set in a folder, one of `MOTION_SETS`; None if it is not one of [`make_motion_videos`]."""
    file = folder / _KIND_FILE
    return json.loads(file.read_text())["kind"] if file.is_file() else None


def make_motion_videos(output_dir: str | Path, splits: dict[str, int], seed: int = 0, kind: str = "easy") -> None:
    """Write a labelled set of mp4 files, `output_dir/<split>/<class>/<number>.mp4`, and what kind it is.

    Args:
        output_dir: Folder to write; created if needed.
        splits: Number of clips of each split, such as {"train": 4000, "validation": 400}. No clip is in two splits.
        seed: The same seed gives the same clips.
        kind: One of `MOTION_SETS`. Of those in pairs, numbers 2 i and 2 i + 1 are a pair.

    Raises:
        ValueError: For another kind; if a split has fewer clips than there are classes, more than a million, or half a
            pair; and for a folder that has another kind, or another seed, already.
    """
    if kind not in MOTION_SETS:
        raise ValueError(f"`kind` must be one of {', '.join(MOTION_SETS)}, got {kind!r}.")
    draw, classes, in_pairs, _ = MOTION_SETS[kind]
    for split, count in splits.items():
        if not len(classes) <= count <= SPLIT_STRIDE:
            allowed = f"{len(classes)} (one per class) to {SPLIT_STRIDE} clips"
            raise ValueError(f"The split {split!r} must have {allowed}, got {count}.")
        if in_pairs and count % 2:
            raise ValueError(f"The clips of {kind!r} are in pairs: the split {split!r} must be even, got {count}.")
    file, made = Path(output_dir) / _KIND_FILE, {"kind": kind, "seed": seed}
    if file.is_file() and json.loads(file.read_text()) != made:
        raise ValueError(f"{str(output_dir)!r} holds clips of {file.read_text().strip()}: give another folder.")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(made) + "\n")
    backgrounds = load_backgrounds()
    for split, index in tqdm(list(_numbered(splits)), desc="Drawing clips", unit="clip"):
        frames, label, fps = draw(index, seed, backgrounds)
        folder = Path(output_dir) / split / label.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        # Frames that were predicted from others would give their order away
        write_video(folder / f"{index:07}.mp4", frames, fps, frame_by_frame=in_pairs)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf motion-videos`."""
    parser.formatter_class = argparse.RawTextHelpFormatter
    kinds = "\n".join(f"{name}: {each.help}" for name, each in MOTION_SETS.items())
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--kind", choices=list(MOTION_SETS), default="easy", help=kinds)
    parser.add_argument("--train", type=int, default=4000, help="number of training clips")
    parser.add_argument("--validation", type=int, default=400, help="number of validation clips")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same clips")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf motion-videos`."""
    splits = {"train": arguments.train, "validation": arguments.validation}
    make_motion_videos(arguments.output_dir, splits, arguments.seed, arguments.kind)
