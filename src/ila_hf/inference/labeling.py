# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Labels or features of a collection of videos, in shards that survive: `ila-hf label` and `ila-hf embed`.

    ila-hf label --model M --videos DIR --output_dir O
    accelerate launch -m ila_hf label --model M --videos list.csv --output_dir O

A bad file is a row with its error. The same call goes on where it was ended; see [`ResultFolder`]. How the files are
divided into shards does not depend on the number of processes, each of which takes shards of its own.
"""

import argparse
import glob
import hashlib
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing, nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from ..data.video_data import load_unlabelled
from ..data.worker_processes import WorkerError, map_in_processes
from ..pipeline_ila import ItemsAhead, best_classes, score_function
from ..video_processing_ila import ILAVideoProcessor
from ..video_reading import read_video
from ..video_sources import VideoLimits, VideoReadError, is_url
from .result_folder import FORMATS, ResultFolder, Row, Shard


# A process may wait for the others for as long as their videos take
_PATIENCE = timedelta(days=30)


class ClipOfFile:
    """Reads what the model sees of a file, in any process.

    Args:
        processor: Of the model.
        limits: What a file may cost.
    """

    def __init__(self, processor: ILAVideoProcessor, limits: VideoLimits | None = None):
        self.processor, self.limits = processor, limits or VideoLimits()

    def __call__(self, path: str) -> tuple[np.ndarray | None, int | None, str | None]:
        """Views (V, T, 3, S, S), the number of frames of the file, and the error, one of the first and the last."""
        try:
            frames, metadata = read_video(path, self.processor.sample_frames, self.limits)
            pixel_values = self.processor(frames, do_sample_frames=False, return_tensors="pt")["pixel_values"]
        except (VideoReadError, ValueError, MemoryError) as error:
            return None, None, str(error) or type(error).__name__
        views = pixel_values if pixel_values.ndim == 5 else pixel_values[0]
        return views.numpy(), metadata.total_num_frames, None


class VideoLabeler:
    """Labels, or features, of videos, as a callable for engines such as Ray Data: columns in, columns out.

    Args:
        model: Folder or Hub id of a classification model with its processor.
        top_k: How many classes are named, at most.
        embed: Return features (E,), normalised and averaged over views, instead of classes.
        batch_size: Videos that the model takes at a time.
        num_frames: T. Default: as in the configuration of the model.
        device: Default: CUDA where there is one.

    Raises:
        ValueError: For numbers below 1.
    """

    def __init__(
        self,
        model: str,
        top_k: int = 5,
        embed: bool = False,
        batch_size: int = 8,
        num_frames: int | None = None,
        device: str | torch.device | None = None,
    ):
        for name, value in {"top_k": top_k, "batch_size": batch_size, "num_frames": num_frames}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = AutoModelForVideoClassification.from_pretrained(model).to(device).eval()
        self.processor = AutoVideoProcessor.from_pretrained(model)
        self.processor.num_frames = self.model.config.num_frames if num_frames is None else num_frames
        self.top_k, self.embed, self.batch_size = top_k, embed, batch_size
        self.read = ClipOfFile(self.processor)
        self._scores_of = score_function(None, self.model.config.problem_type)

    def fingerprint(self) -> dict[str, Any]:
        """What the rows depend on, but for the list of videos: weights, processor and arguments."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
        config = self.model.config.to_dict()
        for name in ("transformers_version", "_name_or_path", "auto_map", "custom_pipelines", "architectures"):
            config.pop(name, None)
        processor = {name: value for name, value in self.processor.to_dict().items() if name != "auto_map"}
        own = {"what": "features" if self.embed else "labels", "top_k": None if self.embed else self.top_k}
        return {"weights": digest.hexdigest(), "config": config, "processor": processor, **own}

    @property
    def schema(self) -> pa.Schema:
        """Of the rows, as Parquet has them."""
        if self.embed:
            results = {"features": pa.list_(pa.float32(), self.model.config.projection_dim)}
        else:
            results = {"labels": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
        return pa.schema({"path": pa.string(), **results, "num_frames": pa.int64(), "error": pa.string()})

    @torch.inference_mode()
    def results(self, clips: Sequence[tuple[np.ndarray | None, int | None, str | None]]) -> list[Row]:
        """Rows of what [`ClipOfFile`] has read."""
        empty: Row = {name: None for name in self.schema.names if name != "path"}
        rows = [{**empty, "num_frames": num_frames, "error": error} for _, num_frames, error in clips]
        good = [i for i, (views, _, _) in enumerate(clips) if views is not None]
        for begin in range(0, len(good), self.batch_size):
            part = good[begin : begin + self.batch_size]
            pixel_values = torch.stack([torch.from_numpy(clips[i][0]) for i in part])  # (B, V, T, 3, S, S)
            pixel_values = pixel_values.to(self.model.device, self.model.dtype)
            for i, result in zip(part, self._of_views(pixel_values), strict=True):
                rows[i] |= result
        return rows

    def _of_views(self, pixel_values: torch.Tensor) -> list[Row]:
        views = pixel_values.unbind(1)
        if self.embed:
            features = [self.model.get_video_features(view, return_dict=True).pooler_output for view in views]
            normal = nn.functional.normalize(torch.stack(features, dim=1).float(), dim=-1).mean(1)
            return [{"features": row} for row in nn.functional.normalize(normal, dim=-1).cpu().tolist()]
        logits = [self.model(view, return_dict=True).logits for view in views]
        scores = self._scores_of(torch.stack(logits, dim=1)).mean(1).cpu()
        best = (best_classes(row, self.model.config.id2label, self.top_k) for row in scores)
        return [{f"{key}s": [each[key] for each in row] for key in ("label", "score")} for row in best]

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Add the results to a batch of columns, of which `path` names the files; the others stay as they are."""
        rows = self.results([self.read(str(path)) for path in batch["path"]])
        return {**batch, **{name: [row[name] for row in rows] for name in self.schema.names if name != "path"}}


def label_videos(
    videos: Sequence[str],
    output_dir: str | Path,
    labeler: VideoLabeler,
    num_workers: int = 1,
    shard_size: int = 256,
    file_format: str = "parquet",
    retry_failed: bool = False,
) -> ResultFolder:
    """Write a row for every video, in as many processes as accelerate has started.

    Args:
        videos: Paths or addresses. What a folder has rows of already is passed over; the list may grow.
        output_dir: Folder of the results, see [`ResultFolder`].
        labeler: Makes the rows.
        num_workers: Processes that read videos, for each process that runs the model. A file that crashes its reader
            costs no other.
        shard_size: Videos of a shard: what a kill may cost each process.
        file_format: "parquet" or "jsonl".
        retry_failed: Read the files again whose rows are errors.

    Raises:
        ValueError: For a folder of other results, with the difference, and for numbers below 1.
        OSError: If a shard cannot be written. Those that are complete stay.
    """
    state = PartialState(timeout=_PATIENCE)
    folder = ResultFolder(output_dir, labeler.fingerprint(), labeler.schema, file_format)
    with folder.in_use() if state.is_main_process else nullcontext():
        if state.is_main_process:
            folder.plan(videos, shard_size)
        state.wait_for_everyone()
        _complete(folder, labeler, num_workers, retry_failed, state)
        state.wait_for_everyone()
    return folder


def _complete(
    folder: ResultFolder, labeler: VideoLabeler, num_workers: int, retry_failed: bool, state: PartialState
) -> None:
    """The shards of this process."""
    # By their place in the plan: a process that looks later finds other shards complete
    own = folder.shards()[state.process_index :: state.num_processes]
    todo = [shard for shard in own if folder.is_missing(shard, retry_failed)]
    failed, rows = 0, {shard.file: dict[int, Row]() for shard in todo}
    count = sum(len(shard.paths) for shard in todo)
    with ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=count, unit="video", disable=not state.is_local_main_process))
        numbered_rows = stack.enter_context(closing(_rows(todo, labeler, num_workers)))
        for shard, numbered in numbered_rows:
            found = rows[shard.file]
            found |= numbered
            failed += sum(row["error"] is not None for row in numbered.values())
            progress.update(len(numbered))
            progress.set_postfix(errors=failed)
            if len(found) == len(shard.paths):
                folder.write(shard, [row for _, row in sorted(rows.pop(shard.file).items())])


def _rows(
    shards: Sequence[Shard], labeler: VideoLabeler, num_workers: int
) -> Generator[tuple[Shard, dict[int, Row]], None, None]:
    """Rows by their number in a shard, some at a time, as they are read.

    What goes through the model together are neighbours in the shard, whatever is read first: rows do not depend on the
    number of processes, to the last bit.
    """
    groups = [
        (shard, range(begin, min(begin + labeler.batch_size, len(shard.paths))))
        for shard in shards
        for begin in range(0, len(shard.paths), labeler.batch_size)
    ]
    places = [(group, i) for group, (_, numbers) in enumerate(groups) for i in numbers]
    paths = [groups[group][0].paths[i] for group, i in places]
    came: dict[int, dict[int, Any]] = {}
    clips = map_in_processes(labeler.read, paths, num_workers, labeler.read.limits.decode_seconds)
    with closing(ItemsAhead(clips, 2 * labeler.batch_size)) as read:
        for index, clip in read:
            if isinstance(clip, WorkerError):
                clip = None, None, f"Cannot read the video {paths[index]!r}: {clip}"
            group, place = places[index]
            shard, numbers = groups[group]
            came.setdefault(group, {})[place] = clip
            if len(came[group]) == len(numbers):
                clips_of_group = came.pop(group)
                found = labeler.results([clips_of_group[i] for i in numbers])
                yield shard, {i: {"path": shard.paths[i], **row} for i, row in zip(numbers, found, strict=True)}


def find_videos(source: str) -> list[str]:
    """The videos of a folder, of a list (csv, json, jsonl, txt), or that a pattern such as `clips/**/*.mp4` matches.

    Raises:
        FileNotFoundError, ValueError: If there are none.
    """
    if not is_url(source) and glob.has_magic(source) and not Path(source).exists():
        found = sorted(path for path in glob.glob(source, recursive=True) if Path(path).is_file())
        if not found:
            raise FileNotFoundError(f"There is no file that matches {source!r}.")
        return found
    return list(dict.fromkeys(load_unlabelled(source, allow_outside_root=True)["video"]))


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that `ila-hf label` and `ila-hf embed` have in common."""
    parser.add_argument("--model", required=True, help="folder or Hub id of an ILA classification model")
    parser.add_argument("--videos", required=True, help="folder, csv, json, jsonl or txt list, or a pattern in quotes")
    parser.add_argument("--output_dir", required=True, help="folder of the results; the same again goes on")
    parser.add_argument("--num_frames", type=int, help="frames of a clip (default: the model's)")
    parser.add_argument("--batch_size", type=int, default=8, help="videos at a time (default: %(default)s)")
    parser.add_argument("--num_workers", type=int, default=1, help="processes that read (default: %(default)s)")
    parser.add_argument("--shard_size", type=int, default=256, help="videos of a file (default: %(default)s)")
    parser.add_argument("--file_format", choices=FORMATS, default=FORMATS[0], help="(default: %(default)s)")
    parser.add_argument("--retry_failed", action="store_true", help="read the files again that could not be read")


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
    videos = find_videos(arguments.videos)
    state = PartialState(timeout=_PATIENCE)
    options |= {"batch_size": arguments.batch_size, "num_frames": arguments.num_frames, "device": state.device}
    labeler = VideoLabeler(arguments.model, **options)
    names = ("num_workers", "shard_size", "file_format", "retry_failed")
    folder = label_videos(videos, arguments.output_dir, labeler, **{name: getattr(arguments, name) for name in names})
    if state.is_main_process:
        errors = [row["error"] for row in folder.rows(["error"])]
        failed = sum(error is not None for error in errors)
        print(f"{len(errors)} videos, {failed} of them could not be read: {arguments.output_dir}")
