# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Accuracies of video classification, from counts alone: their memory does not grow with the number of clips."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
import torch

from ..checks_ila import check_names


UNKNOWN_CLASS = -100
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)
# More than 1 by the rounding of bfloat16, and no more
LARGEST_PROBABILITY = 1.01


class VideoClassificationMetric(evaluate.Metric):  # type: ignore[misc]
    """Top-1, top-5, accuracy per class, loss and confusion matrix. Needs no network and writes no files.

    It is filled and read as every metric of `evaluate`, but keeps counts in place of the predictions. In several
    processes, gather the predictions before adding them.

    A clip counts as hit among the top r if fewer than r classes come before its own: those of a higher probability,
    and of those of equal probability the ones of a lower id. A constant prediction is thus right for class 0 only.

    Args:
        label_names: The K class names, in the order of their ids.

    Attributes:
        confusion_matrix: Number of clips of the last `compute`, (K, K + 1), by true class (rows) and predicted class
            (columns); the last column counts those without a prediction. Zeros before the first `compute`.

    Raises:
        ValueError: If there are no names, or if names repeat.

    Example:

        >>> metric = VideoClassificationMetric(["jump", "run"])
        >>> metric.add_batch(predictions=[[0.75, 0.25], [0.5, 0.5]], references=[0, 1])
        >>> metric.compute()["top1"]
        0.5
    """

    def __init__(self, label_names: Sequence[str]) -> None:
        super().__init__()
        self.label_names = list(label_names)
        shape = (len(self.label_names), len(self.label_names) + 1)
        self.confusion_matrix = check_confusion_matrix(np.zeros(shape, np.int64), self.label_names)
        self._reset()

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Accuracies, loss and confusion matrix of video classification.",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.List(datasets.Value("float32")), "references": datasets.Value("int64")}
            ),
        )

    def _build_data_dir(self) -> str:
        """Where the base class, which makes the folder, would keep all predictions: nowhere."""
        return ""

    def _reset(self) -> None:
        self._confusion = np.zeros_like(self.confusion_matrix)
        self._num_unknown = 0  # clips of unknown class
        self._num_top5 = 0
        self._sum_loss = 0.0

    def __len__(self) -> int:
        """Number of clips added since the last `compute`."""
        return int(self._confusion.sum()) + self._num_unknown

    def add_batch(self, *, predictions: Any, references: Any) -> None:
        """Add B clips.

        Args:
            predictions (B, K): Probabilities, an array, a tensor of any float type or nested lists. A row that holds
                NaN stands for a clip without a prediction, such as a video that cannot be read; it counts as a miss.
            references (B,): Class ids. -100 stands for an unknown class: a miss over all clips, but in no class and
                not in the loss.

        Raises:
            ValueError: If the shapes do not fit, or if a prediction is no probability or a reference no class id.
                Nothing of the batch is counted then.
        """
        num_classes = len(self.label_names)
        probabilities, classes = self._check(predictions, references)
        known = classes != UNKNOWN_CLASS
        self._num_unknown += int((~known).sum())
        probabilities, classes = probabilities[known], classes[known]
        readable = ~np.isnan(probabilities).any(axis=1)
        # argmax, too, takes the lowest of equals
        np.add.at(self._confusion, (classes, np.where(readable, probabilities.argmax(axis=1), num_classes)), 1)

        probabilities, classes = probabilities[readable], classes[readable, None]
        own = np.take_along_axis(probabilities, classes, axis=1)
        before = (probabilities > own) | ((probabilities == own) & (np.arange(num_classes) < classes))
        self._num_top5 += int((before.sum(axis=1) < 5).sum())
        self._sum_loss -= float(np.log(own.clip(SMALLEST_PROBABILITY, 1)).sum())

    def _check(self, predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
        num_classes = len(self.label_names)
        probabilities, classes = _array(predictions).astype(np.float64), _array(references)
        if probabilities.ndim != 2 or probabilities.shape[1] != num_classes:
            raise ValueError(f"Predictions must have the shape (B, {num_classes}), got {probabilities.shape}.")
        if classes.shape != probabilities.shape[:1] or classes.dtype.kind not in "iu":
            expected = f"{len(probabilities)} integers, one per prediction"
            raise ValueError(f"References must be {expected}, got {classes.dtype} of shape {classes.shape}.")
        classes = classes.astype(np.int64)
        wrong = classes[(classes != UNKNOWN_CLASS) & ((classes < 0) | (classes >= num_classes))]
        if wrong.size:
            allowed = f"class ids from 0 to {num_classes - 1}, or {UNKNOWN_CLASS} for an unknown class"
            raise ValueError(f"References must be {allowed}, got {wrong[0]}.")
        improbable = probabilities[(probabilities < 0) | (probabilities > LARGEST_PROBABILITY)]
        if improbable.size:
            raise ValueError(f"Predictions must be probabilities, got {improbable[0]}; logits need a softmax first.")
        return probabilities, classes

    def add(self, *, prediction: Any, reference: Any) -> None:
        """Add one clip: its probabilities (K,) and its class id, as in `add_batch`."""
        self.add_batch(predictions=_array(prediction)[None], references=_array(reference)[None])

    def compute(self, *, predictions: Any = None, references: Any = None) -> dict[str, float]:
        """Figures of all clips since the last `compute`; then start anew.

        Args:
            predictions (B, K): Clips to add first, as in `add_batch`.
            references (B,): Their class ids.

        Returns:
            Figures by name. `top1` and, with more than five classes, `top5` are shares of all clips, in [0, 1].
            `mean_class_accuracy` is the mean over the classes that occur of the share of their clips that are right,
            `loss` that of -log p(true class) over the clips with a prediction and a class, `num_clips` the number of
            all clips, and, where there are any, `num_unreadable` that of those without a prediction or a class. A
            mean over nothing, such as the loss where no video could be read, is NaN.

        Raises:
            ValueError: If there are no clips.
        """
        if predictions is not None or references is not None:
            self.add_batch(predictions=predictions, references=references)
        num_clips = len(self)
        if num_clips == 0:
            raise ValueError("There are no clips to compute the metric of: call `add` or `add_batch` first.")
        self.confusion_matrix = self._confusion
        num_predicted = int(self._confusion[:, :-1].sum())
        accuracies = class_accuracies(self._confusion, self.label_names)
        results = {
            "top1": int(np.trace(self._confusion)) / num_clips,
            **({"top5": self._num_top5 / num_clips} if len(self.label_names) > 5 else {}),
            "mean_class_accuracy": sum(accuracies.values()) / len(accuracies) if accuracies else float("nan"),
            "loss": self._sum_loss / num_predicted if num_predicted else float("nan"),
            "num_clips": float(num_clips),
        }
        num_unreadable = int(self._confusion[:, -1].sum()) + self._num_unknown
        if num_unreadable:
            results["num_unreadable"] = float(num_unreadable)
        self._reset()
        return results


def _array(values: Any) -> np.ndarray:
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values  # numpy has no bfloat16
    return np.asarray(values)


def check_confusion_matrix(matrix: np.ndarray, label_names: Sequence[str]) -> np.ndarray:
    """Return the matrix (K, K + 1) if it fits the K names.

    Raises:
        ValueError: If there are no names, if names repeat, or if the matrix has another shape.
    """
    if not label_names:
        raise ValueError("There must be at least one class name, got none.")
    check_names(label_names, "The names of classes")
    expected = (len(label_names), len(label_names) + 1)
    if np.shape(matrix) != expected:
        raise ValueError(f"A confusion matrix of {expected[0]} classes must be {expected}, got {np.shape(matrix)}.")
    return np.asarray(matrix)


def class_accuracies(confusion_matrix: np.ndarray, label_names: Sequence[str]) -> dict[str, float]:
    """Share of the clips of each class that are right, in [0, 1], for the classes that occur.

    Args:
        confusion_matrix (K, K + 1): As [`VideoClassificationMetric`] leaves it.
        label_names: The K class names.

    Raises:
        ValueError: If the two do not fit, or if names repeat.
    """
    matrix = check_confusion_matrix(confusion_matrix, label_names)
    counts = zip(label_names, matrix.diagonal().tolist(), matrix.sum(axis=1).tolist(), strict=True)
    return {name: correct / clips for name, correct, clips in counts if clips}
