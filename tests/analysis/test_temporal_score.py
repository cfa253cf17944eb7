"""The temporal score of Table 13: the function and the command."""

from argparse import ArgumentParser

import numpy as np
import pytest

from ila_hf.analysis.temporal_classes import TEMPORAL_CLASSES
from ila_hf.analysis.temporal_score import add_arguments, benchmark_classes, run, temporal_score
from ila_hf.evaluation.reports import write_confusion_matrix


def test_temporal_score():
    accuracies = {"fold": 60.0, "unfold": 50.0, "swim": 90.0, "ski": 70.0, "sing": 10.0}
    expected = {"temporal_accuracy": 55.0, "static_accuracy": 80.0, "temporal_score": -25.0}
    assert temporal_score(accuracies, ["fold", "unfold"], ["swim", "ski"]) == expected
    assert temporal_score(accuracies, ["fold", "unfold", "fold"], ["swim", "ski"]) == expected


@pytest.mark.parametrize(
    ("temporal", "static", "message"),
    [
        ([], ["swim"], "list of temporal classes must name at least one"),
        (["fold"], [], "list of static classes must name at least one"),
        (["fold", "swim"], ["swim"], r"in both lists: \['swim'\]"),
        (["fold"], ["swimm"], "static class 'swimm' has no accuracy; the nearest that has is 'swim'"),
    ],
)
def test_bad_temporal_lists(temporal, static, message):
    with pytest.raises(ValueError, match=message):
        temporal_score({"fold": 0.5, "swim": 0.25}, temporal, static)


def test_the_lists_of_the_paper(tmp_path, capsys):
    """Sizes; who is in both; and the score of a model that knows the temporal classes of Kinetics-400 only."""
    assert {name: (len(c.temporal), len(c.static)) for name, c in TEMPORAL_CLASSES.items()} == {
        "kinetics-400": (32, 32),
        "something-something-v1": (18, 18),
    }
    for classes in TEMPORAL_CLASSES.values():
        for ids in (classes.temporal, classes.static):
            assert list(ids) == sorted(set(ids))
            assert ids[-1] < classes.num_classes
    kinetics = TEMPORAL_CLASSES["kinetics-400"]
    assert len(kinetics.names) == 32
    assert list(kinetics.names) == sorted(kinetics.names)
    names = [f"class {i:03}" for i in range(400)]
    with pytest.raises(ValueError, match=r"Class 30 of kinetics-400 is 'bouncing on trampoline', .* 'class 030'"):
        benchmark_classes("kinetics-400", names)
    for i, name in zip(kinetics.temporal, kinetics.names, strict=True):
        names[i] = name.replace(" ", "_").capitalize()
    temporal, static = benchmark_classes("kinetics-400", names)
    assert (temporal[0], static[-1]) == ("Bouncing_on_trampoline", "class 398")
    assert not set(temporal) & set(static)
    somethings = benchmark_classes("something-something-v1", names[:174])
    assert all("class 063" not in each and len(each) == 17 for each in somethings)
    matrix = np.zeros((400, 401), dtype=int)
    for i, name in enumerate(names):
        matrix[i, i if name in temporal else 400] = 3
    write_confusion_matrix(tmp_path / "matrix.csv", matrix, names)
    parser = ArgumentParser()
    add_arguments(parser)
    words = [f"--confusion_matrix={tmp_path / 'matrix.csv'}", "--benchmark=kinetics-400"]
    run(parser.parse_args(words))
    assert capsys.readouterr().out.splitlines()[2] == "temporal_score: 100.00 %"
    for more in (words[:1], [*words, "--static_classes=x"], [words[0], "--static_classes=x"]):
        with pytest.raises(ValueError, match="Pass `temporal_classes` and `static_classes`, or `benchmark`"):
            run(parser.parse_args(more))
    with pytest.raises(ValueError, match="kinetics-400 has 400 classes, the confusion matrix 174"):
        benchmark_classes("kinetics-400", names[:174])


def test_temporal_score_command(tmp_path, capsys):
    (tmp_path / "matrix.csv").write_text("true \\ predicted,fold,swim,unreadable\nfold,1,1,0\nswim,1,6,1\n")
    (tmp_path / "temporal.txt").write_text("fold\n\n")
    (tmp_path / "static.txt").write_text("swim\n")
    parser = ArgumentParser()
    add_arguments(parser)
    files = {"confusion_matrix": "matrix.csv", "temporal_classes": "temporal.txt", "static_classes": "static.txt"}
    run(parser.parse_args([f"--{name}={tmp_path / file}" for name, file in files.items()]))
    assert capsys.readouterr().out.splitlines() == [
        "temporal_accuracy: 50.00 %",
        "static_accuracy: 75.00 %",
        "temporal_score: -25.00 %",
    ]
