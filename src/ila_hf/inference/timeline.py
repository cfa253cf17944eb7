# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What happens when: scores over time, turned into a list of classes with their start and end."""

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


SUFFIXES = (".json", ".csv", ".vtt")


class TimelineEntry(NamedTuple):
    """A class that holds for some time.

    Args:
        label: Name of the class.
        start, end: Seconds.
        score: Mean of its smoothed scores in that time.
    """

    label: str
    start: float
    end: float
    score: float


class Timeline(list[TimelineEntry]):
    """Classes with their start and end, in the order of their start."""

    @classmethod
    def from_predictions(
        cls,
        predictions: Iterable[dict[str, Any]],
        threshold: float = 0.5,
        smoothing_seconds: float = 0.0,
        min_seconds: float = 0.0,
        merge_seconds: float = 0.0,
    ) -> "Timeline":
        """Turn scores into a timeline, class by class:

        1. A prediction speaks for the middle of its time, and from halfway to the one before until halfway to the
           next; the first and the last also for the rest of their own time.
        2. Scores are averaged over the predictions whose middle is within half of `smoothing_seconds`.
        3. A class holds where its score is at least `threshold`. From 0.5 on, that is one softmax class at most.
        4. Two times of a class that are at most `merge_seconds` apart are one. Its score is the mean of theirs, by
           their lengths.
        5. What is then shorter than `min_seconds` is left out.

        Args:
            predictions: Of [`Stream`], or of a pipeline with `window_seconds`: dicts of `timestamp` and `labels`. Its
                errors, behind the windows that could be read, are passed over. A class that is not among the labels
                counts as 0: have all classes named (`top_k`) where many are likely.
            threshold: In scores.
            smoothing_seconds, min_seconds, merge_seconds: See above.

        Raises:
            ValueError: For a threshold or seconds below 0, for predictions that go back in time, and for the error of
                a whole video.
        """
        given = {"smoothing_seconds": smoothing_seconds, "min_seconds": min_seconds, "merge_seconds": merge_seconds}
        for name, value in {"threshold": threshold, **given}.items():
            if not value >= 0:
                raise ValueError(f"`{name}` must be 0 or more, got {value!r}.")
        times, rows = [], []
        if isinstance(predictions, dict):
            raise ValueError(f"There are no predictions of a video that could not be read: {predictions}.")
        for prediction in predictions:  # without their frames, which a generator may bring along
            if "error" in prediction:
                continue
            times.append(prediction["timestamp"])
            rows.append({each["label"]: each["score"] for each in prediction["labels"]})
        if not rows:
            return cls()
        middles = np.array(times, dtype=float).mean(axis=1)
        if (np.diff(middles) < 0).any():
            raise ValueError("The predictions go back in time: pass those of one video, in their order.")
        edges = np.concatenate([[times[0][0]], (middles[1:] + middles[:-1]) / 2, [times[-1][1]]])
        first = np.searchsorted(middles, middles - smoothing_seconds / 2 - 1e-9)
        last = np.searchsorted(middles, middles + smoothing_seconds / 2 + 1e-9)
        entries = []
        for label in dict.fromkeys(name for row in rows for name in row):
            sums = np.concatenate([[0.0], np.cumsum([row.get(label, 0.0) for row in rows])])
            scores = (sums[last] - sums[first]) / (last - first)
            entries += [
                entry
                for entry in _merged(_runs(label, edges, scores, threshold), merge_seconds)
                if entry.end - entry.start >= min_seconds
            ]
        return cls(sorted(entries, key=lambda entry: (entry.start, entry.end, entry.label)))

    def to_json(self) -> str:
        """A list of objects."""
        return json.dumps([entry._asdict() for entry in self], indent=1, ensure_ascii=False) + "\n"

    def to_csv(self) -> str:
        """A line of names, and one for each entry (RFC 4180)."""
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(TimelineEntry._fields)
        writer.writerows(self)
        return text.getvalue()

    def to_webvtt(self) -> str:
        """Captions, as players and HTML show them over a video."""
        cues = [
            f"{_clock(entry.start)} --> {_clock(entry.end)}\n{_escaped(entry.label)} ({entry.score:.2f})\n"
            for entry in self
            if _clock(entry.end) > _clock(entry.start)  # a cue must have a length
        ]
        return "\n".join(["WEBVTT\n", *cues])

    def save(self, path: str | Path) -> None:
        """Write .json, .csv or .vtt, as the name ends.

        Raises:
            ValueError: For another name.
        """
        check_suffix(path)
        texts = dict(zip(SUFFIXES, (self.to_json, self.to_csv, self.to_webvtt), strict=True))
        Path(path).write_text(texts[Path(path).suffix.lower()](), encoding="utf-8", newline="")


def check_suffix(path: str | Path) -> None:
    """Raise ValueError for a name that does not end as a timeline does."""
    if Path(path).suffix.lower() not in SUFFIXES:
        raise ValueError(f"A timeline is written as {', '.join(SUFFIXES)}; got {str(path)!r}.")


def _runs(label: str, edges: np.ndarray, scores: np.ndarray, threshold: float) -> list[TimelineEntry]:
    """Where the scores are high enough."""
    holds = np.concatenate([[False], scores >= threshold, [False]])
    changes = np.flatnonzero(holds[1:] != holds[:-1]).reshape(-1, 2)
    lengths = np.diff(edges)
    entries = []
    for begin, end in changes.tolist():
        weights = lengths[begin:end] if lengths[begin:end].any() else None
        score = float(np.average(scores[begin:end], weights=weights))
        entries.append(TimelineEntry(label, float(edges[begin]), float(edges[end]), score))
    return entries


def _merged(entries: list[TimelineEntry], gap: float) -> list[TimelineEntry]:
    merged: list[TimelineEntry] = []
    for entry in entries:
        if not merged or entry.start - merged[-1].end > gap:
            merged.append(entry)
            continue
        before = merged.pop()
        weights = [before.end - before.start, entry.end - entry.start]
        score = float(np.average([before.score, entry.score], weights=weights if any(weights) else None))
        merged.append(TimelineEntry(entry.label, before.start, entry.end, score))
    return merged


def _clock(seconds: float) -> str:
    milliseconds = round(1000 * max(seconds, 0.0))
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\n", " ")
