# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Lists of videos: csv, json, json lines, and text as the original repository has it."""

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..video_sources import is_url
from .video_folders import VIDEO_SUFFIXES


LIST_SUFFIXES = (".csv", ".json", ".jsonl", ".txt")

# Where it stands in its file, the video, the class, which is None where there is none
ListRow = tuple[str, Any, Any]


def as_text(name: str) -> str:
    r"""A name as it can be written: bytes that are no UTF-8, which systems allow in names of files, as `\udcff`."""
    return name.encode(errors="backslashreplace").decode()


def check_names(names: Iterable[str], where: str) -> None:
    """Raise ValueError for a name that is no UTF-8, where only such names can be held."""
    for name in names:
        if as_text(name) != name:
            raise ValueError(f"The name {name!a} is no UTF-8, as {where} are: rename it.")


def read_list(
    file: Path, video_root: str | Path | None = None, allow_outside_root: bool = False, needs_label: bool = True
) -> list[ListRow]:
    """The videos of a list, with their paths or addresses, and their classes as they stand there.

    Args:
        file: The list.
        video_root: Folder of the videos. Default: that of the list.
        allow_outside_root: Whether videos may be elsewhere.
        needs_label: Whether every video must have a class.

    Raises:
        FileNotFoundError: If none of the videos exists.
        ValueError: If it is no list, or has an entry that is none.
    """
    read = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _json_rows, ".txt": _text_rows}.get(file.suffix.lower())
    if read is None:
        raise ValueError(f"A list of videos is one of {', '.join(LIST_SUFFIXES)}, got {str(file)!r}.")
    root = file.parent if video_root is None else Path(video_root)
    real_root = os.path.realpath(root)
    rows, missing = [], []
    for place, video, label in _decoded(read, file):
        if not needs_label and read is _text_rows and label is not None and _is_video_name(f"{video} {label}"):
            video, label = f"{video} {label}", None  # a name with spaces
        video = video.strip() if isinstance(video, str) else video
        label = (label.strip() or None) if isinstance(label, str) else label
        is_label = (label is None and not needs_label) or (
            isinstance(label, str | int) and not isinstance(label, bool)
        )
        if not isinstance(video, str) or not is_label or not video or "\0" in video:
            wanted = "a video and a label are" if needs_label else "a video is"
            raise ValueError(f"{place}: {wanted} needed, got {video!r} and {label!r}.")
        if is_url(video):
            if not video.lower().startswith(("http://", "https://")) and not video.startswith("hf://"):
                raise ValueError(f"{place}: URLs must be http, https or hf, got {video!r}.")
        else:
            video = str(root / video)
            if not allow_outside_root and not _is_inside(video, real_root):
                raise ValueError(
                    f"{place}: {video!r} is outside of {str(root)!r}. Name the folder of the videos (`video_root`), "
                    "or allow files from everywhere (`allow_outside_root`)."
                )
            if not os.path.exists(video):
                missing.append(video)
        rows.append((place, video, label))
    if not rows:
        raise ValueError(f"{str(file)!r} lists no videos.")
    if len(missing) == len(rows):
        raise FileNotFoundError(f"None of the {len(rows)} videos of {str(file)!r} exists, such as {missing[0]!r}.")
    if missing:
        warnings.warn(
            f"{len(missing)} of the {len(rows)} videos of {str(file)!r} do not exist, such as {missing[0]!r}.",
            stacklevel=3,
        )
    return rows


def _decoded(read: Callable[[Path], Iterable[ListRow]], file: Path) -> list[ListRow]:
    try:
        return list(read(file))
    except UnicodeDecodeError as error:
        raise ValueError(f"{str(file)!r} is not text in UTF-8: {error}.") from error
    except csv.Error as error:
        raise ValueError(f"{str(file)!r} is no csv: {error}.") from error


def _is_video_name(name: str) -> bool:
    return Path(name).suffix.lower() in VIDEO_SUFFIXES


def _is_inside(path: str, real_root: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), real_root]) == real_root


def _csv_rows(file: Path) -> Iterator[ListRow]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if "video" not in (reader.fieldnames or []):
            raise ValueError(f"{str(file)!r} must have the columns video and label, got {reader.fieldnames}.")
        unused = [name for name in reader.fieldnames or [] if name not in ("video", "label")]
        if unused:
            warnings.warn(f"Columns of {str(file)!r} that are not used: {unused}.", stacklevel=6)
        for row in reader:
            place = f"{str(file)!r}, line {reader.line_num}"
            if any(row.get(None) or []):
                raise ValueError(f"{place} has more fields than columns: put a field with a comma in quotes.")
            yield place, row["video"], row.get("label")


def _json_rows(file: Path) -> Iterator[ListRow]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        if text.lstrip().startswith("["):
            rows = [(f"{str(file)!r}, entry {i}", row) for i, row in enumerate(json.loads(text))]
        else:
            lines = enumerate(text.split("\n"), start=1)
            rows = [(f"{str(file)!r}, line {i}", json.loads(line)) for i, line in lines if line.strip()]
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is neither a json list nor json lines: {error}.") from error
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: an object of video and label is needed, got {row!r}.")
        if "video" in row:
            yield place, row["video"], row.get("label")
        elif "id" in row:  # SSv2: the class is the template without its brackets, the label has words in their place
            label = str(row.get("template") or "").replace("[", "").replace("]", "")
            yield place, f"{row['id']}.webm", label or row.get("label")
        else:
            raise ValueError(f"{place}: `video` and `label`, or SSv2's `id` and `template`, are needed, got {row!r}.")


def _text_rows(file: Path) -> Iterator[ListRow]:
    for i, line in enumerate(file.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            video, *label = line.strip().rsplit(maxsplit=1)
            yield f"{str(file)!r}, line {i}", video, label[0] if label else None
