# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Labelled videos as `datasets`: where they are and what they show. Nothing is decoded here; see video_clips.py.

Every loader gives the columns `video` (a path, an http(s) URL, or a dict of `path` and `bytes`) and `label`
(ClassLabel).
"""

import csv
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, IterableDataset, Value, Video, load_dataset

from .video_sources import is_url


# What FFmpeg reads under these names; `datasets` itself would pass over .webm, which is what SSv2 ships
VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ogv", ".ts", ".webm", ".wmv")
LIST_SUFFIXES = (".csv", ".json", ".jsonl", ".txt")

# Where it stands in its file, the video, the class
_Row = tuple[str, Any, Any]


def load_videos(
    source: str | Path,
    label_names: Sequence[str] | None = None,
    video_root: str | Path | None = None,
    allow_outside_root: bool = False,
) -> Dataset:
    """A folder of class folders, or a list: csv, json lines, json, SSv2's json, or text of a file and a class a line.

    Args:
        source: The folder or the list.
        label_names: The classes in the order of their ids, as of another split or of [`read_labels`]. Default: those
            found, sorted.
        video_root: Folder of the videos of a list. Default: that of the list.
        allow_outside_root: Whether a list may name files that are not in that folder.

    Raises:
        FileNotFoundError: If there is no such folder or list, or none of the videos that it names.
        ValueError: If it is none of these, names no videos, or a class that is not among `label_names`.
    """
    source = Path(source)
    if source.is_dir():
        if video_root is not None:
            raise ValueError(f"`video_root` is for lists; {str(source)!r} is a folder of class folders.")
        return load_video_folder(source, label_names)
    return load_video_list(source, label_names, video_root, allow_outside_root)


def load_video_folder(folder: str | Path, label_names: Sequence[str] | None = None) -> Dataset:
    """Video files sorted into one folder per class, `folder/<class>/**/<file>`.

    Args, returns and errors as in [`load_videos`].
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    files = sorted(f for f in folder.glob("*/**/*") if f.suffix.lower() in VIDEO_SUFFIXES)
    if not files:
        raise ValueError(
            f"{str(folder)!r} holds no video files in class folders (<class>/<file>{VIDEO_SUFFIXES[5]}, …)."
        )
    return _dataset([(str(f), str(f), f.relative_to(folder).parts[0]) for f in files], folder, label_names)


def load_video_list(
    file: str | Path,
    label_names: Sequence[str] | None = None,
    video_root: str | Path | None = None,
    allow_outside_root: bool = False,
) -> Dataset:
    """Videos that a file lists.

    csv: columns `video` and `label`. json lines, or a json list of objects: `video` and `label`, or SSv2's `id` and
    `template`, whose videos are `<id>.webm`. Text, as the original repository has it: a path, which may hold spaces,
    and the last word of the line, the class. Classes are names, or ids: numbers in json and text, and everywhere the
    numbers that are not among the `label_names` given.

    Args, returns and errors as in [`load_videos`]. Videos that do not exist are a warning, if there are others: they
    count as unreadable.
    """
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"There is no file {str(file)!r}.")
    read = {".csv": _csv_rows, ".json": _json_rows, ".jsonl": _json_rows, ".txt": _text_rows}.get(file.suffix.lower())
    if read is None:
        raise ValueError(f"A list of videos is one of {', '.join(LIST_SUFFIXES)}, got {str(file)!r}.")
    root = file.parent if video_root is None else Path(video_root)
    real_root = os.path.realpath(root)
    rows, missing = [], []
    for place, video, label in read(file):
        if video in (None, "") or label in (None, ""):
            raise ValueError(f"{place}: a video and a label are needed, got {video!r} and {label!r}.")
        if is_url(video):
            if not video.startswith(("http://", "https://")):
                raise ValueError(f"{place}: URLs must be http or https, got {video!r}.")
        else:
            video = str(root / video)
            if not allow_outside_root and not _is_inside(video, real_root):
                raise ValueError(
                    f"{place}: {video!r} is outside of {str(root)!r}. Name the folder of the videos (`video_root`), "
                    "or allow files from everywhere (`allow_outside_root`)."
                )
            if not os.path.isfile(video):
                missing.append(video)
        rows.append((place, video, label))
    if rows and len(missing) == len(rows):
        raise FileNotFoundError(f"None of the {len(rows)} videos of {str(file)!r} exists, such as {missing[0]!r}.")
    if missing:
        warnings.warn(
            f"{len(missing)} of the {len(rows)} videos of {str(file)!r} do not exist, such as {missing[0]!r}.",
            stacklevel=2,
        )
    return _dataset(rows, file, label_names)


def _is_inside(path: str, real_root: str) -> bool:
    return os.path.commonpath([os.path.realpath(path), real_root]) == real_root


def _csv_rows(file: Path) -> Iterator[_Row]:
    with file.open(newline="", encoding="utf-8-sig") as lines:
        reader = csv.DictReader(lines)
        if not {"video", "label"} <= set(reader.fieldnames or []):
            raise ValueError(f"{str(file)!r} must have the columns video and label, got {reader.fieldnames}.")
        for row in reader:
            yield f"{str(file)!r}, line {reader.line_num}", row["video"], row["label"]


