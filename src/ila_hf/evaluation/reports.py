# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Tables and pictures that a training or an evaluation leaves in its output folder, which must exist."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .metrics import check_confusion_matrix, class_accuracies


CORNER = r"true \ predicted"
UNREADABLE = "unreadable"
MAX_NAMED_CLASSES = 60  # more names than this cannot be read on the axes
MAX_NAME_LENGTH = 40

# What is drawn of a training's log, and its name in the picture
LOSSES = {
    "loss": "training",
    "classification_loss": "training, classification",
    "alignment_loss": "training, alignment",
    "eval_loss": "evaluation",
}
ACCURACIES = {"eval_top1": "top-1", "eval_top5": "top-5", "eval_mean_class_accuracy": "mean over classes"}


def _columns(matrix: np.ndarray, label_names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Counts and column names, the last column only where a clip had no prediction."""
    matrix = check_confusion_matrix(matrix, label_names)
    if matrix[:, -1].any():
        return matrix, [*label_names, UNREADABLE]
    return matrix[:, :-1], list(label_names)


def _write_csv(path: str | Path, rows: Iterable[Sequence[Any]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_confusion_matrix(path: str | Path, matrix: np.ndarray, label_names: Sequence[str]) -> None:
    r"""Write a csv with a row per true class, headed `true \ predicted` and the class names.

    A last column `unreadable` counts the clips without a prediction, if there are any.

    Args:
        path: File to write.
        matrix (K, K + 1): Counts, as [`VideoClassificationMetric`] leaves them.
        label_names: The K class names.

    Raises:
        ValueError: If the matrix and the names do not fit, or if names repeat.
    """
    counts, columns = _columns(matrix, label_names)
    rows = [[name, *row] for name, row in zip(label_names, counts.tolist(), strict=True)]
    _write_csv(path, [[CORNER, *columns], *rows])


def read_confusion_matrix(path: str | Path) -> tuple[np.ndarray, list[str]]:
    """Read a csv of `write_confusion_matrix`.

    Returns:
        Counts (K, K + 1), the last column of the clips without a prediction, and the K class names.

    Raises:
        ValueError: If the file is no such csv.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    names = [row[0] for row in rows if row]
    if not names or header not in ([CORNER, *names], [CORNER, *names, UNREADABLE]):
        expected = f"its first row must be {CORNER!r} and the names of the other rows, in their order"
        raise ValueError(f"{str(path)!r} is not a confusion matrix: {expected}; got the first row {header}.")
    matrix = np.zeros((len(names), len(names) + 1), np.int64)
    for i, (name, *counts) in enumerate(row for row in rows if row):
        if len(counts) != len(header) - 1 or not all(count.isdecimal() for count in counts):
            raise ValueError(f"{str(path)!r} must count clips in every column, got {counts} for {name!r}.")
        matrix[i, : len(counts)] = [int(count) for count in counts]
    return check_confusion_matrix(matrix, names), names


def write_class_table(path: str | Path, matrix: np.ndarray, label_names: Sequence[str]) -> None:
    """Write a csv with a row per class: how many of its clips are right, and what the others are taken for.

    The columns are `class`, `clips`, `correct`, `accuracy` (in [0, 1]; empty for a class without clips),
    `most_confused_with` (the other class predicted most often, of equals the first) and `most_confused_clips`; the
    last two are empty where no other class was predicted.

    Args and errors as in [`write_confusion_matrix`].
    """
    accuracies = class_accuracies(matrix, label_names)
    rows: list[list[Any]] = [["class", "clips", "correct", "accuracy", "most_confused_with", "most_confused_clips"]]
    for i, name in enumerate(label_names):
        others = np.array(matrix[i, :-1])
        others[i] = 0
        most = int(others.argmax())
        confused = [label_names[most], int(others[most])] if others.any() else ["", ""]
        accuracy = f"{accuracies[name]:.4f}" if name in accuracies else ""
        rows.append([name, int(matrix[i].sum()), int(matrix[i, i]), accuracy, *confused])
    _write_csv(path, rows)


def draw_confusion_matrix(path: str | Path, matrix: np.ndarray, label_names: Sequence[str]) -> None:
    """Draw, as a png, the share of the clips of each true class (rows) that are taken for each class (columns).

    The rows of classes without clips stay white. Up to 60 classes have their names at the axes, and cells the numbers
    of their clips; more have ids. A last column `unreadable` stands for the clips without a prediction, if there are
    any.

    Args and errors as in [`write_confusion_matrix`].
    """
    counts, columns = _columns(matrix, label_names)
    clips = counts.sum(axis=1, keepdims=True)
    shares = np.where(clips > 0, counts / np.maximum(clips, 1), np.nan)
    inches = 4 + 0.2 * min(len(label_names), MAX_NAMED_CLASSES)
    figure = Figure(figsize=(inches, inches), dpi=100, layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, vmin=0, vmax=1, aspect="auto")
    figure.colorbar(picture, ax=axes, label="share of the clips of the true class")
    axes.set(xlabel="predicted class", ylabel="true class")
    if len(label_names) <= MAX_NAMED_CLASSES:
        # Names may hold the dollars that would start a formula
        axes.set_xticks(range(len(columns)), _shorten(columns), rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(len(label_names)), _shorten(label_names), fontsize=8, parse_math=False)
        for row, column in np.argwhere(counts).tolist():
            colour = "black" if shares[row, column] > 0.5 else "white"  # the colours of large shares are light
            count = str(counts[row, column])
            axes.text(column, row, count, ha="center", va="center", fontsize=8 if len(count) < 4 else 5, color=colour)
    figure.savefig(path, format="png")


def _shorten(names: Sequence[str]) -> list[str]:
    return [name if len(name) <= MAX_NAME_LENGTH else f"{name[: MAX_NAME_LENGTH - 1]}…" for name in names]


def draw_curves(path: str | Path, log_history: Sequence[Mapping[str, Any]]) -> bool:
    """Draw, as a png, the losses and the accuracies of a training over its steps.

    Args:
        path: File to write.
        log_history: Entries as in `TrainerState.log_history`: a `step` and some of `loss`, `classification_loss`,
            `alignment_loss`, `eval_loss`, and of `eval_top1`, `eval_top5`, `eval_mean_class_accuracy`, which are in
            [0, 1]. Missing and non-finite values are passed over.

    Returns:
        Whether there was anything to draw; if not, no file is written.
    """
    panels = [
        ("loss", {label: _curve(log_history, key) for key, label in LOSSES.items()}),
        ("accuracy in %", {label: _curve(log_history, key, 100) for key, label in ACCURACIES.items()}),
    ]
    if not any(points for _, curves in panels for points in curves.values()):
        return False
    figure = Figure(figsize=(11, 4.5), dpi=100, layout="constrained")
    for axes, (title, curves) in zip(figure.subplots(1, 2), panels, strict=True):
        _draw_panel(axes, title, curves)
    figure.savefig(path, format="png")
    return True


def _curve(log_history: Sequence[Mapping[str, Any]], key: str, factor: float = 1) -> list[tuple[float, float]]:
    """Steps and values of one figure."""
    pairs = [(entry.get("step"), entry.get(key)) for entry in log_history]
    return [
        (float(step), factor * float(value))
        for step, value in pairs
        if isinstance(step, Real) and isinstance(value, Real) and math.isfinite(value)
    ]


def _draw_panel(axes: Axes, title: str, curves: Mapping[str, list[tuple[float, float]]]) -> None:
    axes.set(xlabel="step", ylabel=title)
    for label, points in curves.items():
        if points:
            # A single point has no line to be seen by
            axes.plot(*zip(*points, strict=True), label=label, marker="." if len(points) < 50 else "")
    if any(curves.values()):
        axes.legend()
        axes.grid(alpha=0.3)
    else:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, f"no {title.split()[0]} logged", ha="center", va="center", transform=axes.transAxes)
