# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""How much of a model's accuracy needs time (Table 13): the command `ila-hf temporal-score`.

ila-hf temporal-score --confusion_matrix M --benchmark kinetics-400     # temporal classes less static ones
ila-hf temporal-score --model M --videos V [--pairs]                    # clips, the same with shuffled frames, pairs
"""

import argparse
import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from ..data.class_labels import read_labels
from ..evaluation import metrics
from ..evaluation.reports import read_confusion_matrix
from .frame_order import score_videos
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
        ValueError: For another number of classes, and for another order.
    """
    classes = TEMPORAL_CLASSES[benchmark]
    if len(label_names) != classes.num_classes:
        raise ValueError(f"{benchmark} has {classes.num_classes} classes, the confusion matrix {len(label_names)}.")
    for i, name in zip(classes.temporal, classes.names, strict=False):  # those of Something-Something have none here
        if label_names[i].replace("_", " ").lower() != name:
            raise ValueError(f"Class {i} of {benchmark} is {name!r}, that of the confusion matrix {label_names[i]!r}.")
    both = set(classes.temporal) & set(classes.static)
    temporal, static = ([label_names[i] for i in ids if i not in both] for ids in (classes.temporal, classes.static))
    return temporal, static


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf temporal-score`."""
    parser.add_argument("--confusion_matrix", help="csv that an evaluation wrote")
    parser.add_argument("--temporal_classes", help="text file, a class name per line")
    parser.add_argument("--static_classes", help="text file, a class name per line")
    parser.add_argument(
        "--benchmark", choices=list(TEMPORAL_CLASSES), help="instead of the two: the lists that the paper takes"
    )
    parser.add_argument("--model", help="instead of the matrix: folder or Hub id of a model, to run on videos")
    parser.add_argument("--videos", help="folder or list of labelled videos")
    parser.add_argument(
        "--pairs", action="store_true", help="videos 2 i and 2 i + 1 are a minimal pair, as `ila-hf motion-videos` has"
    )
    parser.add_argument("--batch_size", type=int, default=8, help="clips that the model sees at once")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf temporal-score`.

    Raises:
        ValueError: For a confusion matrix and a model, or neither, and a model without videos; for lists and a
            benchmark, or neither; see [`benchmark_classes`], [`temporal_score`] and [`score_videos`].
    """
    of_matrix = (arguments.temporal_classes, arguments.static_classes, arguments.benchmark)
    if (arguments.model is None) != (arguments.videos is None) or arguments.batch_size < 1:
        raise ValueError("Pass `model` and `videos`, and a `batch_size` of at least 1.")
    if (arguments.confusion_matrix is None) == (arguments.model is None):
        raise ValueError("Pass `confusion_matrix`, or `model` and `videos`.")
    if arguments.model is not None:
        if any(value is not None for value in of_matrix):
            raise ValueError("`temporal_classes`, `static_classes` and `benchmark` are for `confusion_matrix`.")
        found = score_videos(arguments.model, arguments.videos, arguments.pairs, arguments.batch_size)
        for name, value in found._asdict().items():
            if value is not None:
                print(f"{name}: {100 * value:.2f} %")
        return
    if arguments.pairs:
        raise ValueError("`pairs` is for `model` and `videos`.")
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
