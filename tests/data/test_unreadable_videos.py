"""The list of unreadable videos, and the command that writes it."""

import json
import multiprocessing
import os
import tempfile
import time
import warnings

import numpy as np
import pytest

from ila_hf.__main__ import main as ila_hf
from ila_hf.data import unreadable_videos, worker_processes
from ila_hf.data.unreadable_videos import UnreadableVideos, check_videos
from ila_hf.demo.drawing import write_video
from ila_hf.video_sources import VideoLimits


@pytest.fixture
def folder(tmp_path):
    for name in ("a/1.mp4", "a/2.mp4", "b/3.mp4"):
        path = tmp_path / "videos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_video(path, np.zeros((9, 48, 64, 3), np.uint8), 10)
    (tmp_path / "videos/a/0.mp4").write_text("not a video")
    return tmp_path / "videos"


def _add(file, videos):
    warnings.simplefilter("ignore")
    unreadable = UnreadableVideos(file)
    for video in videos:
        unreadable.add(video, f"{video} is bad")


def test_each_is_listed_once_by_many_processes(tmp_path):
    file = tmp_path / "new" / "list.jsonl"
    videos = [f"{i}.mp4" for i in range(30)]
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_add, args=(file, videos)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(UnreadableVideos(file).read()) == sorted(videos)
    assert len(file.read_text().splitlines()) == len(UnreadableVideos(file)) == 30


def test_a_report_is_a_warning_once(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for unreadable in (UnreadableVideos(), UnreadableVideos(tmp_path / "list.jsonl")):
        with pytest.warns(UserWarning, match="it is bad"):
            assert unreadable.add("x.mp4", "it is bad")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert not unreadable.add("x.mp4", "it is bad")
        assert unreadable.read() == {"x.mp4": "it is bad"}
    with warnings.catch_warnings():  # a resumed run goes on with the list
        warnings.simplefilter("error")
        assert not UnreadableVideos(tmp_path / "list.jsonl").add("x.mp4", "it is bad")
    (tmp_path / "list.jsonl").write_text('{"file": 1}')
    with pytest.raises(ValueError, match="is no list of unreadable videos"):
        UnreadableVideos(tmp_path / "list.jsonl").read()


@pytest.mark.filterwarnings("ignore:it is bad")
def test_a_list_that_is_torn_or_cannot_be_written_ends_no_run(tmp_path):
    file = tmp_path / "list.jsonl"
    file.write_text('{"video": "a.mp4", "error": "it is bad"}\n{"video": "b.mp4", "er')
    assert UnreadableVideos(file).read() == {"a.mp4": "it is bad"}
    unreadable = UnreadableVideos(file)
    assert unreadable.add("b.mp4", "it is bad")
    assert list(UnreadableVideos(file).read()) == ["a.mp4", "b.mp4"]
    (tmp_path / "folder").mkdir()
    unreadable = UnreadableVideos(tmp_path / "folder")
    with pytest.warns(UserWarning, match="The list of unreadable videos cannot be kept"):
        assert unreadable.add("a.mp4", "it is bad")
    assert not unreadable.add("a.mp4", "it is bad")


def test_check_command(folder, tmp_path, capsys):
    output = tmp_path / "out" / "unreadable.jsonl"
    arguments = ["check", "--data", str(folder), "--output_file", str(output), "--num_workers", "2"]
    with pytest.raises(SystemExit) as exit_info:
        ila_hf(arguments)
    assert exit_info.value.code == 1
    captured = capsys.readouterr()
    assert "4 videos read, 1 cannot be" in captured.out
    assert "Reading videos" in captured.err  # the progress bar
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["video"] for row in rows] == [str(folder / "a/0.mp4")]
    assert "Invalid data" in rows[0]["error"]
    (folder / "a/0.mp4").unlink()
    ila_hf([*arguments, "--num_frames", "0"])
    assert output.read_text() == ""
    for flags, message in (
        (["--num_frames", "-1"], "`num_frames` must be at least 0, got -1"),
        (["--data", str(folder / "gone")], "There is no folder or list"),
        (["--decode_seconds", "0"], "`decode_seconds` must be positive"),
    ):
        with pytest.raises(SystemExit) as exit_info:
            ila_hf([*arguments, *flags])
        assert exit_info.value.code == 2
        assert message in capsys.readouterr().err


def test_what_the_check_has_found_is_kept_when_it_is_ended(folder, tmp_path, monkeypatch):
    def interrupted(videos, *args):
        yield videos[0], "it is bad"
        raise KeyboardInterrupt

    monkeypatch.setattr(unreadable_videos, "check_videos", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ila_hf(["check", "--data", str(folder), "--output_file", str(tmp_path / "list.jsonl")])
    assert UnreadableVideos(tmp_path / "list.jsonl").read() == {str(folder / "a/0.mp4"): "it is bad"}


def _crash_or_hang(video, num_frames, limits):
    if "crash" in video:
        os._exit(11)
    if "hang" in video:
        time.sleep(1000)
    return None


def test_a_decoder_that_crashes_or_hangs_costs_its_file_only(monkeypatch):
    monkeypatch.setattr(unreadable_videos, "_read", _crash_or_hang)
    monkeypatch.setattr(worker_processes, "_GRACE", 1.0)
    videos = ["1", "crash 2", "3", "hang 4", "5", "crash 6"]
    results = dict(check_videos(videos, num_workers=2, limits=VideoLimits(decode_seconds=1)))
    assert {video for video, error in results.items() if error is None} == {"1", "3", "5"}
    assert results["crash 2"] == "Cannot read the video 'crash 2': its decoder crashes"
    assert results["hang 4"] == "Cannot read the video 'hang 4': it takes too long"
    assert "crashes" in results["crash 6"]


def test_check_needs_a_worker():
    with pytest.raises(ValueError, match="`num_workers` must be at least 1, got 0"):
        list(check_videos(["a.mp4"], num_workers=0))
    assert list(check_videos([])) == []
