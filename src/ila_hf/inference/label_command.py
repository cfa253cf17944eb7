# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The command `ila-hf label`, and what `ila-hf embed` has in common with it; what they do is in labeling.py.

    ila-hf label --model M --videos DIR --output_dir O
    accelerate launch -m ila_hf label --model M --videos list.csv --output_dir O
    ila-hf label --model M --videos DIR --output_dir O --engine ray --num_actors 2

What takes long to import is imported when the processes that read have begun to do so, too.
"""

import argparse
import gc
import os
from collections.abc import Sequence
from typing import Any

from ..data.worker_processes import start_fork_server
from .result_folder import FORMATS


ENGINES = ("local", "ray")


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that `ila-hf label` and `ila-hf embed` have in common."""
    parser.add_argument("--model", required=True, help="folder or Hub id of an ILA classification model")
    parser.add_argument("--videos", required=True, help="folder, csv, json, jsonl or txt list, or a pattern in quotes")
    parser.add_argument("--output_dir", required=True, help="folder of the results; the same again goes on")
    parser.add_argument("--num_frames", type=int, help="frames of a clip (default: the model's)")
    parser.add_argument("--batch_size", type=int, default=8, help="videos at a time (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that read (default: %(default)s)")
    parser.add_argument("--shard_size", type=int, default=256, help="videos of a file, at most (default: %(default)s)")
    parser.add_argument("--file_format", choices=FORMATS, default=FORMATS[0], help="(default: %(default)s)")
    parser.add_argument("--retry_failed", action="store_true", help="read the files again that could not be read")
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[0], help="(default: %(default)s)")
    parser.add_argument("--num_actors", type=int, help="of Ray: actors that have the model (default: 1)")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf label`."""
    add_common_arguments(parser)
    parser.add_argument("--top_k", type=int, default=5, help="classes of a video (default: %(default)s)")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf label`.

    Raises:
        ValueError, OSError: As [`label_videos`] and [`find_videos`].
    """
    run_with(arguments, top_k=arguments.top_k)


def run_with(arguments: argparse.Namespace, **options: Any) -> None:
    """Run either command; the options are of [`VideoLabeler`]."""
    if arguments.engine == "ray" and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise ValueError("--engine ray has processes of its own: call it without `accelerate launch`.")
    if arguments.engine == "local":
        if arguments.num_actors is not None:
            raise ValueError("`num_actors` is for --engine ray.")
        start_fork_server(f"{__package__}.clip_of_file")
    gc.disable()  # imports make objects that stay, so many that to look for cycles among them takes long
    import torch
    from accelerate import PartialState

    from .labeling import PATIENCE, VideoLabeler, find_videos, label_videos

    gc.enable()
    videos = find_videos(arguments.videos)
    options |= {name: getattr(arguments, name) for name in ("batch_size", "num_frames", "num_workers")}
    if arguments.engine == "ray":
        _run_with_ray(videos, arguments, options)
        return
    state = PartialState(timeout=PATIENCE)
    labeler = VideoLabeler(arguments.model, **options, device=state.device)
    names = ("shard_size", "file_format", "retry_failed")
    threads = torch.get_num_threads()
    if state.device.type == "cpu":
        torch.set_num_threads(max(threads - arguments.num_workers, 1))  # those who read take the others
    try:
        folder = label_videos(
            videos, arguments.output_dir, labeler, **{name: getattr(arguments, name) for name in names}
        )
    finally:
        torch.set_num_threads(threads)
    if state.is_main_process:
        errors = [row["error"] is not None for row in folder.rows(["error"])]
        _tell(len(errors), sum(errors), arguments.output_dir)


def _run_with_ray(videos: Sequence[str], arguments: argparse.Namespace, options: dict[str, Any]) -> None:
    import pyarrow.compute as pc

    from .ray_labeling import label_with_ray

    if arguments.retry_failed or arguments.file_format != "parquet":
        raise ValueError("With --engine ray the rows are Parquet, and what failed cannot be tried again.")
    if arguments.num_actors is not None:
        options["num_actors"] = arguments.num_actors
    options["shard_size"] = arguments.shard_size
    rows = label_with_ray(videos, arguments.output_dir, arguments.model, **options)
    _tell(rows.count_rows(), rows.count_rows(filter=pc.field("error").is_valid()), arguments.output_dir)


def _tell(count: int, failed: int, folder: str) -> None:
    print(f"{count} videos, {failed} of them could not be read: {folder}")
