"""Sliding windows against every frame of the file, decoded and placed one by one."""

import functools
import http.server
import math
import threading
from fractions import Fraction

import av
import pytest
import torch
from video_files import VIDEOS, encode

from ila_hf import VideoReadError, read_video
from ila_hf.video_seeking import SeekableVideo
from ila_hf.video_windows import sliding_windows


@pytest.fixture(scope="module")
def make_video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")

    def make(name):
        path = folder / name
        return path if path.exists() else VIDEOS[name](path)

    return make


def naive_windows(path, window, stride):
    """Seconds and frames of every window, from a list of all frames and their times."""
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.best("video")))
    times = [(frame.pts - frames[0].pts) * frame.time_base for frame in frames]
    duration = times[-1] + frames[-1].duration * frames[-1].time_base
    pictures = read_video(path)[0]
    windows = []
    for i in range(math.ceil(duration / stride)):
        start = i * stride
        inside = [number for number, time in enumerate(times) if start <= time < start + window]
        shown = [number for number, time in enumerate(times) if time <= start][-1:]
        windows.append(((start, min(start + window, duration)), pictures[inside or shown]))
        if start + window >= duration:
            break
    return windows


@pytest.mark.parametrize(
    "name",
    [
        "closed_groups.mp4",
        "open_groups.mp4",
        "fragments.mp4",
        "uneven.mp4",
        "uneven.mkv",
        "edit_list.mp4",
        "rotated_90.mp4",
        "one_frame.mp4",
        "vp8_hidden.webm",
        "vp9.webm",
        "h264.ts",
        "jump.mp4",
        "intra_refresh.mp4",
    ],
)
@pytest.mark.parametrize(("window", "stride"), [(0.7, None), (1.5, 0.4), (0.3, 2.1), (100, None)])
def test_windows_hold_the_frames_that_begin_in_them(make_video, name, window, stride):
    expected = naive_windows(make_video(name), Fraction(str(window)), Fraction(str(stride or window)))
    windows = list(sliding_windows(make_video(name), range, window, stride))
    assert len(windows) == len(expected)
    for (start, end, frames), (seconds, pictures) in zip(windows, expected, strict=True):
        assert (start, end) == pytest.approx([float(second) for second in seconds])
        torch.testing.assert_close(frames, pictures, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["mpeg4.avi", "no_stamps.mp4", "bare.h264"])
def test_without_time_stamps_the_rate_of_frames_tells(make_video, name):
    pictures, metadata = read_video(make_video(name))
    windows = list(sliding_windows(make_video(name), range, 10 / metadata.fps))
    torch.testing.assert_close(torch.cat([window.frames for window in windows]), pictures, rtol=0, atol=0)
    assert [len(window.frames) for window in windows] == [10] * (len(pictures) // 10)
    assert windows[-1].end == pytest.approx(len(pictures) / metadata.fps)


def test_numbers(make_video):
    """40 frames, a tenth of a second each."""
    path = make_video("closed_groups.mp4")
    windows = list(sliding_windows(path, range, 1.5))
    assert [(window.start, window.end, len(window.frames)) for window in windows] == [
        (0.0, 1.5, 15),
        (1.5, 3.0, 15),
        (3.0, 4.0, 10),
    ]
    assert [window.start for window in sliding_windows(path, range, 2, 1)] == [0.0, 1.0, 2.0]
    assert [len(window.frames) for window in sliding_windows(path, range, 0.1)] == [1] * 40
    # Shorter than a frame: that which is shown
    assert [len(window.frames) for window in sliding_windows(path, range, 0.05)] == [1] * 80


def test_only_what_a_clip_needs_is_decoded_and_kept(tmp_path, monkeypatch):
    path = encode(tmp_path / "clip.mp4", g="10", bf="0")
    made, opened = [], []
    to_tensor, init = SeekableVideo._to_tensor, SeekableVideo.__init__
    monkeypatch.setattr(SeekableVideo, "_to_tensor", lambda *a: made.append(1) or to_tensor(*a))
    monkeypatch.setattr(SeekableVideo, "__init__", lambda *a: opened.append(1) or init(*a))
    windows = sliding_windows(path, lambda num_frames: [num_frames - 1, 0], 1.0)
    first = next(windows)
    assert len(made) == 2
    torch.testing.assert_close(first.frames, read_video(path, [9, 0])[0], rtol=0, atol=0)
    made.clear()
    opened.clear()
    assert len(list(windows)) == 3
    assert (len(made), len(opened)) == (6, 0)


def test_urls_and_bytes_are_loaded_once(make_video):
    path = make_video("uneven.mkv")
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            requests.append(args)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=path.parent))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/{path.name}"
        from_url = list(sliding_windows(url, range, 2.0))
        assert len(requests) == 1
        with pytest.raises(VideoReadError, match=r"none.mp4': HTTP Error 404"):
            next(sliding_windows(url.replace(path.name, "none.mp4"), range, 2.0))
    finally:
        server.shutdown()
        server.server_close()
    expected = list(sliding_windows(path, range, 2.0))
    for windows in (from_url, list(sliding_windows(path.read_bytes(), range, 2.0))):
        assert [window[:2] for window in windows] == [window[:2] for window in expected]
        assert all(torch.equal(a.frames, b.frames) for a, b in zip(windows, expected, strict=True))


@pytest.mark.parametrize(
    ("source", "window", "stride", "message"),
    [
        ("missing.mp4", 1.0, None, "missing.mp4': there is no such file"),
        ("missing.mp4", 0, None, "`window_seconds` must be a positive number of seconds, got 0"),
        ("missing.mp4", math.nan, None, "`window_seconds` must be a positive number of seconds, got nan"),
        ("missing.mp4", "2", None, "`window_seconds` must be a positive number of seconds, got '2'"),
        ("missing.mp4", 1.0, -0.5, "`stride_seconds` must be a positive number of seconds, got -0.5"),
        (torch.zeros(9, 3, 8, 8), 1.0, None, "needs a file: a path, URL or bytes. Got Tensor"),
    ],
)
def test_bad_arguments(source, window, stride, message):
    with pytest.raises(ValueError, match=message):
        next(sliding_windows(source, range, window, stride))
