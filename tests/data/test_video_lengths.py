"""How long videos are, for the log."""

import numpy as np
import pytest

from ila_hf.data import video_lengths
from ila_hf.data.video_lengths import describe_lengths
from ila_hf.demo.drawing import write_video


@pytest.fixture
def make_videos(tmp_path):
    """Files of so many frames, ten a second."""

    def make(*counts):
        files = []
        for i, count in enumerate(counts):
            files.append(str(tmp_path / f"{i}.mp4"))
            write_video(files[-1], np.zeros((count, 32, 32, 3), np.uint8), 10)
        return files

    return make


@pytest.mark.parametrize(
    ("counts", "text"),
    [
        ((20, 30, 25), "2 to 3 s"),
        ((20, 20), "2 s"),
        ((4,), "0.4 s"),
        ((20, 30, 25, 300), "2 to 3 s, 1 of 30 s"),
        ((20, 30, 25, 25, 300, 450), "2 to 3 s, 2 of 30 to 45 s"),
        ((10, 10, 55), "1 to 5.5 s"),  # long beside the others, but not much longer
        ((), ""),
    ],
)
def test_ranges_and_what_lies_outside(make_videos, counts, text):
    assert describe_lengths(make_videos(*counts)) == text


def test_other_files(make_videos, tmp_path):
    (tmp_path / "torn.mp4").write_bytes(b"no video")
    (tmp_path / "images").mkdir()
    others = ["https://host/clip.mp4", str(tmp_path / "gone.mp4"), str(tmp_path / "images"), {"bytes": b""}]
    assert describe_lengths([*make_videos(20), *others]) == "2 s"
    assert describe_lengths([*make_videos(20), str(tmp_path / "torn.mp4")]) == "2 s, 1 cannot be opened"
    assert describe_lengths(others) == ""


def test_of_many_some_are_looked_at(make_videos, monkeypatch):
    monkeypatch.setattr(video_lengths, "MAX_LOOKED_AT", 3)
    assert describe_lengths(make_videos(10, 300, 10, 20, 20, 30)) == "1 to 2 s, in a sample of 3"
    assert describe_lengths(make_videos(10, 20, 30)) == "1 to 3 s"
