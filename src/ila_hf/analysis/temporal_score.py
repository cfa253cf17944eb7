# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How much of a model's accuracy needs time (Table 13): the command `ila-hf temporal-score`."""

import argparse
import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from ..data.class_labels import read_labels
from ..evaluation import metrics
from ..evaluation.reports import read_confusion_matrix
from .temporal_classes import TEMPORAL_CLASSES


def temporal_score(
    class_accuracies: Mapping[str, float], temporal: Sequence[str], static: Sequence[str]
) -> dict[str, float]:
    """How much better a model is at classes that need time than at those that a frame gives away (Table 13).

    The paper takes the two lists from Sevilla-Lara et al., "Only Time Can Tell" (arXiv 1907.08340). Its temporal score
    is the difference, as the rows of Table 13 show. There, models are trained on the classes of two data sets
    together; here it is computed for the classes of one.

    Args:
        class_accuracies: Accuracy of each class by name, in any unit.
        temporal: Classes that need time. A name that repeats counts once.
        static: Classes that a single frame tells.

    Returns:
        Figures by name. `temporal_accuracy` and `static_accuracy` are the means over the classes of each list, in the
        unit of the input, `temporal_score` is temporal minus static.

    Raises:
        ValueError: If a list is empty, if a class is in both, or if it has no accuracy.
    """
    both = sorted(set(temporal) & set(static))
    if both:
        raise ValueError(f"A class must be temporal or static, got in both lists: {both}.")
    means = {}
    for kind, names in (("temporal", temporal), ("static", static)):
        if not names:
            raise ValueError(f"The list of {kind} classes must name at least one, got none.")
        for name in names:
            if name not in class_accuracies:
                nearest = difflib.get_close_matches(name, class_accuracies, n=1, cutoff=0.0)
                known = f"the nearest that has is {nearest[0]!r}" if nearest else "no class has"
                raise ValueError(f"The {kind} class {name!r} has no accuracy; {known}.")
        means[kind] = float(np.mean([class_accuracies[name] for name in dict.fromkeys(names)]))
    return {
        "temporal_accuracy": means["temporal"],
        "static_accuracy": means["static"],
        "temporal_score": means["temporal"] - means["static"],
    }


def benchmark_classes(benchmark: str, label_names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The temporal and the static classes of one of `TEMPORAL_CLASSES`, but for those that are in both lists.

    Args:
        benchmark: "kinetics-400" or "something-something-v1".
        label_names: All classes, in the order of their ids: for Kinetics-400 the alphabetical one.

    Raises:
        ValueError: For another number of classes.
    """
    classes = TEMPORAL_CLASSES[benchmark]
    if len(label_names) != classes.num_classes:
        raise ValueError(f"{benchmark} has {classes.num_classes} classes, the confusion matrix {len(label_names)}.")
    both = set(classes.temporal) & set(classes.static)
    temporal, static = ([label_names[i] for i in ids if i not in both] for ids in (classes.temporal, classes.static))
    return temporal, static


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf temporal-score`."""
    parser.add_argument("--confusion_matrix", required=True, help="csv that an evaluation wrote")
    parser.add_argument("--temporal_classes", help="text file, a class name per line")
    parser.add_argument("--static_classes", help="text file, a class name per line")
    parser.add_argument(
        "--benchmark", choices=list(TEMPORAL_CLASSES), help="instead of the two: the lists that the paper takes"
    )


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf temporal-score`.

    Raises:
        ValueError: For lists and a benchmark, or neither; see [`benchmark_classes`] and [`temporal_score`].
    """
    matrix, names = read_confusion_matrix(arguments.confusion_matrix)
    files = (arguments.temporal_classes, arguments.static_classes)
    if (arguments.benchmark is None) != all(files) or (arguments.benchmark is not None and any(files)):
        raise ValueError("Pass `temporal_classes` and `static_classes`, or `benchmark`.")
    if arguments.benchmark is None:
        temporal, static = map(read_labels, files)
    else:
        temporal, static = benchmark_classes(arguments.benchmark, names)
    scores = temporal_score(metrics.class_accuracies(matrix, names), temporal, static)
    for name, value in scores.items():
        print(f"{name}: {100 * value:.2f} %")
