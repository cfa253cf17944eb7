"""Frames as they come: their times and rate, what is dropped, sources that end badly."""

import functools
import http.server
import itertools
import tempfile
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from video_files import VIDEOS

from ila_hf import VideoReadError, read_video
from ila_hf.inference import live_frames
from ila_hf.inference.live_video import is_live, to_frame


@pytest.mark.parametrize("name", ["closed_groups.mp4", "uneven.mkv", "rotated_90.mp4", "vp9.webm", "bare.h264"])
def test_all_frames_of_a_file(tmp_path, name):
    path = VIDEOS[name](tmp_path / name)
    found = list(live_frames(path))
    pictures, metadata = read_video(path)
    torch.testing.assert_close(torch.stack([frame.pixels for frame in found]), pictures, rtol=0, atol=0)
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    if frames[0].pts is not None:
        expected = [float((frame.pts - frames[0].pts) * frame.time_base) for frame in frames]
    else:
        expected = [i / metadata.fps for i in range(len(pictures))]
    assert [frame.time for frame in found] == pytest.approx(expected)
    assert {frame.dropped for frame in found} == {0}


@pytest.mark.parametrize("rate", [0.5, 2, 3, 4, 10, 25])
def test_the_rate(numbered_video, rate):
    """Of 40 frames, 10 a second: the first at or after every part of a second."""
    found = [round(frame.pixels.float().mean().item() / 6) for frame in live_frames(numbered_video, rate)]
    wanted = [next((i for i in range(40) if i / 10 >= part / rate - 1e-9), None) for part in range(int(4 * rate) + 1)]
    assert found == sorted({i for i in wanted if i is not None})


def test_iterables():
    arrays = [np.full((4, 6, 3), i, np.uint8) for i in range(4)]
    for frames in (arrays, map(Image.fromarray, arrays), (torch.tensor(a).permute(2, 0, 1) for a in arrays)):
        found = list(live_frames(frames, source_fps=8))
        assert [frame.time for frame in found] == [0, 0.125, 0.25, 0.375]
        assert [tuple(frame.pixels.shape) for frame in found] == [(3, 4, 6)] * 4
        assert [frame.pixels.float().mean().item() for frame in found] == [0, 1, 2, 3]

    def slow():
        for array in arrays:
            yield array
            time.sleep(0.02)

    times = [frame.time for frame in live_frames(slow())]
    assert times[0] == 0
    assert all(later - earlier >= 0.02 for earlier, later in itertools.pairwise(times))


def test_what_comes_too_fast_is_dropped_and_counted():
    """The consumer holds the first frame until all have come, then gets the last."""
    came = threading.Event()

    def camera():
        for i in range(10):
            yield np.full((4, 6, 3), i, np.uint8)
            if i == 0:
                first_taken.wait(10)
        came.set()

    first_taken = threading.Event()
    frames = live_frames(camera(), drop_late=True, source_fps=10)
    first = next(frames)
    first_taken.set()
    assert came.wait(10)
    rest = list(frames)
    assert (first.time, first.dropped) == (0, 0)
    assert [(frame.time, frame.dropped) for frame in rest] == [(0.9, 8)]


def test_a_consumer_in_time_misses_nothing():
    taken = [threading.Event() for _ in range(6)]

    def camera():
        for i in range(6):
            yield np.full((4, 6, 3), i, np.uint8)
            assert taken[i].wait(10)

    found = []
    for i, frame in enumerate(live_frames(camera(), drop_late=True, source_fps=10)):
        found.append((frame.pixels[0, 0, 0].item(), frame.dropped))
        taken[i].set()
    assert found == [(i, 0) for i in range(6)]


@pytest.mark.parametrize("drop_late", [False, True])
def test_an_error_comes_after_what_was_read(drop_late):
    def camera():
        yield np.zeros((4, 6, 3), np.uint8)
        raise OSError("the cable")

    frames = live_frames(camera(), drop_late=drop_late)
    with pytest.raises(OSError, match="the cable"):
        assert len([next(frames)]) == 1 and next(frames)  # noqa: PT018 - the error is of the second


