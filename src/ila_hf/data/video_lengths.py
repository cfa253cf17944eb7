# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How long the videos of a data set are, as their headers tell: a film among clips shows before the training."""

import os
from collections.abc import Sequence
from statistics import median
from typing import Any

from ..video_reading import named_errors
from ..video_seeking import SeekableVideo
from ..video_sources import Deadline, VideoLimits, VideoReadError


MAX_LOOKED_AT = 500  # a header takes milliseconds on a disk, but data sets have hundreds of thousands
_SECONDS = 2.0  # that a header may take
# A video is long beside the others if it lasts so many times their median, and so many seconds more
_TIMES, _SECONDS_MORE = 4, 5


def describe_lengths(videos: Sequence[Any]) -> str:
    """Such as "2 to 3 s, 1 of 30 s, 2 cannot be opened"; nothing where no header tells.

    Args:
        videos: Of rows. Only files of this machine are opened, and of many only 500, evenly spaced.
    """
    files = [video for video in videos if isinstance(video, str) and os.path.isfile(video)]
    count = min(len(files), MAX_LOOKED_AT)
    lengths, num_broken = [], 0
    for file in (files[i * len(files) // count] for i in range(count)):
        try:
            length = header_seconds(file)
        except VideoReadError:
            num_broken += 1
        else:
            lengths += [] if length is None else [length]
    parts = []
    if lengths:
        limit = max(_TIMES * median(lengths), median(lengths) + _SECONDS_MORE)
        long = [length for length in lengths if length > limit]
        parts.append(_range([length for length in lengths if length <= limit]))
        if long:
            parts.append(f"{len(long)} of {_range(long)}")
    if num_broken:
        parts.append(f"{num_broken} cannot be opened")
    if parts and len(files) > MAX_LOOKED_AT:
        parts.append(f"in a sample of {MAX_LOOKED_AT}")
    return ", ".join(parts)


def header_seconds(file: str) -> float | None:
    """Seconds that a video file lasts, from its header; None if that does not tell.

    Raises:
        VideoReadError: If it cannot be opened, or is no video.
    """
    with named_errors(file), SeekableVideo(file, VideoLimits(), Deadline(_SECONDS)) as video:
        return video.header_duration


def _range(lengths: Sequence[float]) -> str:
    low, high = (f"{length:.2g}" if length < 10 else f"{length:.0f}" for length in (min(lengths), max(lengths)))
    return f"{low} s" if low == high else f"{low} to {high} s"
