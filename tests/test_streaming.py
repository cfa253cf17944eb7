"""benchmarks/streaming.py and label.py on little enough, and the page that shows results."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import make_model
from test_examples import load_script


ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _beside_each_other(monkeypatch):
    """As where a script is run: it finds the others of its folder."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.mark.slow
def test_the_script_measures_all_cases(tmp_path, monkeypatch, capsys):
    script = load_script("benchmarks/streaming.py")
    monkeypatch.setattr(
        script, "causal", lambda model_class, first_frame="self": make_model(model_class, {"first_frame": first_frame})
    )
    monkeypatch.setattr(script, "SIZE", 32)
    monkeypatch.setattr(script, "FRAMES", 40)
    monkeypatch.setattr(script, "TRAINING", {"num_train_epochs": 1, "train": 64, "validation": 16})
    file = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["streaming.py", "--rounds", "3", "--output_file", str(file)])
    script.main()
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())
    assert list(found) == ["frame", "frame_on_one_thread", "windows", "memory", "accuracy"]
    assert list(found["memory"]["mebibytes"]) == [str(number) for number in range(2, 41, 2)]
    assert {way for ways in found["accuracy"]["models"].values() for way in ways} == {
        "as trained",
        "cut",
        "behind a still",
        "behind another",
    }
    assert "| next frame |" in printed
    monkeypatch.setattr("sys.argv", ["streaming.py", "--report", "--output_file", str(file)])
    script.main()
    assert capsys.readouterr().out in printed


def test_the_page_shows_what_the_script_wrote():
    script = load_script("benchmarks/streaming.py")
    found = json.loads((ROOT / "benchmarks" / "results" / "streaming.json").read_text())
    page = (ROOT / "docs" / "streaming.md").read_text()
    memory = list(found.pop("memory")["mebibytes"].values())
    text = " ".join(page.split())
    frames = [*found["frame"]["measurements"], *found["frame_on_one_thread"]["measurements"]]
    ratios = {row["case"]: row["ratio"] for row in frames if row["name"] == "next frame"}
    kept = ", ".join(f"{case} ({ratio:.2f})" for case, ratio in ratios.items() if ratio <= 1 / 6)
    assert f"At most a sixth, at which we aimed, are: {kept}." in text
    assert f"it takes {ratios['CLIP']:.2f}, not an eighth" in text
    times = {(row["case"], row["name"]): row["milliseconds"] for row in frames}
    rate = 1000 / times["linear, onnxruntime, one thread", "next frame"]
    assert f"where the linear head on onnxruntime makes {rate:.0f} frames a second" in text
    share = times["linear, onnxruntime, one thread", "next frame"] / times["linear, one thread", "clip"]
    assert f"beside whose the frame would be {share:.2f}" in text
    for table in script.tables(found).split("\n\n"):
        assert table in page
    assert f"from {memory[0]} to {memory[-1]} MiB" in page


def test_what_is_said_of_labelling_is_what_the_script_wrote():
    found = json.loads((ROOT / "benchmarks" / "results" / "label.json").read_text())
    page = " ".join((ROOT / "docs" / "use.md").read_text().split())
    loop, label = (row["milliseconds"] / 1000 for row in found["pipeline"]["measurements"])
    assert f"{label:.1f} s, where a loop over the pipeline takes {loop:.1f} s" in page
    row = found["pipeline"]["measurements"][1]
    assert f"{row['ratio']:.2f} ({row['low']:.2f}-{row['high']:.2f}) of its time" in page
    one, two = (row["milliseconds"] / 1000 for row in found["processes"]["measurements"])
    assert f"two processes with a core each take {two:.1f} s, one {one:.1f} s" in page
    kills = found["kills"]
    assert kills["equal_to_an_uninterrupted_run"]
    assert f"Killed {kills['kills']} times" in page
    assert f"a row for every file, of which {kills['errors']} are damaged" in page
    disk = found["full_disk"]
    assert disk["disk_was_full"]
    assert disk["equal_to_an_uninterrupted_run"]
    assert f"full after {disk['shards_complete_when_it_was']} of {disk['shards']} shards" in page
    assert found["ray_kills"]["equal_to_an_uninterrupted_run"]
    assert f"`--engine ray`, where an actor was killed {found['ray_kills']['kills']} times" in page


@pytest.mark.slow
def test_labelling_is_measured(tmp_path, monkeypatch, capsys):
    """Also that kills lose nothing, at three random moments."""
    script = load_script("benchmarks/label.py")
    for name, value in {"FILES": 40, "DAMAGED": 4, "KILLS": 3, "LARGE_FILES": 6, "COPIES": 2}.items():
        monkeypatch.setattr(script, name, value)
    file, cases = tmp_path / "found.json", ["pipeline", "kills", "processes"]
    monkeypatch.setattr("sys.argv", ["label.py", "--rounds", "2", "--output_file", str(file), "--cases", *cases])
    script.main()
    found = json.loads(file.read_text())
    assert list(found) == cases
    kills = found["kills"]
    assert (kills["files"], kills["different_files"], kills["errors"]) == (40, 40, 4)
    assert kills["equal_to_an_uninterrupted_run"]
    assert "| two processes |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("case", ["full_disk", "ray_kills"])
def test_labelling_goes_on_after_it_was_stopped(case, tmp_path, monkeypatch, capsys):
    script = load_script("benchmarks/label.py")
    if case == "ray_kills":
        pytest.importorskip("ray", reason="Ray has no wheel for this Python")
    else:
        mount = f"unshare --user --map-root-user --mount mount -t tmpfs tmpfs {tmp_path}"
        if subprocess.run(mount, shell=True, capture_output=True, check=False).returncode:
            pytest.skip("mount namespaces are not allowed here")
    for name, value in {"FILES": 60, "DAMAGED": 6, "RAY_KILLS": 2, "SHARD_SIZE": 4}.items():
        monkeypatch.setattr(script, name, value)
    file = tmp_path / "found.json"
    monkeypatch.setattr("sys.argv", ["label.py", "--cases", case, "--output_file", str(file)])
    script.main()
    found = json.loads(file.read_text())[case]
    assert (found["files"], found["different_files"], found["errors"]) == (60, 60, 6)
    assert found["equal_to_an_uninterrupted_run"]
    if case == "ray_kills":
        assert found["kills"] == 2
    else:
        assert found["disk_was_full"]
        assert 0 < found["shards_complete_when_it_was"] < found["shards"] == 15
