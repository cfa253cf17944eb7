"""Names of classes, from files of every kind that data sets ship."""

import json

import pytest

from ila_hf.data.class_labels import read_labels


def test_label_files(tmp_path):
    (tmp_path / "labels.csv").write_text('id,name\n1,"b, c"\n0,a\n2,d\n3,e\n4,f\n')
    assert read_labels(tmp_path / "labels.csv") == ["a", "b, c", "d", "e", "f"]
    (tmp_path / "labels.json").write_text(json.dumps({"1": "run", "0": "jump"}))
    assert read_labels(tmp_path / "labels.json") == ["jump", "run"]
    (tmp_path / "labels.txt").write_text("jump\nrun fast\n\n")
    assert read_labels(tmp_path / "labels.txt") == ["jump", "run fast"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "label,number\nx,1\n", r"columns id and name, got \['label', 'number'\]"),
        ("a.csv", "id,name\n1,x\n", r"from 0 to K - 1 once, got the ids \[1\]"),
        ("a.csv", "id,name\n", r"got the ids \[\]"),
        ("a.txt", "\n", r"got the ids \[\]"),
        ("a.csv", "id,name\n0,x\n0,y\n1,z\n", r"from 0 to K - 1 once, got the ids \[0, 0, 1\]"),
        ("a.csv", "id,name\n0,x\n1,x\n", r"names of classes in .* must be different, got \['x'\]"),
        ("a.csv", "id,name\nzero,x\n", r"a\.csv' is not a list of class names: invalid literal"),
        ("a.json", '["x", "y"]', r"a\.json' is not a list of class names"),
        ("a.json", '{"0": "a", "2": "b"}', r"got the ids \[0, 2\]"),
    ],
)
def test_bad_label_files(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_labels(tmp_path / name)
    with pytest.raises(
        FileNotFoundError, match=r"no label file '.*missing\.csv'; for the Hub's use kinetics400 or ssv2"
    ):
        read_labels(tmp_path / "missing.csv")