def _json_rows(file: Path) -> Iterator[_Row]:
    text = file.read_text(encoding="utf-8-sig")
    try:
        if text.lstrip().startswith("["):
            rows = [(f"{str(file)!r}, entry {i}", row) for i, row in enumerate(json.loads(text))]
        else:
            lines = enumerate(text.splitlines(), start=1)
            rows = [(f"{str(file)!r}, line {i}", json.loads(line)) for i, line in lines if line.strip()]
    except ValueError as error:
        raise ValueError(f"{str(file)!r} is neither a json list nor json lines: {error}.") from error
    for place, row in rows:
        if not isinstance(row, dict):
            raise ValueError(f"{place}: an object of video and label is needed, got {row!r}.")
        if "video" in row:
            yield place, row["video"], row.get("label")
        elif "id" in row:  # SSv2: the class is the template without its brackets, the label has words in their place
            label = row.get("template", "").replace("[", "").replace("]", "")
            yield place, f"{row['id']}.webm", label or row.get("label")
        else:
            raise ValueError(f"{place}: `video` and `label`, or SSv2's `id` and `template`, are needed, got {row!r}.")


def _text_rows(file: Path) -> Iterator[_Row]:
    for i, line in enumerate(file.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if line.strip():
            video, _, label = line.strip().replace("\t", " ").rpartition(" ")
            yield f"{str(file)!r}, line {i}", video.rstrip(), int(label) if label.isdecimal() else label


def _dataset(rows: Sequence[_Row], source: Any, label_names: Sequence[str] | None) -> Dataset:
    if not rows:
        raise ValueError(f"{str(source)!r} lists no videos.")
    labels, names = _class_ids([label for _, _, label in rows], label_names, source)
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"video": [video for _, video, _ in rows], "label": labels}, features=features)


def _class_ids(labels: Sequence[Any], names: Sequence[str] | None, source: Any) -> tuple[list[int], list[str]]:
    """Class ids, and the names in their order."""
    found = sorted(set(labels), key=str)
    ids: dict[Any, int] = {}
    if names is not None:
        names = list(names)
        for i in range(len(names)):
            ids[i] = ids[str(i)] = i
        ids |= {name: i for i, name in enumerate(names)}
    elif all(isinstance(label, int) for label in found):
        names = [str(i) for i in range(max(found) + 1)]
        ids = {i: i for i in range(len(names))}
    else:
        names = sorted(map(str, found))
        ids = {label: names.index(str(label)) for label in found}
    unknown = [label for label in found if label not in ids]
    if unknown:
        raise ValueError(f"{str(source)!r} has classes that are not among the {len(names)} known: {unknown}.")
    return [ids[label] for label in labels], names


def load_video_dataset(
    path: str,
    name: str | None = None,
    split: str = "train",
    streaming: bool = False,
    video_column: str | None = None,
    label_column: str | None = None,
    label_names: Sequence[str] | None = None,
    **arguments: Any,
) -> Dataset | IterableDataset:
    """A data set of the Hub with a column of videos, or WebDataset shards.

    Args:
        path: Id of a data set, or a builder of `datasets`: "webdataset" with `data_files="shards/train-*.tar"` reads
            shards whose samples are `<key>.mp4` (or another video) and `<key>.cls` (or another class).
        name: Configuration of the data set.
        split: Split of the data set.
        streaming: Read it as it comes, without a copy on disk. Shards go to processes and data loader workers.
        video_column: Default: the one with videos, or `video`.
        label_column: Default: `label` or `cls`. "json.label" means the entry `label` of the column `json`.
        label_names: As in [`load_videos`]. Streaming needs them, unless the column has them.
        arguments: Of `datasets.load_dataset`.

    Raises:
        ValueError: For columns that do not exist, and for classes that cannot be known.
    """
    data = load_dataset(path, name, split=split, streaming=streaming, **arguments)
    features = data.features
    if features is None:
        raise ValueError(f"The columns of {path!r} are not known; load it without `streaming`.")
    if video_column is None:
        videos = [column for column, feature in features.items() if isinstance(feature, Video)]
        video_column = videos[0] if len(videos) == 1 else "video"
    if label_column is None:
        label_column = next((column for column in ("label", "cls") if column in features), "label")
    for column in (video_column, label_column.partition(".")[0]):
        if column not in features:
            raise ValueError(f"{path!r} has no column {column!r}; its columns are {sorted(features)}.")
    if isinstance(features[video_column], Video):
        data = data.cast_column(video_column, Video(decode=False))
    feature = features.get(label_column)
    own_names = feature.names if isinstance(feature, ClassLabel) else None
    names = label_names or own_names
    if not isinstance(data, IterableDataset):
        column, *entry = label_column.split(".", 1)
        labels = [row[entry[0]] if entry else row for row in data[column]]
        labels = [own_names[label] for label in labels] if own_names else labels
        ids, names = _class_ids(labels, names, path)
        data = data.select_columns([video_column]).rename_column(video_column, "video")
        return data.add_column("label", ids).cast_column("label", ClassLabel(names=names))
    if names is None:
        raise ValueError(f"The classes of {path!r} are not known while it streams: give `label_names`.")
    return _stream(data, video_column, label_column, own_names, list(names), path)


def _stream(
    data: IterableDataset, video: str, label: str, own_names: Sequence[str] | None, names: list[str], source: str
) -> IterableDataset:
    column, *entry = label.split(".", 1)

    def pick(row: dict[str, Any]) -> dict[str, Any]:
        value = row[column][entry[0]] if entry else row[column]
        value = own_names[value] if own_names else value
        return {"video": row[video], "label": _class_ids([value], names, source)[0][0]}

    features = Features({"video": data.features[video], "label": ClassLabel(names=names)})
    return data.map(pick, remove_columns=list(data.features), features=features)


def leave_out(data: Dataset, videos: Iterable[str]) -> Dataset:
    """The data set without some videos, such as those that `ila-hf check` has listed."""
    unwanted = set(videos)
    keep = [i for i, video in enumerate(data["video"]) if video not in unwanted]
    return data.select(keep)
