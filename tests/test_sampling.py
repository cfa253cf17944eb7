"""Frame sampling against its definition, for many lengths."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from ila_hf import sample_frame_indices
from ila_hf.sampling import seeded


LENGTHS = [(n, t) for n in (1, 2, 3, 7, 8, 9, 50, 301) for t in (1, 2, 8, 16)]


@pytest.mark.parametrize(("n", "t"), LENGTHS)
def test_sparse(n, t):
    assert sample_frame_indices(n, t) == [math.floor((i + 0.5) * n / t) for i in range(t)]
    seen = [set() for _ in range(t)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        indices = sample_frame_indices(n, t, generator=generator)
        for i, index in enumerate(indices):
            assert math.floor(i * n / t) <= index < max(math.ceil((i + 1) * n / t), 1)
            seen[i].add(index)
    if n == 50 and t == 8:  # every frame of every segment turns up
        assert set.union(*seen) == set(range(50))


@pytest.mark.parametrize(("n", "t"), LENGTHS)
def test_uniform(n, t):
    bounds = [round((n - 1) * i / t) for i in range(t + 1)]
    expected = [(bounds[i] + bounds[i + 1]) // 2 for i in range(t)]
    assert sample_frame_indices(n, t, "uniform") == expected
    seen = [set() for _ in range(t)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        for i, index in enumerate(sample_frame_indices(n, t, "uniform", generator=generator)):
            assert bounds[i] <= index <= bounds[i + 1]
            seen[i].add(index)
    if (n, t) == (50, 8):  # both ends included
        assert all(seen[i] == set(range(bounds[i], bounds[i + 1] + 1)) for i in range(t))


def test_dense():
    assert sample_frame_indices(100, 4, "dense", 8) == [34, 42, 50, 58]
    assert sample_frame_indices(9, 8, "dense") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert sample_frame_indices(5, 4, "dense", 3) == [0, 3, 4, 4]  # too short: the last frame repeats
    generator = torch.Generator().manual_seed(0)
    starts = set()
    for _ in range(100):
        indices = sample_frame_indices(40, 4, "dense", 8, generator)
        assert [b - a for a, b in itertools.pairwise(indices)] == [8, 8, 8]
        starts.add(indices[0])
    assert starts == set(range(9))


@pytest.mark.parametrize("strategy", ["sparse", "uniform", "dense"])
def test_random_choices_come_from_the_generator(strategy):
    draws = [sample_frame_indices(200, 8, strategy, 4, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 8), "`total_num_frames` must be at least 1, got 0"),
        ((10, 0), "`num_frames` must be at least 1, got 0"),
        ((10, 8, "dense", 0), "`frame_sampling_rate` must be at least 1, got 0"),
        ((10, 8, "random"), r"one of \('sparse', 'uniform', 'dense'\), got 'random'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        sample_frame_indices(*arguments)


@pytest.mark.parametrize(("n", "t"), LENGTHS)
@pytest.mark.parametrize("clips", [2, 3, 4])
def test_clips_of_a_test(n, t, clips):
    """Clip c takes the place (c + 1/2) / C instead of the middle; floor() of whole numbers, so nothing is rounded."""
    for c in range(clips):
        place = Fraction(2 * c + 1, 2 * clips)
        sparse = sample_frame_indices(n, t, clip=c, num_clips=clips)
        assert sparse == [math.floor((i + place) * n / t) for i in range(t)]
        bounds = [round((n - 1) * i / t) for i in range(t + 1)]
        uniform = sample_frame_indices(n, t, "uniform", clip=c, num_clips=clips)
        assert uniform == [bounds[i] + math.floor((bounds[i + 1] - bounds[i]) * place) for i in range(t)]
        start = math.floor(max(n - 2 * t, 0) * place)
        dense = sample_frame_indices(n, t, "dense", 2, clip=c, num_clips=clips)
        assert dense == [min(start + 2 * i, n - 1) for i in range(t)]


def test_clips_that_do_not_exist():
    for clip in (-1, 2):
        with pytest.raises(ValueError, match=f"`clip` must be one of 0 to 1, got {clip}"):
            sample_frame_indices(10, 4, clip=clip, num_clips=2)
    with pytest.raises(ValueError, match="`num_clips` must be at least 1, got 0"):
        sample_frame_indices(10, 4, num_clips=0)
    with pytest.raises(ValueError, match="`generator` excludes `num_clips` of 2"):
        sample_frame_indices(10, 4, generator=torch.Generator(), num_clips=2)


def draw(*numbers):
    with seeded(*numbers):
        return torch.rand(5)


def test_seeded_draws():
    """Those of the generator whose seed numpy's SeedSequence makes of the numbers and how many they are."""
    seed = int(np.random.SeedSequence([3, 3, 0, 7]).generate_state(1, np.uint64)[0])
    assert torch.equal(draw(3, 0, 7), torch.rand(5, generator=torch.Generator().manual_seed(seed)))
    others = [(3, 0, 8), (3, 7, 0), (7, 0, 3), (7, 3), (3,), (2**40, 0, 7), (3, 0, 7, 0)]
    draws = torch.stack([draw(*numbers) for numbers in ((3, 0, 7), *others)])
    assert len(torch.unique(draws[:, 0])) == 8
    assert torch.equal(draw(torch.tensor(3), np.int64(0), 7), draws[0])
    many = torch.stack([draw(1, number) for number in range(300)])
    assert float(many.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(torch.corrcoef(torch.stack([many[:-1, 0], many[1:, 0]]))[0, 1]) == pytest.approx(0, abs=0.15)


def test_seeded_leaves_the_state_alone():
    state = torch.get_rng_state()
    expected = torch.rand(3)
    torch.set_rng_state(state)
    with seeded(1):
        outer = torch.rand(2)
        with seeded(2):
            torch.rand(9)
        outer = torch.cat([outer, torch.rand(2)])
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(KeyError), seeded(1):
        raise KeyError
    assert torch.equal(torch.rand(3), expected)
    with seeded(1):
        assert torch.equal(torch.cat([torch.rand(2), torch.rand(2)]), outer)  # one inside of another, too


def test_seeds_that_cannot_be():
    with pytest.raises(ValueError, match="non-negative"), seeded(1, -1):
        pass
