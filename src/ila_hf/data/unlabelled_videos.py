# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Videos without classes. By itself, so that those who need no data set do not import `datasets`."""

import warnings
from pathlib import Path

from .video_folders import look_into
from .video_lists import read_list


def find_unlabelled(
    source: str | Path, video_root: str | Path | None = None, allow_outside_root: bool = False
) -> list[str]:
    """Videos of a folder or of a list: classes that a list has are not read.

    Of a folder, all videos below it; hidden ones do not count, folders of images do.

    Args:
        source, video_root, allow_outside_root: As in [`load_videos`].

    Raises:
        FileNotFoundError: If there is no such folder or list.
        ValueError: If it holds none.
    """
    source = Path(source)
    if source.is_file():
        rows = read_list(source, video_root, allow_outside_root, needs_label=False)
        if any(label is not None for _, _, label in rows):
            warnings.warn(f"The classes of {str(source)!r} are not used.", stacklevel=2)
        return [video for _, video, _ in rows]
    content = look_into(source, image_depth=1)
    if not content.videos:
        raise ValueError(f"{str(source)!r} holds no video files{content.but_others()}.")
    content.tell_others(source)
    return list(map(str, content.videos))
