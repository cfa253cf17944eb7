"""Damaged files end in frames or in one typed error: no crash, no hang, no leak."""

import json
import multiprocessing
import sys

import pytest
from damaged_videos import make_damaged_videos, read_damaged_videos

from ila_hf.data.unreadable_videos import check_videos
from ila_hf.video_sources import VideoLimits


@pytest.fixture(scope="module")
def damaged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged")
    return folder, make_damaged_videos(folder)


@pytest.mark.skipif(sys.platform == "win32", reason="open files are counted as POSIX systems do")
def test_every_damaged_file_ends_in_frames_or_one_error(damaged, tmp_path):
    folder, names = damaged
    assert len(names) >= 400
    result = tmp_path / "result.json"
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=read_damaged_videos, args=(str(folder), names, str(result)))
    process.start()
    process.join(300)
    last = result.with_suffix(".last").read_text()
    if process.is_alive():
        process.kill()
        pytest.fail(f"reading {last} does not end")
    assert process.exitcode == 0, f"reading {last} ended the process"
    report = json.loads(result.read_text())
    assert set(report["outcomes"]) == set(names)
    for name, (outcome, seconds) in report["outcomes"].items():
        assert seconds < 21, name
        if isinstance(outcome, str):
            assert outcome.startswith("Cannot read the video '"), outcome
            assert name in outcome
        else:
            assert (outcome[0], outcome[1]) == (8, 3), name
    read = [name for name, (outcome, _) in report["outcomes"].items() if not isinstance(outcome, str)]
    assert len(read) > len(names) / 3  # damage that leaves most of a file whole does not lose it
    for name in ("empty.mp4", "text.mp4", "zeros.mp4", "audio.mp4", "wide_frames.avi"):
        assert name not in read
    assert "one.mp4" in read
    # A thousand opens after the first round of all files
    (memory, files), *_, (memory_after, files_after) = report["costs"]
    assert files_after == files
    assert memory_after - memory < 50e6


def test_the_check_finds_them_in_other_processes(damaged):
    folder, names = damaged
    names = names[::8]
    paths = [str(folder / name) for name in names]
    results = dict(check_videos(paths, num_workers=2, limits=VideoLimits(decode_seconds=20)))
    assert set(results) == set(paths)
    assert any(error is None for error in results.values())
    assert any(error is not None and "Cannot read the video" in error for error in results.values())
    assert not any("crashes" in (error or "") or "too long" in (error or "") for error in results.values())
