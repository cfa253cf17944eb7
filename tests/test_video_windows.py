"""Sliding windows against every frame of the file, decoded and placed one by one."""

import functools
import http.server
import math
import subprocess
import sys
import threading
import weakref
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from video_files import STAMPS, VIDEOS, encode, pictures, remux

from ila_hf import VideoReadError, read_video
from ila_hf.demo.drawing import write_video
from ila_hf.video_seeking import SeekableVideo
from ila_hf.video_sources import VideoLimits
from ila_hf.video_windows import sliding_windows


def uneven_from_its_middle(path):
    """As `starts_late.mkv`, at uneven distances."""
    source = encode(path.with_name("whole_" + path.name), stamps=STAMPS, g="12", bf="2")
    return remux(source, path, lambda number, packet: number >= 5)


# Time stamps that do not lead to the frames, by the packets and only once frames are decoded
STAMPED_FILES = {
    "uneven_from_its_middle.mkv": uneven_from_its_middle,
    "uneven_refresh.mp4": lambda p: encode(p, stamps=STAMPS, g="12", **{"intra-refresh": "1"}),
}


@pytest.fixture(scope="module")
def make_video(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")

    def make(name):
        path = folder / name
        return path if path.exists() else {**VIDEOS, **STAMPED_FILES}[name](path)

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
        *STAMPED_FILES,
    ],
)
@pytest.mark.parametrize(("window", "stride"), [(0.7, None), (1.5, 0.4), (0.3, 2.1), (100, None)])
def test_windows_hold_the_frames_that_begin_in_them(make_video, name, window, stride):
    expected = naive_windows(make_video(name), Fraction(str(window)), Fraction(str(stride or window)))
    windows = list(sliding_windows(make_video(name), range, window, stride))
    assert len(windows) == len(expected)
    for (start, end, frames, _), (seconds, inside) in zip(windows, expected, strict=True):
        assert (start, end) == pytest.approx([float(second) for second in seconds])
        torch.testing.assert_close(frames, inside, rtol=0, atol=0)


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
    to_tensor, init = SeekableVideo.to_tensor, SeekableVideo.__init__
    monkeypatch.setattr(SeekableVideo, "to_tensor", lambda *a: made.append(1) or to_tensor(*a))
    monkeypatch.setattr(SeekableVideo, "__init__", lambda *a: opened.append(1) or init(*a))
    windows = sliding_windows(path, lambda num_frames: [num_frames - 1, 0], 1.0)
    first = next(windows)
    assert len(made) == 2
    torch.testing.assert_close(first.frames, read_video(path, [9, 0])[0], rtol=0, atol=0)
    made.clear()
    opened.clear()
    assert len(list(windows)) == 3
    assert (len(made), len(opened)) == (6, 0)


def test_windows_of_a_torchcodec_like_decoder(make_video):
    frames = read_video(make_video("closed_groups.mp4"))[0]

    class Decoder:
        metadata = SimpleNamespace(average_fps=10.0, width=64, height=48, duration_seconds=4.0)

        def __len__(self):
            return len(frames)

        def get_frames_at(self, indices):
            return SimpleNamespace(data=frames[indices])

    windows = list(sliding_windows(Decoder(), lambda n: [n - 1, 0], 1.5))
    assert [(window.start, window.end) for window in windows] == [(0.0, 1.5), (1.5, 3.0), (3.0, 4.0)]
    for window, numbers in zip(windows, ([14, 0], [29, 15], [39, 30]), strict=True):
        torch.testing.assert_close(window.frames, frames[numbers], rtol=0, atol=0)


def draw_four(num_frames):
    return torch.randint(num_frames, (4,)).tolist()


@pytest.mark.parametrize("name", ["mpeg4.avi", "uneven_from_its_middle.mkv"])
@pytest.mark.parametrize(("window", "stride"), [(1.5, 0.4), (0.3, 1.1)])
def test_files_without_an_index_give_what_the_sampler_draws(make_video, name, window, stride):
    drawn = []
    windows = list(
        sliding_windows(make_video(name), lambda n: drawn.append((n, draw_four(n))) or drawn[-1][1], window, stride)
    )
    parts = list(sliding_windows(make_video(name), range, window, stride))
    assert len(windows) == len(parts) > 3
    for got, part, (num_frames, numbers) in zip(windows, parts, drawn, strict=True):
        assert num_frames == len(part.frames)
        torch.testing.assert_close(got.frames, part.frames[numbers], rtol=0, atol=0)


@pytest.mark.parametrize(("window", "stride"), [(1.0, None), (2.0, 0.5)])
def test_files_without_an_index_are_decoded_twice_at_most(tmp_path, monkeypatch, window, stride):
    """Once to count the frames, once for all windows."""
    frames = np.tile(pictures(40), (3, 1, 1, 1))
    path = encode(tmp_path / "clip.avi", "mpeg4", frames=frames, g="12", bf="2")
    pictured = read_video(path)[0]
    decoded, made = [], []
    decode, to_tensor = SeekableVideo.decode_in_order, SeekableVideo.to_tensor
    monkeypatch.setattr(
        SeekableVideo, "decode_in_order", lambda self: (decoded.append(1) or frame for frame in decode(self))
    )

    def to_counted_tensor(*args):
        tensor = to_tensor(*args)
        made.append(weakref.ref(tensor))
        return tensor

    monkeypatch.setattr(SeekableVideo, "to_tensor", to_counted_tensor)
    length = round(10 * window)
    windows = 0
    for i, part in enumerate(sliding_windows(path, lambda n: [n - 1, 0], window, stride)):
        first = round(10 * i * (stride or window))
        expected = pictured[[min(first + length, 120) - 1, first]]
        torch.testing.assert_close(part.frames, expected, rtol=0, atol=0)
        windows += 1
        assert len(decoded) <= 120 + min(first + length, 120)
        assert sum(tensor() is not None for tensor in made) <= 10  # of the clips of five windows
    assert windows == (12 if stride is None else 21)
    assert len(decoded) == 240
    assert len(made) <= 2 * windows


