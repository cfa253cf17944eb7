# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""A folder of rows that grows shard by shard, each complete or not there."""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from ..data.run_folders import check_bound
from ..data.video_lists import as_text
from ..data.whole_files import remove_parts, replace_file, replace_text


Row = dict[str, Any]

FORMATS = ("parquet", "jsonl")


class Shard(NamedTuple):
    """Some of the videos, and the file of their rows."""

    file: Path
    paths: list[str]


class ResultFolder:
    """Rows of videos in shards.

        _run.json       what the rows depend on, without the list of videos
        _plan.jsonl     the videos of each shard, a line for each; grows with the list
        00000.parquet   rows: `path`, results, `num_frames`, `error`

    A shard is written aside, flushed and renamed: it is complete or not there, whatever happens.

    Args:
        folder: Created if needed.
        fingerprint: What rows depend on, as json. A folder is bound to it.
        schema: Of the rows, for Parquet.
        file_format: "parquet" or "jsonl".

    Raises:
        ValueError: For a folder that is bound to another fingerprint; the message names the difference.
    """

    def __init__(self, folder: str | Path, fingerprint: Row, schema: pa.Schema, file_format: str = "parquet"):
        self.folder, self.schema, self.file_format = Path(folder), schema, file_format
        self.fingerprint = {**json.loads(json.dumps(fingerprint)), "file_format": file_format}
        self._check()

    def _check(self) -> None:
        file = self.folder / "_run.json"
        if not file.exists():
            return
        check_bound(self.folder, json.loads(file.read_text(encoding="utf-8")), self.fingerprint)

    def bind(self) -> None:
        """Write down what the rows depend on. For one process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_parts(self.folder)
        replace_text(self.folder / "_run.json", json.dumps(self.fingerprint, indent=1) + "\n")

    def plan(self, paths: Iterable[str], shard_size: int) -> None:
        """Bind the folder, and divide the videos that it does not know yet into shards. For one process at a time.

        Raises:
            ValueError: For shards of fewer than one video.
        """
        if shard_size < 1:
            raise ValueError(f"`shard_size` must be at least 1, got {shard_size}.")
        self.folder.mkdir(parents=True, exist_ok=True)
        shards = self.shards()
        known = {path for shard in shards for path in shard.paths}
        new = [path for path in dict.fromkeys(paths) if path not in known]
        groups = [shard.paths for shard in shards] + [new[i : i + shard_size] for i in range(0, len(new), shard_size)]
        if new:
            replace_text(self.folder / "_plan.jsonl", "".join(json.dumps(group) + "\n" for group in groups))
        self.bind()

    def shards(self) -> list[Shard]:
        """All that are planned."""
        file = self.folder / "_plan.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        return [Shard(self.folder / f"{i:05}.{self.file_format}", json.loads(line)) for i, line in enumerate(lines)]

    def missing(self, shard: Shard, failed: bool = False) -> list[str]:
        """The videos of a shard that have no row; with `failed`, or one with an error."""
        if not shard.file.exists():
            return shard.paths
        if not failed:
            return []
        wrong = {row["path"] for row in self.read(shard.file, ["path", "error"]) if row["error"] is not None}
        return [path for path in shard.paths if as_text(path) in wrong]  # under the name that opens it

    def write(self, shard: Shard, rows: Sequence[Row]) -> None:
        """Complete a shard with the rows that were missing.

        Raises:
            OSError: If it cannot be written; then it is not there.
        """
        if shard.file.exists():
            new = {row["path"]: row for row in rows}
            rows = [new.get(row["path"], row) for row in self.read(shard.file)]
        if self.file_format == "jsonl":
            replace_text(shard.file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        else:
            table = pa.Table.from_pylist(list(rows), self.schema)
            replace_file(shard.file, lambda file: pq.write_table(table, file))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[Row]:
        """Those of all complete shards, in the order of the plan; with some of their columns only, or all."""
        for shard in self.shards():
            if shard.file.exists():
                yield from self.read(shard.file, columns)

    def read(self, file: Path, columns: Sequence[str] | None = None) -> list[Row]:
        """The rows of a complete shard; with some of their columns only, or all."""
        if self.file_format == "parquet":
            return cast("list[Row]", pq.read_table(file, columns=columns).to_pylist())
        rows = (json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line)
        return [row if columns is None else {name: row[name] for name in columns} for row in rows]
