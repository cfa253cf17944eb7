# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Which files of a folder are videos, what else is in it, and whether its folders are splits."""

import os
import warnings
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

from ..video_images import is_image_file, is_sequence


# Names of files that FFmpeg reads as videos; `datasets` itself would pass over .webm, which is what SSv2
# ships, and .3gp, which is what telephones record
_VIDEOS = """
264 265 3g2 3gp amv apng asf av1 avi dav dif divx dv f4v flv gif gxf h264 h265 hevc ismv ivf m1v m2p m2t m2ts m2v
m4v mj2 mjpeg mjpg mk3d mkv mod mov mp2v mp4 mpe mpeg mpg mpv mts mxf nsv nut obu ogm ogv ogx qt rm rmvb roq swf
tod trp ts vc1 vob webm wmv wtv y4m yuv4mpeg
"""
VIDEO_SUFFIXES = tuple(f".{name}" for name in _VIDEOS.split())
SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


@dataclass
class FolderContent:
    """What lies below a folder; hidden files and folders do not count.

    Args:
        videos: Video files, and folders of images that are numbered, without a video beside them, sorted.
        others: How many files of which suffix, and how many links to folders that are read elsewhere, are no videos.
    """

    videos: list[Path] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def describe_others(self) -> str:
        """Such as "4 .txt, 1 without suffix"."""
        return ", ".join(f"{count} {name}" for name, count in self.others.most_common())

    def but_others(self) -> str:
        """For the end of a sentence on videos that are not there."""
        return f", but {self.describe_others()}" if self.others else ""

    def tell_others(self, folder: Path) -> None:
        """Warn of what is passed over."""
        if self.others:
            warnings.warn(f"Not videos, in {str(folder)!r}: {self.describe_others()}.", stacklevel=4)


def look_into(folder: Path, image_depth: int) -> FolderContent:
    """Find the videos below a folder.

    Links to folders are followed; a folder that is reached in several ways counts once, under its own name if it has
    one below `folder`.

    Args:
        folder: Where to look.
        image_depth: How many folders below it a folder of images is a clip; nearer ones are not.

    Raises:
        FileNotFoundError: If there is no such folder.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no folder {str(folder)!r}.")
    content = FolderContent()
    folders, links, seen = [folder], deque[Path](), set[str]()
    while folders or links:
        current = folders.pop() if folders else links.popleft()
        real = os.path.realpath(current)
        if real in seen:
            content.others["links to folders that are read already"] += 1
            continue
        seen.add(real)
        entries = [entry for entry in current.iterdir() if not entry.name.startswith(".")]
        for entry in entries:
            if entry.is_dir():
                (links if entry.is_symlink() else folders).append(entry)
        files = [entry for entry in entries if not entry.is_dir()]
        videos = [file for file in files if file.suffix.lower() in VIDEO_SUFFIXES]
        others = [file for file in files if file.suffix.lower() not in VIDEO_SUFFIXES]
        is_clip = len(current.relative_to(folder).parts) >= image_depth and not videos
        images = [file for file in others if is_image_file(file)]
        if is_clip and images and is_sequence(images):
            videos = [current]
            others = [file for file in others if file not in images]
        content.videos += videos
        content.others.update(file.suffix.lower() or "without suffix" for file in others)
    content.videos.sort()
    return content


def split_folders(folder: Path) -> dict[str, Path]:
    """The folders in a folder that are called as splits are: "train", "validation" and "test".

    None of them if it does not look so: "train" alone beside others may be a class.

    Raises:
        ValueError: For two folders of one split.
    """
    if not folder.is_dir():
        return {}
    inside = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    found: dict[str, Path] = {}
    for entry in inside:
        split = SPLIT_NAMES.get(entry.name.lower())
        if split in found:
            raise ValueError(f"{str(folder)!r} has two folders of one split: {found[split].name} and {entry.name}.")
        if split is not None:
            found[split] = entry
    return found if len(found) > 1 or len(found) == len(inside) else {}
