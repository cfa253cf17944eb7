# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Which T of n frames a model sees, and random draws that can be repeated."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Literal, get_args

import numpy as np
import torch


SamplingStrategy = Literal["sparse", "uniform", "dense"]


def sample_frame_indices(
    total_num_frames: int,
    num_frames: int,
    strategy: SamplingStrategy = "sparse",
    frame_sampling_rate: int = 1,
    generator: torch.Generator | None = None,
    clip: int = 0,
    num_clips: int = 1,
) -> list[int]:
    """Choose T of n frames, in order. Where n < T, frames repeat.

    sparse (Kinetics-400): T equal segments; the middle frame of each, or a random one.
    uniform (SSv2): boundaries round((n - 1)·i / T); the middle of two, or a random frame between them, both included.
    dense: T frames, `frame_sampling_rate` apart, from the middle of the video, or from a random start.

    A test with several clips takes, instead of the middle 1/2, the places (clip + 1/2) / num_clips of each segment, of
    each pair of boundaries, or of the possible starts.

    Args:
        total_num_frames: n, at least 1.
        num_frames: T, at least 1.
        strategy: "sparse", "uniform" or "dense".
        frame_sampling_rate: Distance of the frames of "dense", at least 1.
        generator: Source of the random choices in training. None: the deterministic choices for tests.
        clip: Which clip of a test with several, from 0.
        num_clips: How many clips the test has, at least 1.

    Raises:
        ValueError: For numbers below 1, a clip that does not exist, unknown strategies, and several random clips.
    """
    numbers = {
        "total_num_frames": total_num_frames,
        "num_frames": num_frames,
        "frame_sampling_rate": frame_sampling_rate,
        "num_clips": num_clips,
    }
    for name, value in numbers.items():
        if not isinstance(value, Integral) or value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value!r}.")
    if strategy not in get_args(SamplingStrategy):
        raise ValueError(f"`strategy` must be one of {get_args(SamplingStrategy)}, got {strategy!r}.")
    if not 0 <= clip < num_clips:
        raise ValueError(f"`clip` must be one of 0 to {num_clips - 1}, got {clip!r}.")
    if generator is not None and num_clips > 1:
        raise ValueError(f"The clips of a test are not random: `generator` excludes `num_clips` of {num_clips}.")
    n, frames = total_num_frames, torch.arange(num_frames)
    place, places = 2 * clip + 1, 2 * num_clips  # the place as a fraction of whole numbers: nothing is rounded
    if strategy == "dense":
        room = max(n - num_frames * frame_sampling_rate, 0)
        start = room * place // places if generator is None else int(torch.randint(room + 1, (), generator=generator))
        return (start + frame_sampling_rate * frames).clamp(max=n - 1).tolist()
    if strategy == "uniform":
        bounds = [round((n - 1) * i / num_frames) for i in range(num_frames + 1)]
        pairs = list(itertools.pairwise(bounds))
        if generator is None:
            return [start + (end - start) * place // places for start, end in pairs]
        return [int(torch.randint(start, end + 1, (), generator=generator)) for start, end in pairs]
    if generator is None:
        return [(places * i + place) * n // (places * num_frames) for i in range(num_frames)]
    shifts = torch.rand(num_frames, generator=generator, dtype=torch.float64)
    return ((frames + shifts) * n / num_frames).long().clamp(max=n - 1).tolist()


@contextmanager
def seeded(*numbers: int) -> Iterator[None]:
    """Draw from torch's CPU generator as these numbers say, such as seed, epoch and clip; its state stays as it was.

    Args:
        numbers: Not negative.
    """
    entropy = np.random.SeedSequence([len(numbers), *map(int, numbers)]).generate_state(1, np.uint64)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(entropy[0]))  # torch.manual_seed would also seed the GPUs
        yield