def test_a_closed_stream_stops_its_source():
    """Also where it is read in a thread."""
    for drop_late in (False, True):
        ended = threading.Event()

        def camera(ended=ended):
            try:
                while True:
                    yield np.zeros((4, 6, 3), np.uint8)
                    time.sleep(0.01)
            finally:
                ended.set()

        frames = live_frames(camera(), drop_late=drop_late)
        next(frames)
        frames.close()
        assert ended.is_set()  # a camera can be opened again at once


def test_devices_and_addresses(numbered_video):
    """A device of FFmpeg's that is on every machine; a file behind an address, read as it comes."""
    found = [frame.time for frame in live_frames("testsrc=size=64x48:rate=10:duration=1", 5, False, "lavfi")]
    assert found == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=numbered_video.parent)
    handler.log_message = lambda *args: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{numbered_video.name}"
        found = torch.stack([frame.pixels for frame in live_frames(address)])
        torch.testing.assert_close(found, read_video(numbered_video)[0], rtol=0, atol=0)
        rotated = VIDEOS["rotated_90.mp4"](numbered_video.parent / "rotated_90.mp4")
        found = torch.stack(
            [frame.pixels for frame in live_frames(address.replace(numbered_video.name, rotated.name))]
        )
        torch.testing.assert_close(found, read_video(rotated)[0], rtol=0, atol=0)
        content = bytearray(numbered_video.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 40] = bytes(40)
        (numbered_video.parent / "damaged.mp4").write_bytes(content)
        assert len(list(live_frames(address.replace(numbered_video.name, "damaged.mp4")))) > 20
        with pytest.raises(VideoReadError, match=r"nothing.mp4': .*404"):
            next(live_frames(address.replace(numbered_video.name, "nothing.mp4")))
        server.shutdown()


@pytest.mark.parametrize(
    ("source", "live"),
    [
        ("/dev/video0", True),
        ("rtsp://camera/1", True),
        ("udp://239.0.0.1:1234", True),
        ("https://site/live.m3u8?key=1", True),
        ("https://site/clip.mp4", False),
        ("hf://datasets/a/b/clip.mp4", False),
        ("clip.mp4", False),
        (b"bytes", False),
    ],
)
def test_what_is_live(source, live):
    assert is_live(source) == live


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="of Linux: a folder of files beside the devices")
def test_a_file_beside_the_devices_is_none():
    with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=".mp4") as file:
        assert not is_live(file.name)


def test_frames_are_copies():
    """Of what OpenCV gives: one array for all frames, with the colours in reverse."""
    array = np.zeros((4, 6, 3), np.uint8)

    def frames():
        for number in range(3):
            array[:] = [number, 0, 0]
            yield array[..., ::-1]

    found = list(live_frames(frames(), source_fps=8))
    assert [frame.pixels[:, 0, 0].tolist() for frame in found] == [[0, 0, 0], [0, 0, 1], [0, 0, 2]]


def test_what_is_refused(tmp_path, video_file):
    for name in ("frames_per_second", "source_fps"):
        with pytest.raises(ValueError, match=f"`{name}` must be a positive number, got 0"):
            live_frames(video_file, **{name: 0})
    with pytest.raises(ValueError, match="must be a camera, an address, a file or an iterable of frames, got int"):
        live_frames(5)
    with pytest.raises(VideoReadError, match=r"no such file"):
        next(live_frames(tmp_path / "missing.mp4"))
    with pytest.raises(VideoReadError, match=r"'/dev/video99': .*No such file"):
        next(live_frames("/dev/video99"))
    text = tmp_path / "text.mp4"
    text.write_text("no video " * 100)
    with pytest.raises(VideoReadError, match=r"text.mp4"):
        next(live_frames(text))
    with pytest.raises(ValueError, match="must be an array, a tensor or a PIL image, got str"):
        next(live_frames(iter(["a.jpg"])))
    for frame in (np.zeros((4, 6), np.uint8), np.zeros((4, 6, 3)), np.zeros((1, 4, 6, 3), np.uint8)):
        with pytest.raises(ValueError, match=r"A frame must be \(H, W, 3\)"):
            to_frame(frame)
