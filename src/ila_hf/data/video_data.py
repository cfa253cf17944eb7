# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Labelled videos as `datasets`: where they are and what they show. Nothing is decoded here; see video_clips.py.

Every loader gives the columns `video` (a path, an http(s) URL, or a dict of `path` and `bytes`) and `label`
(ClassLabel).
"""

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, IterableDataset, Value, Video, load_dataset

from ..video_sources import is_url
from .unlabelled_videos import find_unlabelled
from .video_folders import VIDEO_SUFFIXES, look_into, split_folders
from .video_lists import ListRow, check_names, read_list


NO_LABEL = -1  # of a video whose class is not known, as the Hub marks them

_MAX_CLASS_ID = 100_000


def load_videos(
    source: str | Path,
    label_names: Sequence[str] | None = None,
    video_root: str | Path | None = None,
    allow_outside_root: bool = False,
) -> Dataset:
    """Labelled videos of a folder or of a list.

    folder: `folder/<class>/**/<file>`, also `folder/<class>/**/<clip>/<image>`, images whose names end in numbers.
    Hidden files do not count; what else is no video is a warning.
    csv: columns `video` and `label`. json lines, or a json list of objects: `video` and `label`, or SSv2's `id` and
    `template`, whose videos are `<id>.webm`. Text, as the original repository has it: a path, which may hold spaces,
    and the last word of the line, the class.

    The classes of a list are names, or, where all are whole numbers, ids; with `label_names`, numbers are ids, unless
    some of these names are numbers. Videos of a list that do not exist are a warning, if there are others, for they
    count as unreadable. So are ids without a video, and columns that are not used.

    Args:
        source: The folder, or the list: .csv, .json, .jsonl or .txt.
        label_names: The classes in the order of their ids, as of another split or of [`read_labels`]. Default: those
            found, sorted.
        video_root: Folder of the videos of a list. Default: that of the list.
        allow_outside_root: Whether a list may name files that are not in that folder.

    Raises:
        FileNotFoundError: If there is no such folder or list, or none of the videos that it names.
        ValueError: If it is none of these, names no videos, or a class that is not among `label_names`; for a class
            folder without a video, and for a folder of splits, such as train and validation, instead of classes.
    """
    source = Path(source)
    if source.is_dir():
        if video_root is not None:
            raise ValueError(f"`video_root` is for lists; {str(source)!r} is a folder of class folders.")
        return _load_folder(source, label_names)
    if not source.exists():
        raise FileNotFoundError(f"There is no folder or list {str(source)!r}.")
    return _load_list(source, label_names, video_root, allow_outside_root)


def _load_folder(folder: Path, label_names: Sequence[str] | None) -> Dataset:
    splits = split_folders(folder)
    if splits:
        raise ValueError(
            f"{str(folder)!r} holds the splits {', '.join(splits)}, not classes: name one of its folders."
        )
    content = look_into(folder, image_depth=2)
    rows = []
    for video in content.videos:
        parts = video.relative_to(folder).parts
        if len(parts) > 1:
            rows.append((str(video), str(video), parts[0]))
        else:
            content.others["videos in no class folder"] += 1
    if not rows:
        raise ValueError(
            f"{str(folder)!r} holds no video files in class folders (<class>/<file>.mp4, …){content.but_others()}."
        )
    classes = {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
    empty = sorted(classes - {label for _, _, label in rows})
    if empty:
        raise ValueError(
            f"The folders {empty} in {str(folder)!r} hold no video{content.but_others()}: they would be no "
            "classes. If that is right, move them elsewhere."
        )
    content.tell_others(folder)
    return _dataset(rows, folder, label_names)


def load_unlabelled(
    source: str | Path, video_root: str | Path | None = None, allow_outside_root: bool = False
) -> Dataset:
    """Videos of a folder or of a list, with the label -1, see [`find_unlabelled`].

    Args:
        source, video_root, allow_outside_root: As in [`load_videos`].

    Raises:
        FileNotFoundError: If there is no such folder or list.
        ValueError: If it holds none.
    """
    files = find_unlabelled(source, video_root, allow_outside_root)
    check_names(files, "the columns of a data set")
    features = Features({"video": Value("string"), "label": Value("int64")})
    return Dataset.from_dict({"video": files, "label": [NO_LABEL] * len(files)}, features=features)


def _load_list(
    file: Path, label_names: Sequence[str] | None, video_root: str | Path | None, allow_outside_root: bool
) -> Dataset:
    rows = read_list(file, video_root, allow_outside_root)
    if all(_is_number(label) for _, _, label in rows) and label_names is None:
        rows = [(place, video, int(label)) for place, video, label in rows]
    return _dataset(rows, file, label_names)


def _is_number(label: Any) -> bool:
    """Whether a label is a whole number, also as a text; 007 is a name."""
    try:
        return str(int(label)) == str(label)
    except ValueError:
        return False


def _dataset(rows: Sequence[ListRow], source: Any, label_names: Sequence[str] | None) -> Dataset:
    check_names((video for _, video, _ in rows), "the columns of a data set")
    labels, names = _class_ids([label for _, _, label in rows], label_names, source)
    features = Features({"video": Value("string"), "label": ClassLabel(names=names)})
    return Dataset.from_dict({"video": [video for _, video, _ in rows], "label": labels}, features=features)


def _class_ids(labels: Sequence[Any], names: Sequence[str] | None, source: Any) -> tuple[list[int], list[str]]:
    """Class ids, and the names in their order."""
    found = sorted(set(labels), key=str)
    ids: dict[Any, int] = {}
    if names is not None:
        names = list(names)
        ids = {name: i for i, name in enumerate(names)}
        if any(name.isdecimal() for name in names):  # then a number is the class of that name, and no id
            ids |= {int(name): i for i, name in enumerate(names) if _is_number(name)}
        else:
            ids |= {kind(i): i for i in range(len(names)) for kind in (int, str)}
    elif all(isinstance(label, int) for label in found):
        if min(found) < 0 or max(found) > _MAX_CLASS_ID:
            wrong = min(found) if min(found) < 0 else max(found)
            raise ValueError(f"{str(source)!r} has the class id {wrong}; without names, ids are 0 to {_MAX_CLASS_ID}.")
        names = [str(i) for i in range(max(found) + 1)]
        ids = {i: i for i in range(len(names))}
        if len(found) < len(names):
            warnings.warn(
                f"{str(source)!r} has videos of {len(found)} of {len(names)} class ids, from 0 to {len(names) - 1}. "
                "If its numbers are names, list them in a file of labels.",
                stacklevel=4,
            )
    else:
        names = sorted(set(map(str, found)))
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
        video_column: Default: the one with videos, the one called `video`, or, in shards, the one called as videos
            end, such as `webm`.
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
        suffixes = [column for column in features if f".{column}" in VIDEO_SUFFIXES]
        found = next((names for names in (videos, suffixes) if len(names) == 1 and "video" not in features), ["video"])
        video_column = found[0]
    if label_column is None:
        label_column = next((column for column in ("label", "cls") if column in features), "label")
    for column in (video_column, label_column.partition(".")[0]):
        if column not in features:
            raise ValueError(f"{path!r} has no column {column!r}; its columns are {sorted(features)}.")
    data = undecoded(data, video_column)
    feature = features.get(label_column)
    own_names = feature.names if isinstance(feature, ClassLabel) else None
    names = label_names or own_names
    if not isinstance(data, IterableDataset):
        column, *entry = label_column.split(".", 1)
        labels = [row[entry[0]] if entry else row for row in data[column]]
        ids, names = _class_ids([_own_name(label, own_names, path) for label in labels], names, path)
        data = data.select_columns([video_column])
        data = data if video_column == "video" else data.rename_column(video_column, "video")
        return data.add_column("label", ids).cast_column("label", ClassLabel(names=names))
    if names is None:
        raise ValueError(f"The classes of {path!r} are not known while it streams: give `label_names`.")
    pick = partial(_pick, video=video_column, label=label_column, own_names=own_names, names=list(names), source=path)
    value = {"path": Value("string"), "bytes": Value("binary")}
    is_file = isinstance(data.features[video_column], Video) or features[video_column] == Value("binary")
    kinds = Features({"video": value if is_file else data.features[video_column], "label": ClassLabel(names=names)})
    return data.map(pick, remove_columns=list(data.features), features=kinds)


def undecoded(data: Any, column: str = "video") -> Any:
    """A data set of `datasets` whose column of videos gives paths and bytes: decoding them there needs torchcodec."""
    feature = (getattr(data, "features", None) or {}).get(column)
    if not isinstance(feature, Video) or not feature.decode:
        return data
    return data.cast_column(column, replace(feature, decode=False))


def _own_name(label: Any, names: Sequence[str] | None, source: str) -> Any:
    """The name of a class id of the data set; the Hub marks videos without a class with -1."""
    if label is None or (names is not None and not 0 <= label < len(names)):
        raise ValueError(f"{source!r} has a video whose class is {label!r}; every video needs one.")
    return label if names is None else names[label]


def _pick(
    row: dict[str, Any], video: str, label: str, own_names: Sequence[str] | None, names: list[str], source: str
) -> dict[str, Any]:
    """The video and the class of a row; a video of a shard is called by the shard too."""
    column, *entry = label.split(".", 1)
    value = _own_name(row[column][entry[0]] if entry else row[column], own_names, source)
    file = {"path": None, "bytes": row[video]} if isinstance(row[video], bytes) else row[video]
    if isinstance(file, dict) and "__url__" in row:
        member = file["path"] or f"{row['__key__']}.{video}"
        file = {"path": f"{row['__url__']}/{member}", "bytes": file["bytes"]}
    return {"video": file, "label": _class_ids([value], names, source)[0][0]}


def leave_out(data: Dataset, videos: Iterable[str]) -> Dataset:
    """The data set without some videos, such as those that `ila-hf check` has listed, however paths are written."""
    unwanted = set(map(_real, videos))
    return data.select([i for i, video in enumerate(data["video"]) if _real(video) not in unwanted])


def _real(video: str) -> str:
    return video if is_url(video) else os.path.realpath(video)
