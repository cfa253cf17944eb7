# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Labels or features of a collection of videos, in shards that survive.

A bad file is a row with its error. The same call goes on where it was ended; see [`ResultFolder`]. Each process takes
shards of its own, which are small enough that there is one for each. For clusters see ray_labeling.py.
"""

import glob
import hashlib
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch import nn
from tqdm import tqdm
from transformers import AutoModelForVideoClassification, AutoVideoProcessor

from ..checks_ila import has_plain_weights
from ..data.run_folders import in_use
from ..data.unlabelled_videos import find_unlabelled
from ..data.video_lists import as_text
from ..data.worker_processes import WorkerError, map_in_processes
from ..pipeline_ila import ItemsAhead, best_classes, score_function
from ..video_sources import is_url
from .clip_of_file import ClipOfFile
from .result_folder import ResultFolder, Row, Shard


# A process may wait for the others for as long as their videos take
PATIENCE = timedelta(days=30)


class VideoLabeler:
    """Labels, or features, of videos, as a callable for engines such as Ray Data: columns in, columns out.

    The model is fused, where it can be.

    Readers are processes of their own, which import the main script: it needs `if __name__ == "__main__":`.

    Args:
        model: Folder or Hub id of a classification model with its processor.
        top_k: How many classes are named, at most.
        embed: Return features (E,), normalised and averaged over views, instead of classes.
        batch_size: Videos that the model takes at a time.
        num_frames: T. Default: as in the configuration of the model.
        device: Default: CUDA where there is one.
        num_workers: Processes that read videos. A file that crashes its reader costs no other.

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
        num_workers: int = 1,
    ):
        numbers = {"top_k": top_k, "batch_size": batch_size, "num_frames": num_frames, "num_workers": num_workers}
        for name, value in numbers.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = AutoModelForVideoClassification.from_pretrained(model).to(device).eval()
        self._fingerprint_of_weights = _digest(self.model)
        if has_plain_weights(self.model):
            self.model.fuse()
        self.processor = AutoVideoProcessor.from_pretrained(model)
        self.processor.num_frames = self.model.config.num_frames if num_frames is None else num_frames
        self.top_k, self.embed, self.batch_size, self.num_workers = top_k, embed, batch_size, num_workers
        self.read = ClipOfFile(self.processor)
        self._scores_of = score_function(None, self.model.config.problem_type)

    def fingerprint(self) -> dict[str, Any]:
        """What the rows depend on, but for the list of videos: weights, processor and arguments."""
        config = self.model.config.to_dict()
        for name in ("transformers_version", "_name_or_path", "auto_map", "custom_pipelines", "architectures"):
            config.pop(name, None)
        processor = {name: value for name, value in self.processor.to_dict().items() if name != "auto_map"}
        own = {"what": "features" if self.embed else "labels", "top_k": None if self.embed else self.top_k}
        return {"weights": self._fingerprint_of_weights, "config": config, "processor": processor, **own}

    @property
    def schema(self) -> pa.Schema:
        """Of the rows, as Parquet has them."""
        if self.embed:
            results = {"features": pa.list_(pa.float32(), self.model.config.projection_dim)}
        else:
            results = {"labels": pa.list_(pa.string()), "scores": pa.list_(pa.float32())}
        return pa.schema({"path": pa.string(), **results, "num_frames": pa.int64(), "error": pa.string()})

    def rows(self, groups: Sequence[Sequence[str]]) -> Generator[tuple[int, list[Row]], None, None]:
        """Rows of groups of paths, with the number of the group, as they are done.

        What goes through the model together are the videos of a group, whatever is read first: with as many threads,
        rows do not depend on the number of processes.
        """
        places = [(group, i) for group, paths in enumerate(groups) for i in range(len(paths))]
        paths = [groups[group][i] for group, i in places]
        came: dict[int, dict[int, Any]] = {}
        ended = threading.Event()
        clips = map_in_processes(self.read, paths, self.num_workers, self.read.limits.decode_seconds, ended)
        read = ItemsAhead(clips, 2 * self.batch_size)
        try:
            for index, clip in read:
                if isinstance(clip, WorkerError):
                    clip = None, None, f"Cannot read the video {paths[index]!r}: {clip}"
                group, place = places[index]
                came.setdefault(group, {})[place] = clip
                if len(came[group]) == len(groups[group]):
                    clips_of_group = came.pop(group)
                    found = self.results([clips_of_group[i] for i in range(len(groups[group]))])
                    named = zip(groups[group], found, strict=True)
                    yield group, [{"path": as_text(path), **row} for path, row in named]
        finally:
            ended.set()  # a thread may be waiting for a file
            read.close()

    @torch.inference_mode()
    def results(self, clips: Sequence[tuple[np.ndarray | None, int | None, str | None]]) -> list[Row]:
        """Results of what [`ClipOfFile`] has read."""
        empty: Row = {name: None for name in self.schema.names if name != "path"}
        if self.embed:  # pyarrow writes no missing list of a fixed size before version 25, but one of missing elements
            empty["features"] = [None] * self.model.config.projection_dim
        rows = [{**empty, "num_frames": number, "error": error and as_text(error)} for _, number, error in clips]
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

    def __call__(self, batch: Any) -> Any:
        """Add the results to columns, of which `path` names the files; the others stay as they are.

        Args:
            batch: A dict of columns, or an arrow table, as which the result comes, too.
        """
        paths = list(map(str, batch["path"].to_pylist() if isinstance(batch, pa.Table) else batch["path"]))
        found = dict(self.rows(list(_parts(paths, self.batch_size))))
        rows = [row for _, part in sorted(found.items()) for row in part]
        fields = [field for field in self.schema if field.name != "path"]
        if not isinstance(batch, pa.Table):
            return {**batch, **{field.name: [row[field.name] for row in rows] for field in fields}}
        for field in fields:
            batch = batch.append_column(field, pa.array([row[field.name] for row in rows], field.type))
        return batch


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        for part in _plain_tensors(tensor):
            digest.update(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _plain_tensors(tensor: Any) -> Iterator[Any]:
    """What a tensor of torchao is made of; others themselves."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _plain_tensors(getattr(tensor, name))


def _parts(paths: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    return (paths[begin : begin + size] for begin in range(0, len(paths), size))


def label_videos(
    videos: Sequence[str],
    output_dir: str | Path,
    labeler: VideoLabeler,
    shard_size: int = 256,
    file_format: str = "parquet",
    retry_failed: bool = False,
) -> ResultFolder:
    """Write a row for every video, in as many processes as accelerate has started.

    Args:
        videos: Paths, which are made absolute, or addresses. What a folder has rows of already is passed over; the
            list may grow, and of an earlier list only what shares a shard with this one is done.
        output_dir: Folder of the results, see [`ResultFolder`].
        labeler: Makes the rows.
        shard_size: Videos of a shard, at most: what a kill may cost each process. Fewer where otherwise one of several
            processes would have none.
        file_format: "parquet" or "jsonl".
        retry_failed: Read the files again whose rows are errors.

    Raises:
        ValueError: For a folder of other results, with the difference, and for numbers below 1.
        OSError: If a shard cannot be written. Those that are complete stay.
    """
    state = PartialState(timeout=PATIENCE)
    # A folder may fill while the processes begin: the list is that of one of them
    (videos,) = broadcast_object_list([absolute_paths(videos)])
    folder = ResultFolder(output_dir, labeler.fingerprint(), labeler.schema, file_format)
    with in_use(folder.folder) if state.is_main_process else nullcontext():
        if state.is_main_process:
            if state.num_processes > 1:
                new = len(set(videos).difference(*(shard.paths for shard in folder.shards())))
                batches = max(new // (state.num_processes * labeler.batch_size), 1)  # of a process
                shard_size = min(shard_size, batches * labeler.batch_size)
            folder.plan(videos, shard_size)
        state.wait_for_everyone()
        _complete(folder, videos, labeler, retry_failed, state)
    return folder


def _complete(
    folder: ResultFolder, videos: Sequence[str], labeler: VideoLabeler, retry_failed: bool, state: PartialState
) -> None:
    """The shards of this process; and wait for the others."""
    shards = folder.shards()
    asked = set(videos)  # shards of an earlier list alone are left

    def to_do(index: int) -> dict[Path, list[str]]:
        # By their place in the plan: a process that looks later finds other shards complete
        of_process = shards[index :: state.num_processes]
        return {
            shard.file: folder.missing(shard, retry_failed)
            for shard in of_process
            if not asked.isdisjoint(shard.paths)
        }

    own, missing = shards[state.process_index :: state.num_processes], to_do(state.process_index)
    others = _ShardsOfOthers(folder, shards)
    for index in range(1, state.num_processes) if state.is_main_process else ():
        others.add(to_do(index))
    groups = [(shard, part) for shard in own for part in _parts(missing.get(shard.file, []), labeler.batch_size)]
    failed, found = 0, {file: dict[int, list[Row]]() for file in missing}
    count = sum(map(len, [*missing.values(), *others.missing.values()]))
    with ExitStack() as stack:
        progress = stack.enter_context(tqdm(total=count, unit="video", disable=not state.is_main_process))
        lock = threading.Lock()

        def tell(done: int, errors: int) -> None:
            nonlocal failed
            with lock:
                failed += errors
                progress.set_postfix(errors=failed, refresh=False)
                progress.update(done)

        if others.missing:
            stack.enter_context(closing(_Watch(lambda: tell(*others.news()))))
        for number, rows in stack.enter_context(closing(labeler.rows([part for _, part in groups]))):
            shard, parts = groups[number][0], found[groups[number][0].file]
            parts[number] = rows
            tell(len(rows), sum(row["error"] is not None for row in rows))
            if sum(map(len, parts.values())) == len(missing[shard.file]):
                folder.write(shard, [row for _, part in sorted(found.pop(shard.file).items()) for row in part])
        state.wait_for_everyone()


class _Watch:
    """Calls a function now and then, in a thread, and once more when it is closed."""

    def __init__(self, function: Callable[[], None], seconds: float = 10.0):
        self.function, self.seconds, self.ended = function, seconds, threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        while not self.ended.wait(self.seconds):
            self.function()
        self.function()

    def close(self) -> None:
        self.ended.set()
        self.thread.join()


class _ShardsOfOthers:
    """How far the other processes are, by the files that they have written since.

    Args:
        folder: Of all.
        shards: Of all; asked before anybody asks what they lack.
    """

    def __init__(self, folder: ResultFolder, shards: Sequence[Shard]):
        self.folder = folder
        self.missing: dict[Path, set[str]] = {}
        self._before = {shard.file: self._written(shard.file) for shard in shards}

    def add(self, missing: dict[Path, list[str]]) -> None:
        """Videos that another process has to do, by the file of their shard."""
        self.missing |= {file: set(map(as_text, paths)) for file, paths in missing.items() if paths}

    @staticmethod
    def _written(file: Path) -> int | None:
        return file.stat().st_mtime_ns if file.exists() else None

    def news(self) -> tuple[int, int]:
        """Videos that are done since the last time, and errors among them."""
        done = errors = 0
        for file, names in list(self.missing.items()):
            with suppress(OSError):  # of a network: another time
                if self._written(file) != self._before[file]:
                    rows = [row for row in self.folder.read(file, ["path", "error"]) if row["path"] in names]
                    done, errors = done + len(rows), errors + sum(row["error"] is not None for row in rows)
                    del self.missing[file]
        return done, errors


def absolute_paths(videos: Sequence[str]) -> list[str]:
    """Each once, under a name that is the same from every folder; addresses as they are."""
    return list(dict.fromkeys(path if is_url(path) else os.path.abspath(path) for path in videos))


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
    return list(dict.fromkeys(find_unlabelled(source, allow_outside_root=True)))
