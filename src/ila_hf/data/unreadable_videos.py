# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Videos that cannot be read: the list of them, and a command that finds them ahead of time.

    ila-hf check --data videos/train --output_file unreadable.jsonl --num_workers 8

Every file is read in a worker process, as a test of the model would read it. A worker that dies or hangs costs its
file a line in the list, not the scan.
"""

import argparse
import json
import tempfile
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from tqdm import tqdm

from ..sampling import sample_frame_indices
from ..video_reading import read_video
from ..video_sources import VideoLimits, VideoReadError
from .worker_processes import WorkerError, map_in_processes


class UnreadableVideos:
    """Videos that could not be read, each reported once, with its cause.

    Args:
        file: Where they are listed, as json lines of `video` and `error`; processes and data loader workers share it,
            and a resumed run goes on with it. Default: a temporary file, made when there is something to list.
    """

    def __init__(self, file: str | Path | None = None):
        name = f"unreadable_videos_{uuid.uuid4().hex}.jsonl"
        self.file = Path(tempfile.gettempdir()) / name if file is None else Path(file)
        self._known: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        """Video to cause, in the order of the reports.

        Raises:
            ValueError: If the file is no such list.
        """
        if self.file.exists():
            lines = [line for line in self.file.read_text(encoding="utf-8").split("\n") if line.strip()]
            rows = []
            for line in lines:
                with suppress(json.JSONDecodeError):  # a line that a kill has torn
                    rows.append(json.loads(line))
            is_list = all(isinstance(row, dict) and {"video", "error"} <= set(row) for row in rows)
            if not is_list or (lines and not rows):
                raise ValueError(f"{str(self.file)!r} is no list of unreadable videos.")
            self._known |= {row["video"]: row["error"] for row in rows}
        return dict(self._known)

    def add(self, video: str, error: str) -> bool:
        """Report a video, unless it has been reported before; returns whether it is new.

        A list that cannot be written ends no run either: it is said, and each process goes on by itself.
        """
        if video in self._known:
            return False
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{self.file}.lock"):
                if video in self.read():
                    return False
                is_torn = self.file.exists() and self.file.read_bytes()[-1:] not in (b"", b"\n")
                with self.file.open("a", encoding="utf-8") as lines:
                    lines.write("\n" * is_torn + json.dumps({"video": video, "error": error}) + "\n")
        except (OSError, ValueError) as failure:
            warnings.warn(f"The list of unreadable videos cannot be kept: {failure}", stacklevel=2)
        self._known[video] = error
        warnings.warn(error, stacklevel=2)
        return True

    def __len__(self) -> int:
        return len(self.read())


def _read(video: Any, num_frames: int | None, limits: VideoLimits) -> str | None:
    """None if the video can be read, else the cause."""

    def sample(metadata: Any) -> Sequence[int]:
        every = range(metadata.total_num_frames)
        return every if num_frames is None else sample_frame_indices(len(every), num_frames)

    try:
        read_video(video, sample, limits=limits)
    except VideoReadError as error:
        return str(error)
    return None


def check_videos(
    videos: Sequence[str], num_workers: int = 1, num_frames: int | None = 8, limits: VideoLimits | None = None
) -> Iterator[tuple[str, str | None]]:
    """Read every video in worker processes; yields each with the cause if it cannot be read, as they are done.

    Args:
        videos: Paths or http(s) URLs.
        num_workers: Processes, at least 1.
        num_frames: T, the frames to read of each, as in a test with sparse sampling. None: all.
        limits: See [`VideoLimits`].

    Raises:
        ValueError: For fewer than one worker.
        RuntimeError: If workers do not start.
    """
    limits = limits or VideoLimits()
    read = partial(_read, num_frames=num_frames, limits=limits)
    for index, error in map_in_processes(read, videos, num_workers, limits.decode_seconds):
        if isinstance(error, WorkerError):
            error = f"Cannot read the video {videos[index]!r}: {error}"
        yield videos[index], error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf check`."""
    limits = VideoLimits()
    parser.add_argument("--data", required=True, help="folder of videos, or a csv, json, jsonl or txt list")
    parser.add_argument("--output_file", required=True, help="json lines of the videos that cannot be read, and why")
    parser.add_argument("--video_root", help="folder of the videos of a list; default: that of the list")
    parser.add_argument("--allow_outside_root", action="store_true", help="a list may name files outside that folder")
    parser.add_argument("--num_workers", type=int, default=1, help="processes")
    parser.add_argument("--num_frames", type=int, default=8, help="frames to read of each video; 0: all")
    parser.add_argument("--decode_seconds", type=float, default=limits.decode_seconds, help="limit for one video")
    parser.add_argument("--max_pixels", type=int, default=limits.max_pixels, help="limit of a frame's width · height")
    parser.add_argument("--max_url_bytes", type=int, default=limits.max_url_bytes, help="limit of a file behind a URL")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf check`; exits with 1 if videos cannot be read.

    Raises:
        ValueError, OSError: If there is nothing to check, or for an argument that cannot be.
    """
    from .unlabelled_videos import find_unlabelled
    from .video_data import load_videos

    if arguments.num_frames < 0:
        raise ValueError(f"`num_frames` must be at least 0, got {arguments.num_frames}.")
    if Path(arguments.data).is_dir():  # in whatever order of splits and classes
        videos = find_unlabelled(arguments.data)
    else:
        videos = load_videos(
            arguments.data, video_root=arguments.video_root, allow_outside_root=arguments.allow_outside_root
        )["video"]
    limits = VideoLimits(arguments.decode_seconds, arguments.max_pixels, arguments.max_url_bytes)
    output = Path(arguments.output_file)
    output.parent.mkdir(parents=True, exist_ok=True)
    videos = sorted(set(videos))
    count = 0
    results = check_videos(videos, arguments.num_workers, arguments.num_frames or None, limits)
    # Written as they are found: what has been read is not lost when the scan is ended
    with output.open("w", encoding="utf-8") as lines:
        for video, error in tqdm(results, total=len(videos), desc="Reading videos", unit="video"):
            if error is not None:
                count += 1
                lines.write(json.dumps({"video": video, "error": error}) + "\n")
                lines.flush()
    print(f"{len(videos)} videos read, {count} cannot be: {output}")
    if count:
        raise SystemExit(1)
