"""The temporal score of Table 13: the function and the command."""

from argparse import ArgumentParser

import pytest

from ila_hf.analysis.temporal_score import add_arguments, run, temporal_score


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