def test_the_time_limit_is_for_a_part_of_a_file_without_an_index(make_video, monkeypatch):
    """A clock that goes on by a second whenever it is read: all 40 frames take longer than 20 seconds."""
    seconds = iter(range(10**6))
    monkeypatch.setattr("ila_hf.video_sources.time.monotonic", lambda: next(seconds))
    limits = VideoLimits(decode_seconds=20)
    with pytest.raises(VideoReadError, match="decode_seconds"):
        read_video(make_video("mpeg4.avi"), limits=limits)
    windows = list(sliding_windows(make_video("mpeg4.avi"), range, 0.5, limits=limits))
    assert [len(window.frames) for window in windows] == [5] * 8


def test_the_time_limit_is_for_each_look_for_an_index(make_video, monkeypatch):
    """Two of 15 seconds, which find none, are within 20."""
    now = [0.0]
    monkeypatch.setattr("ila_hf.video_sources.time.monotonic", lambda: now[0])

    def look(video):
        now[0] += 15

    for name in ("header_index", "packet_index"):
        monkeypatch.setattr(SeekableVideo, name, look)
    windows = list(sliding_windows(make_video("mpeg4.avi"), range, 0.5, limits=VideoLimits(decode_seconds=20)))
    assert [len(window.frames) for window in windows] == [5] * 8
    assert now == [30.0]


def test_the_interpreter_may_end_before_the_windows(make_video):
    code = (
        "import sys\nfrom ila_hf.video_windows import sliding_windows\n"
        "windows = sliding_windows(sys.argv[1], range, 1.0)\nprint(next(windows).end)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, make_video("closed_groups.mp4")], capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "1.0\n", "")


def test_numbers_of_numpy(make_video):
    path = make_video("closed_groups.mp4")
    windows = list(sliding_windows(path, range, np.float64(0.1)))
    assert [len(window.frames) for window in windows] == [1] * 40
    assert [window.start for window in sliding_windows(path, range, 2, np.float64(0.7))] == [0.0, 0.7, 1.4, 2.1]


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


@pytest.mark.parametrize(
    "name", ["closed_groups.mp4", "uneven.mkv", "uneven_refresh.mp4", "edit_list.mp4", "mpeg4.avi"]
)
@pytest.mark.parametrize(("window", "stride"), [(1.0, 0.25), (1.2, 0.3), (0.8, 0.6), (100, 25)])
def test_windows_that_share_frames(make_video, name, window, stride):
    """Of each of four parts of a window the frame that is shown in its middle; parts are those of the whole video."""
    path = make_video(name)
    pictures, metadata = read_video(path)
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.best("video")))
    if name == "mpeg4.avi":
        times, duration = [i / metadata.fps for i in range(len(pictures))], len(pictures) / metadata.fps
    else:
        times = [float((frame.pts - frames[0].pts) * frame.time_base) for frame in frames]
        duration = times[-1] + float(frames[-1].duration * frames[-1].time_base)
    windows = list(sliding_windows(path, lambda n: [0, n - 1], window, stride, shared_frames=4))
    if window > duration:
        torch.testing.assert_close(windows[0].frames, pictures[[0, -1]], rtol=0, atol=0)
        assert [found.num_new for found in windows] == [2]
        return
    step, parts = window / 4, 0
    for number, found in enumerate(windows):
        assert found.start == pytest.approx(number * stride)
        last = math.ceil(found.end / step - 1e-6)
        shown = [max(i for i, at in enumerate(times) if at <= (last - 3.5 + k) * step + 1e-6) for k in range(4)]
        torch.testing.assert_close(found.frames, pictures[shown], rtol=0, atol=0)
        assert found.num_new == last - parts
        parts = last
    assert windows[-1].end == pytest.approx(duration)
    assert all(found.num_new > 0 for found in windows)


def test_shared_frames_are_decoded_once(make_video, monkeypatch):
    """But for what is decoded again on the way, eight windows at a time."""
    asked = []
    frames_at = SeekableVideo.frames_at

    def counted(self, index, numbers):
        asked.extend(numbers)
        return frames_at(self, index, numbers)

    monkeypatch.setattr(SeekableVideo, "frames_at", counted)
    windows = list(sliding_windows(make_video("closed_groups.mp4"), range, 0.8, 0.1, shared_frames=8))
    assert len(windows) == 33
    assert sorted(asked) == list(range(40))
    for stride in (0.15, 1e-9):
        with pytest.raises(ValueError, match=rf"multiple of 0\.1 s, got `stride_seconds` of {stride}"):
            next(sliding_windows(make_video("closed_groups.mp4"), range, 0.8, stride, shared_frames=8))


@pytest.mark.parametrize("fps", [15, 24, 30])
def test_a_stride_of_one_frame_shares_frames_at_any_rate(tmp_path, fps):
    """Where seconds of a frame are no decimals."""
    shades = np.arange(20, dtype=np.uint8)[:, None, None, None] * 12
    write_video(tmp_path / "film.mp4", np.broadcast_to(shades, (20, 32, 32, 3)), fps)
    windows = list(sliding_windows(tmp_path / "film.mp4", range, 8 / fps, 1 / fps, shared_frames=8))
    assert len(windows) == 13
    for first, window in enumerate(windows):
        seen = window.frames.float().mean((1, 2, 3)) / 12
        assert seen.round().tolist() == list(range(first, first + 8))
        assert window.num_new == (8 if first == 0 else 1)
