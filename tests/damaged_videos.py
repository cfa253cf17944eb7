"""Files that are damaged in every way, and a process that reads them all."""

import json
import os
import time
from pathlib import Path

import av
import numpy as np
import psutil
from video_files import VIDEOS, add_audio, encode, pictures

from ila_hf import VideoLimits, VideoReadError, read_video, sample_frame_indices


SOURCES = ("closed_groups.mp4", "hevc.mp4", "av1.mp4", "h264.mkv", "vp9.webm", "vp8.webm", "h264.ts", "mpeg4.avi")


def _flip(content, rng, count, span=None):
    content = bytearray(content)
    for position in rng.integers(0, span or len(content), count):
        content[position] ^= 1 << int(rng.integers(8))
    return bytes(content)


def _zero(content, rng):
    start, length = int(rng.integers(len(content))), int(rng.integers(1, len(content) // 4))
    return content[:start] + bytes(len(content[start : start + length])) + content[start + length :]


def make_damaged_videos(folder):
    """Write them; returns their names."""
    rng = np.random.default_rng(0)
    files = {}
    for name in SOURCES:
        content = VIDEOS[name](Path(folder) / name).read_bytes()
        (Path(folder) / name).unlink()
        stem, suffix = name.split(".")
        for i in range(10):
            files[f"{stem}_cut_{i}.{suffix}"] = content[: len(content) * i // 10]
            files[f"{stem}_bit_{i}.{suffix}"] = _flip(content, rng, 1)
            files[f"{stem}_bits_{i}.{suffix}"] = _flip(content, rng, int(rng.integers(10, 200)))
            files[f"{stem}_head_{i}.{suffix}"] = _flip(content, rng, 4, span=300)
            files[f"{stem}_zero_{i}.{suffix}"] = _zero(content, rng)
    files |= _special(Path(folder))
    for name, content in files.items():
        (Path(folder) / name).write_bytes(content)
    return sorted(files)


def _special(folder):
    audio = folder / "audio.mp4"
    with av.open(str(audio), "w") as output:
        stream, silence = add_audio(output)
        output.mux(stream.encode(silence))
        output.mux(stream.encode())
    one = encode(folder / "one.mp4", frames=pictures(1)).read_bytes()
    h264 = VIDEOS["closed_groups.mp4"](folder / "whole.mp4").read_bytes()
    (folder / "whole.mp4").unlink()
    # Width and height in the sample entry (ISO 14496-12, 12.1.3), and in the frames of Motion JPEG (ITU T.81, B.2.2)
    entry = h264.index(b"avc1", h264.index(b"stsd")) + 28
    jpeg = encode(folder / "jpeg.avi", "mjpeg", "yuvj420p").read_bytes()
    (folder / "jpeg.avi").unlink()
    pieces = jpeg.split(b"\xff\xc0\x00\x11\x08")
    return {
        "empty.mp4": b"",
        "text.mp4": b"This is not a video.\n" * 100,
        "zeros.mp4": bytes(10_000),
        "audio.mp4": audio.read_bytes(),
        "one.mp4": one,
        "wide_entry.mp4": h264[:entry] + b"\xff\xff\xff\xff" + h264[entry + 4 :],
        "wide_frames.avi": b"\xff\xc0\x00\x11\x08".join(
            [pieces[0], *(b"\xff\xff\xff\xff" + piece[4:] for piece in pieces[1:])]
        ),
        "many_frames.mp4": _many_frames(h264),
    }


def _many_frames(content):
    """The header lists four milliards of frames (ISO 14496-12, 8.7.3.2)."""
    count = content.index(b"stsz") + 12
    return content[:count] + b"\xff\xff\xff\xff" + content[count + 4 :]


def read_damaged_videos(folder, names, result):
    """Read them all, several times; writes what became of each, and what it cost."""
    outcomes, process = {}, psutil.Process()
    limits = VideoLimits(decode_seconds=20)
    costs = []
    for _ in range(1 + -(-1000 // len(names))):
        for name in names:
            Path(result).with_suffix(".last").write_text(name)
            start = time.monotonic()
            try:
                frames, _ = read_video(
                    os.path.join(folder, name),
                    lambda metadata: sample_frame_indices(metadata.total_num_frames, 8),
                    limits=limits,
                )
                outcome = list(frames.shape)
            except VideoReadError as error:
                outcome = str(error)
            outcomes[name] = outcome, time.monotonic() - start
        costs.append((process.memory_info().rss, process.num_fds()))
    Path(result).write_text(json.dumps({"outcomes": outcomes, "costs": costs}))
