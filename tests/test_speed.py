"""benchmarks/speed.py on models so small that it takes seconds."""

import json

import pytest
from test_examples import load_script


@pytest.fixture
def speed(monkeypatch):
    script = load_script("benchmarks/speed.py")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(script, "WIDTHS", small)
    return script


def test_every_case_is_timed_and_in_the_table(speed, tmp_path, monkeypatch, capsys):
    file = tmp_path / "speed.json"
    monkeypatch.setattr("sys.argv", ["speed.py", "--rounds", "3", "--output_file", str(file), "--threads", "1"])
    speed.main()
    found = json.loads(file.read_text())
    assert found["rounds"] == 3
    assert list(found["cases"]) == list(speed.CASES)
    for results in found["cases"].values():
        assert list(results) == list(speed.MODELS)
        assert results["CLIP"]["ratio"] == 1
        assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in results.values())
    printed = capsys.readouterr().out
    assert printed.count("\n") == 2 + len(speed.MODELS)
    assert printed.splitlines()[0] == f"| | {' | '.join(speed.CASES)} |"


def test_some_models_and_only_the_report(speed, tmp_path, monkeypatch, capsys):
    file = tmp_path / "speed.json"
    arguments = ["speed.py", "--rounds", "3", "--cases", "training-b32-2", "--models", "paper"]
    monkeypatch.setattr("sys.argv", [*arguments, "--output_file", str(file), "--threads", "1"])
    speed.main()
    first = capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["speed.py", "--report", "--output_file", str(file)])
    speed.main()
    assert capsys.readouterr().out == first
    assert [line.count("to") for line in first.splitlines()[3:]] == [1, 1, 0]
