"""Reading frames: the frames asked for, from every kind of source, or one clear error."""

import functools
import http.server
import io
import os
import threading
import time
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
import torch
from av.bitstream import BitStreamFilterContext
from av.stream import Disposition
from PIL import Image
from video_files import VIDEOS, add_audio, encode, pal, pictures, with_display_matrix

from ila_hf import VideoLimits, VideoReadError, read_video, video_reading
from ila_hf.demo.drawing import write_video
from ila_hf.video_seeking import MisplacedFrameError, plan_runs
from ila_hf.video_sources import VideoNotFoundError


@pytest.fixture(scope="session")
def video_of(tmp_path_factory):
    """Make one of `VIDEOS`, once."""
    folder = tmp_path_factory.mktemp("kinds")

    def get(name):
        path = folder / name
        return path if path.exists() else VIDEOS[name](path)

    return get


@functools.cache
def decoded_from_the_start(path):
    """All frames, upright, by the simplest means: (n, 3, H, W)."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        frames = [
            np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90).transpose(2, 0, 1)
            for frame in container.decode(stream)
        ]
    return torch.from_numpy(np.stack(frames))


@pytest.mark.parametrize("name", VIDEOS)
def test_frame_i_is_what_decoding_from_the_start_gives(video_of, name):
    path = video_of(name)
    expected = decoded_from_the_start(path)
    n = len(expected)
    fewer = {"one_frame": 1, "edit_list": 23, "vp8_hidden": 33, "starts_late": 29}
    assert n == fewer.get(path.stem, 40)
    assert len(torch.unique(expected.flatten(1), dim=0)) == n  # no frame can be taken for another
    for i in range(n):
        frames, metadata = read_video(path, [i])
        assert torch.equal(frames, expected[[i]]), i
        assert metadata.total_num_frames == n
    frames, metadata = read_video(path)
    assert torch.equal(frames, expected)
    assert metadata.video_backend == "pyav"
    assert (metadata.height, metadata.width) == expected.shape[-2:]
    assert metadata.rotation == {"rotated_90": 90, "rotated_180": 180, "rotated_270": 270}.get(path.stem, 0)
    for indices in ([n - 1, 0, n // 2, 0], [n // 3, min(n // 3 + 1, n - 1), n - 1]):
        assert torch.equal(read_video(path, indices)[0], expected[indices])


@pytest.mark.parametrize(
    ("matrix", "rotation", "mirrored"),
    [
        ((1, 0, 0, 1), 0, False),
        ((-1, 0, 0, -1), 180, False),
        ((0, -1, 1, 0), 90, False),
        ((0, 1, -1, 0), 270, False),
        ((-1, 0, 0, 1), 0, True),
        ((1, 0, 0, -1), 180, True),
        ((0, 1, 1, 0), 270, True),
        ((0, -1, -1, 0), 90, True),
        ((0, 0, 0, 0), 0, False),  # says nothing
        ((1, 1, -1, 1), 0, False),  # 45°
    ],
)
def test_frames_are_shown_as_the_display_matrix_says(tmp_path, matrix, rotation, mirrored):
    source = encode(tmp_path / "stored.mp4", g="12")
    stored, _ = read_video(source, [0, 7])
    frames, metadata = read_video(with_display_matrix(source, tmp_path / "turned.mp4", matrix), [0, 7])
    a, b, c, d = matrix if abs(matrix[0]) != abs(matrix[1]) else (1, 0, 0, 1)
    q, p = torch.meshgrid(torch.arange(stored.shape[2]), torch.arange(stored.shape[3]), indexing="ij")
    column, row = a * p + c * q, b * p + d * q
    column, row = column - column.min(), row - row.min()
    expected = torch.empty(2, 3, int(row.max()) + 1, int(column.max()) + 1, dtype=torch.uint8)
    expected[:, :, row, column] = stored
    assert torch.equal(frames, expected)
    assert (metadata.rotation, metadata.mirrored) == (rotation, mirrored)
    assert (metadata.height, metadata.width) == expected.shape[-2:]


@pytest.mark.parametrize("name", VIDEOS)
def test_time_of_a_file(video_of, name):
    """40 frames, 10 a second; one or 23 frames where there are no more, and uneven distances up to 11.7 seconds."""
    _, metadata = read_video(video_of(name), [0])
    seconds = {"one_frame": 0.1, "edit_list": 2.3, "uneven": 11.7, "bare": 1.6, "starts_late": 2.9}
    duration = seconds.get(video_of(name).stem, 4.0)
    assert metadata.duration == pytest.approx(duration, abs=0.55)
    assert metadata.fps == pytest.approx(metadata.total_num_frames / metadata.duration)


def test_time_of_a_tape(tmp_path):
    """FFmpeg states 60000 frames a second for raw DV."""
    path = encode(tmp_path / "tape.dv", "dvvideo", frames=pictures(5, 576, 720), setup=pal)
    _, metadata = read_video(path, [0])
    assert (metadata.total_num_frames, metadata.fps, metadata.duration) == (5, 25.0, 0.2)


def test_runs_of_frames():
    keys = [0, 10, 20, 30]
    assert plan_runs([0, 3, 9], keys) == [(0, [0, 3, 9])]
    assert plan_runs([5, 25], keys) == [(0, [5]), (20, [25])]
    assert plan_runs([8, 11, 25], keys) == [(0, [8, 11]), (20, [25])]  # 10 is nearer than a seek is worth
    assert plan_runs(range(40), keys) == [(0, list(range(40)))]
    with pytest.raises(MisplacedFrameError):
        plan_runs([2], [5])


@pytest.mark.parametrize("name", ["closed_groups.mp4", "intra_refresh.mp4", "bare.h264", "no_stamps.mp4"])
def test_a_sampler_draws_once(video_of, name):
    calls = []

    def sampler(metadata):
        calls.append(metadata.total_num_frames)
        return [len(calls)]

    frames, metadata = read_video(video_of(name), sampler)
    assert calls == [40]
    assert metadata.frames_indices == [1]
    assert torch.equal(frames, decoded_from_the_start(video_of(name))[[1]])


class CountingFile(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, size=-1):
        content = super().read(size)
        self.count += len(content)
        return content

    def readinto(self, buffer):
        size = super().readinto(buffer)
        self.count += size
        return size


def test_no_more_of_a_file_is_read_than_the_frames_take(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (300, 96, 128, 3), dtype=np.uint8)
    file = CountingFile(encode(tmp_path / "long.mp4", frames=noise, g="10").read_bytes())
    size = len(file.getvalue())
    read_video(file, [155])
    assert 0 < file.count < 0.2 * size


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


def test_a_wrong_frame_count_in_the_header(tmp_path):
    """The header is in front and lists 40 frames; the file ends before."""
    path = encode(tmp_path / "clip.mp4", g="8", container={"movflags": "faststart"})
    with av.open(str(path)) as container:
        assert container.streams.video[0].frames == 40
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    path.write_bytes(path.read_bytes()[: sorted(ends)[24]])
    seen = []

    def last(metadata):
        seen.append(metadata.total_num_frames)
        return [metadata.total_num_frames - 1]

    frames, metadata = read_video(path, last)
    assert metadata.total_num_frames == len(decoded_from_the_start(path)) < 40
    assert torch.equal(frames, decoded_from_the_start(path)[-1:])
    assert seen[0] == 40


def test_a_damaged_part_costs_its_frames_only(tmp_path):
    path = encode(tmp_path / "clip.avi", "mjpeg", "yuvj420p")
    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    content = bytearray(path.read_bytes())
    start = content.index(b"\xff\xd8", packets[7][0])
    content[start : start + packets[7][1]] = bytes(packets[7][1])
    whole, _ = read_video(path)
    frames, metadata = read_video(bytes(content), lambda metadata: range(metadata.total_num_frames))
    assert metadata.total_num_frames == 39
    assert torch.equal(frames, whole[[i for i in range(40) if i != 7]])


def test_frames_that_change_their_size_on_the_way(tmp_path):
    small = encode(tmp_path / "small.ts", g="12")
    large = encode(tmp_path / "large.ts", frames=pictures(height=96, width=128), g="12")
    frames, metadata = read_video(small.read_bytes() + large.read_bytes())
    assert frames.shape == (metadata.total_num_frames, 3, 48, 64)
    assert metadata.total_num_frames > 40


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


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_layouts_and_types_of_decoders(channels_last, dtype):
    frames = torch.randint(0, 256, (5, 3, 48, 64), dtype=torch.uint8)

    class Decoder:
        metadata = SimpleNamespace(average_fps=10.0, width=64, height=48, duration_seconds=0.5)

        def __len__(self):
            return len(frames)

        def get_frames_at(self, indices):
            data = frames[indices].permute(0, 2, 3, 1) if channels_last else frames[indices]
            return SimpleNamespace(data=data if dtype == torch.uint8 else data / 255)

    assert torch.equal(read_video(Decoder(), [4, 2])[0], frames[[4, 2]])


def test_decoders_of_torchcodec(numbered_video):
    """What `datasets` yields for a column of videos."""
    try:
        decoders = pytest.importorskip("torchcodec.decoders", reason="torchcodec is not installed")
        decoder = decoders.VideoDecoder(str(numbered_video))
    except RuntimeError:
        pytest.skip("torchcodec does not find FFmpeg's libraries")
    frames, metadata = read_video(decoder, [11, 3])
    assert frame_numbers(frames) == [11, 3]
    assert (metadata.total_num_frames, metadata.fps) == (40, 10.0)
    last = decoders.VideoDecoder(str(numbered_video), dimension_order="NHWC")
    assert torch.equal(read_video(last, [11, 3])[0], frames)


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


def audio_with_a_cover(path):
    cover = io.BytesIO()
    Image.new("RGB", (32, 32)).save(cover, "PNG")
    with av.open(str(path), "w", format="mp4") as container:
        audio, silence = add_audio(container)
        picture = container.add_stream("png")
        picture.width, picture.height, picture.pix_fmt = 32, 32, "rgb24"
        picture.disposition = Disposition.attached_pic
        container.mux(audio.encode(silence))
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts = picture, 0, 0
        container.mux(packet)
        container.mux(audio.encode())


def truncated(path):
    write_video(path, np.zeros((10, 48, 64, 3), np.uint8), 10)
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("not a video"), "Invalid data"),
        (lambda path: path.write_bytes(b""), "it is empty"),
        (truncated, "Invalid data"),
        (audio_only, "no video stream"),
        (audio_with_a_cover, "no video stream"),
    ],
    ids=["text", "empty", "truncated", "audio", "cover"],
)
def test_files_that_are_not_videos(tmp_path, make, message):
    path = tmp_path / "broken.mp4"
    make(path)
    with pytest.raises(VideoReadError, match=rf"Cannot read the video '.*broken.mp4': .*({message})"):
        read_video(path)
    with pytest.raises(VideoReadError, match=r"Cannot read the video '<\d+ bytes>'"):
        read_video(path.read_bytes())


def test_frames_too_large_for_the_memory(video_file, monkeypatch):
    """Of one video, as whatever else it cannot be read for; an error of the code stays one."""
    monkeypatch.setattr(video_reading, "_read_file", lambda *arguments: torch.empty(2**60))
    with pytest.raises(VideoReadError, match=f"Cannot read the video '{video_file}': .*DefaultCPUAllocator"):
        read_video(video_file)
    monkeypatch.setattr(video_reading, "_read_file", lambda *arguments: torch.zeros(2) @ torch.zeros(3))
    with pytest.raises(RuntimeError, match="size"):
        read_video(video_file)


def test_missing_files_and_other_schemes(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_video(tmp_path / "missing.mp4")
    with pytest.raises(VideoNotFoundError, match=r"'.*missing\.mp4': there is no such file"):
        read_video(str(tmp_path / "missing.mp4"))
    with pytest.raises(VideoReadError, match="must be http, https or hf, not file"):
        read_video("file:///etc/passwd")
    with pytest.raises(VideoReadError, match="must be http, https or hf, not concat"):
        read_video("concat://a.mp4|b.mp4")
    with pytest.raises(VideoReadError, match=f"'{tmp_path}': it is a folder without images"):
        read_video(tmp_path)
    with pytest.raises(VideoReadError, match="there is neither a path nor bytes"):
        read_video({"path": None, "bytes": None})


@pytest.mark.parametrize("source", [5, ["a.mp4"], []])
def test_what_is_no_source(source):
    with pytest.raises(
        VideoReadError, match=f"it is no path, URL, bytes or file, but of the type {type(source).__name__}"
    ):
        read_video(source)


def test_a_pattern_in_a_name_means_itself(tmp_path):
    for name, size in (("a%03d.png", 40), ("a000.png", 20), ("a001.png", 20)):
        Image.fromarray(np.zeros((size, size, 3), np.uint8)).save(tmp_path / name)
    assert read_video(tmp_path / "a%03d.png")[0].shape == (1, 3, 40, 40)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_without_a_writer_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(VideoReadError, match="it is not a file"):
        read_video(tmp_path / "pipe.mp4")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"#EXTM3U\n/etc/hosts\n", "a playlist, which names other files"),
        (b"ffconcat version 1.0\nfile clip.mp4\n", "a playlist"),
        (b"<MPD></MPD>", "XML: a playlist, which names other files, or the error of a server"),
        (b"v=0\nc=IN IP4 1.1.1.1\n", "a playlist"),
        (b"\xef\xbb\xbf\n <!DOCTYPE html><html>", "an HTML page: the address shows a page, not the file itself"),
        (b"<html lang=en>", "an HTML page"),
        (b"<!-- saved -->\n" + b"\n" * 70 + b"<html>", "an HTML page"),
        (b'<?xml version="1.0"?>\n<!DOCTYPE html>', "an HTML page"),
        (b'<?xml version="1.0"?><Error>', "XML"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "a pointer of Git LFS: `git lfs pull`",
        ),
        (b'{"error": "no such clip"}', "JSON"),
        (b"%PDF-1.7\n", "a PDF"),
        (b"PK\x03\x04\x14", "an archive: unpack it"),
    ],
)
def test_files_of_other_kinds_are_called_by_their_kind(tmp_path, content, kind):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    for source in (path, content):
        with pytest.raises(VideoReadError, match=f"it is no video but {kind}"):
            read_video(source)


def test_recordings_of_cameras_begin_with_any_byte(tmp_path):
    """The first four bytes of an .m2ts are a time."""
    path = encode(tmp_path / "clip.m2ts", g="12", container={"mpegts_m2ts_mode": "1"})
    content = bytearray(path.read_bytes())
    for first in (b"<", b" <"):
        content[: len(first)] = first
        path.write_bytes(content)
        assert read_video(path, [0])[1].total_num_frames == 40


def test_orientation_that_key_frames_tell(tmp_path):
    """As messages in H.264 (SEI), which stand before key frames only."""
    source = encode(tmp_path / "stored.h264", g="12", bf="0")
    for turn, expected in (
        ("rotate=180", lambda frames: frames.flip(2, 3)),
        ("flip=horizontal", lambda frames: frames.flip(3)),
        ("rotate=90", lambda frames: frames.rot90(1, (2, 3))),
    ):
        with av.open(str(source)) as read, av.open(str(tmp_path / "turned.mp4"), "w") as write:
            stream = write.add_stream_from_template(read.streams.video[0])
            bits = BitStreamFilterContext(f"h264_metadata=display_orientation=insert:{turn}", read.streams.video[0])
            for number, packet in enumerate(read.demux(video=0)):
                for changed in bits.filter(packet) if packet.size else ():
                    changed.pts = changed.dts = number * 100
                    changed.time_base = Fraction(1, 1000)
                    changed.stream = stream
                    write.mux(changed)
        frames, metadata = read_video(tmp_path / "turned.mp4")
        assert len(frames) == metadata.total_num_frames == 40
        assert torch.equal(frames, expected(read_video(source)[0]))


@pytest.mark.parametrize("entry", [{"path": None, "bytes": b"content"}, {"bytes": b"content"}, {"path": "file"}])
def test_rows_of_undecoded_videos(numbered_video, entry):
    contents = {b"content": numbered_video.read_bytes(), "file": str(numbered_video)}
    entry = {name: contents.get(value) for name, value in entry.items()}
    assert frame_numbers(read_video(entry, [11, 3])[0]) == [11, 3]


def test_files_opened_as_text_and_files_without_seek(numbered_video):
    with (
        numbered_video.open(encoding="latin-1") as file,
        pytest.raises(VideoReadError, match="open it in binary mode"),
    ):
        read_video(file)
    stream = SimpleNamespace(read=lambda: numbered_video.read_bytes())
    assert frame_numbers(read_video(stream, [9])[0]) == [9]


def test_no_frames(numbered_video):
    with pytest.raises(IndexError, match="No frames are asked for"):
        read_video(numbered_video, [])


# ------------------------------------------------------------------------------------------------------------- limits


def test_limits_of_size_and_time(numbered_video, video_of):
    with pytest.raises(VideoReadError, match=r"frames of 64 × 48 pixels exceed `max_pixels` of 3071"):
        read_video(numbered_video, [0], limits=VideoLimits(max_pixels=64 * 48 - 1))
    read_video(numbered_video, [0], limits=VideoLimits(max_pixels=64 * 48))
    for name in ("one_key_frame.mp4", "h264.ts", "bare.h264"):
        with pytest.raises(VideoReadError, match="it takes longer than `decode_seconds` of 1e-06"):
            read_video(video_of(name), limits=VideoLimits(decode_seconds=1e-6))
    with pytest.raises(ValueError, match="`decode_seconds` must be positive, or None for no limit, got 0"):
        VideoLimits(decode_seconds=0)
    read_video(numbered_video, [0], limits=VideoLimits(None, None, None))


@pytest.mark.parametrize("name", ["bare.h264", "bare.mjpeg", "h264.mkv", "mpeg2.mpg"])
def test_files_in_which_no_frame_comes(tmp_path, video_of, monkeypatch, name):
    """A parser would collect the zeros of such a file in memory, all of them."""
    path = tmp_path / name
    path.write_bytes(video_of(name).read_bytes()[:-600])
    os.truncate(path, 1 << 30)
    monkeypatch.setattr("ila_hf.video_seeking._MAX_GAP", 1 << 22)
    for source in (path, path.open("rb")):
        with pytest.raises(VideoReadError, match=r"no frame comes in 4\d{6} bytes of it"):
            read_video(source)
    monkeypatch.setattr("ila_hf.video_seeking._MAX_GAP", 1 << 40)
    with pytest.raises(VideoReadError, match=r"it takes longer than `decode_seconds` of 0\.2"):
        read_video(path, limits=VideoLimits(decode_seconds=0.2))


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the path says."""

    content = b""

    def do_GET(self):
        if (
            "%" in self.path
            and not self.path.startswith("/to/")
            and self.path != "/%C3%BC%E5%BD%B1%20a%20b.mp4?q=%C3%A9%20%26"
        ):
            self.send_error(404)
            return
        if self.path == "/trickle":
            self.wfile.write(b"HTTP/1.0 200 OK\r\n")
            for i in range(100):
                self.wfile.write(b"X-%d: 1\r\n" % i)
                time.sleep(0.05)
            return
        if self.path == "/length":
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: many\r\n\r\n")
            return
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        self.send_response(200)
        if self.path != "/unknown":
            self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        if self.path == "/slow":
            for byte in self.content:
                self.wfile.write(bytes([byte]))
                time.sleep(0.05)
        else:
            self.wfile.write(self.content[: len(self.content) // 2 if self.path == "/short" else None])

    def log_message(self, *args):
        pass


@pytest.fixture
def server(numbered_video, monkeypatch):
    monkeypatch.setattr(Handler, "content", numbered_video.read_bytes())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_redirects_stay_on_http(server):
    assert frame_numbers(read_video(f"{server}/to/{server}/clip", [7])[0]) == [7]
    for target in ("ftp://127.0.0.1/clip.mp4", "file:///etc/hosts", "gopher://127.0.0.1/"):
        with pytest.raises(VideoReadError, match=r"(?i)unknown url type|not allowed"):
            read_video(f"{server}/to/{target}")


def test_addresses_that_are_not_ascii(server):
    for address in ("ü影 a b.mp4?q=é %26", "%C3%BC%E5%BD%B1%20a%20b.mp4?q=%C3%A9%20%26"):
        assert frame_numbers(read_video(f"{server}/{address}", [7])[0]) == [7]
        assert frame_numbers(read_video(f"{server}/to/{server}/{address}", [7])[0]) == [7]


def test_limits_of_a_download(server, numbered_video):
    size = numbered_video.stat().st_size
    for path in ("clip", "unknown"):
        assert frame_numbers(read_video(f"{server}/{path}", [7], limits=VideoLimits(max_url_bytes=size))[0]) == [7]
        with pytest.raises(VideoReadError, match=f"larger than `max_url_bytes` of {size - 1}"):
            read_video(f"{server}/{path}", limits=VideoLimits(max_url_bytes=size - 1))
    for path in ("slow", "trickle"):
        with pytest.raises(VideoReadError, match=r"it takes longer than `decode_seconds` of 0\.5"):
            read_video(f"{server}/{path}", limits=VideoLimits(decode_seconds=0.5))
    with pytest.raises(VideoReadError, match="bytes before the file"):
        read_video(f"{server}/short")
    for url in (f"{server}/length", "http://[bad", f"{server}/to/http://[bad", f"{server}/%00", f"http://{'a' * 70}/"):
        with pytest.raises(VideoReadError, match="Cannot read the video 'http://"):
            read_video(url)
