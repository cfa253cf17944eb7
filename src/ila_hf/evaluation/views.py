# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Evaluation over several views, one batch at a time: nothing grows with the number of clips."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from datasets import Dataset

from ..data.video_clips import IGNORED_LABEL, video_name
from ..video_processing_ila import logits_of_views
from .metrics import VideoClassificationMetric


def view_probabilities(model: torch.nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    """Softmax scores (B, K), float32, averaged over the views of every clip, as the paper's 4×3 views.

    Args:
        model: One of the classification models, in evaluation mode.
        pixel_values: One view (B, T, 3, S, S), or V of them (B, V, T, 3, S, S); the model sees them one by one.
    """
    return logits_of_views(pixel_values, lambda view: model(pixel_values=view).logits).softmax(-1).mean(1)


def predict(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Probabilities (B, K) of a batch of `pixel_values` and `labels`; NaN for a clip that could not be read.

    Args:
        model, batch: See [`view_probabilities`]; a label of -100 marks such a clip.

    Raises:
        FloatingPointError: If the model gives others than finite ones for a clip that could be read.
    """
    probabilities = view_probabilities(model, batch["pixel_values"])
    was_read = batch["labels"] != IGNORED_LABEL
    if not probabilities[was_read].isfinite().all():
        raise FloatingPointError("The model predicts values that are not finite: its weights or the clips are not.")
    probabilities[~was_read] = float("nan")
    return probabilities


class Evaluation:
    """Counts what is right, and writes what is predicted, while the batches come in the order of the data set.

    Args:
        label_names: The classes in the order of their ids.
        rows: Rows of `video` and `label`, to name the clips, and the class of those that could not be read. A data set
            whose labels are all negative is only predicted.
        predictions_file: A csv of the five likeliest classes of every clip, written on the way.
    """

    def __init__(
        self, label_names: Sequence[str], rows: Dataset | None = None, predictions_file: str | Path | None = None
    ):
        self.label_names, self.metric = list(label_names), VideoClassificationMetric(label_names)
        self.rows = rows if isinstance(rows, Dataset) else None
        self.true_labels = None if self.rows is None else np.asarray(self.rows["label"])
        self.has_labels = self.true_labels is None or bool((self.true_labels >= 0).any())
        self.predictions_file, self.seen = predictions_file, 0
        self.file: TextIO | None = None

    def __enter__(self) -> "Evaluation":
        if self.predictions_file is not None:
            self.file = Path(self.predictions_file).open("w", newline="", encoding="utf-8")
            ranks = range(1, self.top + 1)
            header = [f"{column}_{rank}" for rank in ranks for column in ("class", "probability")]
            csv.writer(self.file).writerow(["video", "label", *header])
        return self

    def __exit__(self, *error: Any) -> None:
        if self.file is not None:
            self.file.close()

    @property
    def top(self) -> int:
        """How many classes of a clip are written."""
        return min(5, len(self.label_names))

    def add(self, probabilities: torch.Tensor | np.ndarray, labels: torch.Tensor | np.ndarray) -> None:
        """Take a batch into account.

        Args:
            probabilities (B, K): A row of NaN is a clip that could not be read: a miss.
            labels (B,): Class ids; of a data set with rows, theirs count.
        """
        probabilities = torch.as_tensor(probabilities).float().cpu().numpy()
        labels = torch.as_tensor(labels).cpu().numpy()
        place = slice(self.seen, self.seen + len(probabilities))
        self.seen += len(probabilities)
        if self.true_labels is not None:
            labels = self.true_labels[place]
        labels = np.where(labels < 0, IGNORED_LABEL, labels)
        if self.has_labels:
            self.metric.add_batch(predictions=probabilities, references=labels)
        if self.file is not None:
            names = [f"clip {i}" for i in range(place.start, place.stop)]
            if self.rows is not None:
                names = [video_name(video) for video in self.rows[place]["video"]]
            self._write(self.file, names, probabilities, labels)

    def _write(self, file: TextIO, names: list[str], probabilities: np.ndarray, labels: np.ndarray) -> None:
        writer = csv.writer(file)
        for name, row, label in zip(names, probabilities, labels, strict=True):
            best = np.argsort(-row, kind="stable")[: self.top] if not np.isnan(row).any() else np.empty(0, int)
            answers = [value for i in best for value in (self.label_names[i], f"{row[i]:.6g}")] or [""] * 2 * self.top
            writer.writerow([name, "" if label == IGNORED_LABEL else self.label_names[label], *answers])

    def compute(self) -> dict[str, float]:
        """The metrics; none without labels."""
        return self.metric.compute() if self.has_labels else {}
