"""Reading frames: the frames asked for, from every kind of source, or one clear error."""

import functools
import http.server
import threading
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch

from ila_hf import VideoReadError, read_video
from ila_hf.motion_videos import write_video


def frame_numbers(frames):
    """Which frames of `numbered_video` these are."""
    return (frames.float().mean((1, 2, 3)) / 6).round().int().tolist()


def test_all_frames_and_metadata(numbered_video):
    frames, metadata = read_video(numbered_video)
    assert frames.shape == (40, 3, 48, 64)
    assert frames.dtype == torch.uint8
    assert frame_numbers(frames) == list(range(40))
    assert (metadata.total_num_frames, metadata.fps, metadata.width, metadata.height) == (40, 10.0, 64, 48)
    assert metadata.duration == 4.0
    assert metadata.frames_indices == list(range(40))


@pytest.mark.parametrize("indices", [[0], [39], [3, 17, 25], [25, 3, 3, 39, 0]])
def test_frames_come_as_asked(numbered_video, indices):
    frames, metadata = read_video(numbered_video, lambda metadata: indices)
    assert frame_numbers(frames) == indices
    assert metadata.frames_indices == indices


def test_bytes_and_file_objects(numbered_video):
    expected, _ = read_video(numbered_video, lambda metadata: [5, 6])
    content = numbered_video.read_bytes()
    with numbered_video.open("rb") as file:
        for source in (content, file, str(numbered_video)):
            assert torch.equal(read_video(source, lambda metadata: [5, 6])[0], expected)


def test_urls(numbered_video):
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=numbered_video.parent)
    handler.log_message = lambda *args: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert frame_numbers(read_video(f"{url}/{numbered_video.name}", lambda metadata: [7])[0]) == [7]
        with pytest.raises(VideoReadError, match=r"missing.mp4': HTTP Error 404"):
            read_video(f"{url}/missing.mp4")
    finally:
        server.shutdown()
        server.server_close()


def test_webm_states_no_frame_count(tmp_path, numbered_video):
    path = tmp_path / "clip.webm"
    frames = np.broadcast_to(6 * np.arange(12, dtype=np.uint8)[:, None, None, None], (12, 48, 64, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 0
    read, metadata = read_video(path)
    assert metadata.total_num_frames == 12
    assert frame_numbers(read) == list(range(12))


def test_torchcodec_like_decoders(numbered_video):
    frames, _ = read_video(numbered_video)

    class Decoder:
        metadata = SimpleNamespace(average_fps=10.0, width=64, height=48, duration_seconds=4.0)

        def __len__(self):
            return len(frames)

        def get_frames_at(self, indices):
            return SimpleNamespace(data=frames[indices])

    read, metadata = read_video(Decoder(), lambda metadata: [4, 2])
    assert frame_numbers(read) == [4, 2]
    assert metadata.video_backend == "torchcodec"


def test_frames_that_do_not_exist(numbered_video):
    with pytest.raises(IndexError, match=r"has 40 frames; there are no frames \[40, -1\]"):
        read_video(numbered_video, lambda metadata: [0, 40, -1])


def audio_only(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def truncated(path):
    write_video(path, np.zeros((10, 48, 64, 3), np.uint8), 10)
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("not a video"), "Invalid data"),
        (lambda path: path.write_bytes(b""), "Invalid data|End of file"),
        (truncated, "Invalid data"),
        (audio_only, "no video stream"),
    ],
    ids=["text", "empty", "truncated", "audio"],
)
def test_files_that_are_not_videos(tmp_path, make, message):
    path = tmp_path / "broken.mp4"
    make(path)
    with pytest.raises(VideoReadError, match=rf"Cannot read the video '.*broken.mp4': .*({message})"):
        read_video(path)
    with pytest.raises(VideoReadError, match=r"Cannot read the video '<\d+ bytes>'"):
        read_video(path.read_bytes())


def test_missing_files_and_other_schemes(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(VideoReadError, match="must be http or https, not file"):
        read_video("file:///etc/passwd")
    with pytest.raises(VideoReadError, match=r"'http://127\.0\.0\.1/a b\.mp4': URL can't contain control characters"):
        read_video("http://127.0.0.1/a b.mp4")
    with pytest.raises(VideoReadError, match=f"'{tmp_path}'"):
        read_video(tmp_path)
