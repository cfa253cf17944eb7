"""benchmarks/speed.py and read_ahead.py on models that are small enough, and the page that shows their results."""

import importlib.util
import itertools
import json
from collections import Counter
from pathlib import Path

import pytest
import torch
from test_examples import load_script

from ila_hf import ILAForVideoClassification, ILAVisionConfig
from ila_hf.analysis.benchmark import Measurement, markdown_table
from ila_hf.demo.tiny import tiny_config


ROOT = Path(__file__).parents[1]


@pytest.fixture
def speed(monkeypatch):
    script = load_script("benchmarks/speed.py")
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    monkeypatch.setattr(script, "WIDTHS", small)
    return script


def run(script, monkeypatch, folder, *arguments):
    arguments = ["speed.py", "--output_file", str(folder / "speed.json"), "--picture_dir", str(folder), *arguments]
    monkeypatch.setattr("sys.argv", arguments)
    script.main()
    return json.loads((folder / "speed.json").read_text())


@pytest.mark.slow
def test_all_models_are_timed_and_in_the_table(speed, tmp_path, monkeypatch, capsys):
    cases = ["b32-1", "training", "8-frames", "16-frames", "49-patches", "100-patches"]
    cases += ["types"] if importlib.util.find_spec("torchao") else []  # it needs a newer torch than the lowest
    found = run(speed, monkeypatch, tmp_path, "--rounds", "3", "--cases", *cases)
    for name, rows in found["cases"].items():
        first = [speed.SHORT] if name in speed.LENGTHS else []
        assert [each["name"] for each in rows] == [*first, *speed.CASES[name][0]]
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "| | b32-1 | training |"
    assert ("| CLIP, int8 |" in printed) == ("types" in cases)
    assert all((tmp_path / name).stat().st_size for name in ("speed.svg", "speed_over_length.svg"))
    again = run(speed, monkeypatch, tmp_path, "--report")
    assert again == found
    assert capsys.readouterr().out == printed


def test_a_case_that_is_run_again_is_replaced(speed, tmp_path, monkeypatch):
    first = run(speed, monkeypatch, tmp_path, "--rounds", "3", "--cases", "8-frames", "16-frames")
    second = run(speed, monkeypatch, tmp_path, "--rounds", "3", "--cases", "16-frames", "checkpointing", "profile")
    assert second["cases"]["8-frames"] == first["cases"]["8-frames"]
    assert second["cases"]["16-frames"] != first["cases"]["16-frames"]
    assert list(second["machines"]) == ["8-frames", "16-frames", "checkpointing", "profile"]
    assert [each["name"] for each in second["cases"]["checkpointing"]] == ["ILA", "ILA, checkpointing"]
    for operators in second["profile"].values():
        assert operators["the whole trunk"] > operators["all of the alignment"] > operators["mkldnn_convolution"] > 0


def test_operators_of_all_designs_are_told(speed):
    found = speed.profile_trunks("cpu", rounds=1)
    assert [name for name in found if name.startswith("CLIP")] == ["CLIP, B/32", "CLIP, B/16"]
    assert len(found) == 2 * (1 + 2 * len(speed.DESIGNS))
    for operators in found.values():
        total, *parts = operators.values()
        assert total > max(parts) > 0
        assert total == pytest.approx(sum(parts), abs=0.01 * len(operators))
        assert list(operators) == list(found["CLIP, B/32"])
    lines = speed.profile_table(found).splitlines()
    assert lines[2].startswith("| the whole trunk |")
    of_training = speed.profile_training("cpu", rounds=1)
    assert len(of_training) == 1 + len(speed.DESIGNS)
    assert all("convolution_backward" in times for times in of_training.values())


def test_operators_are_told_as_if_at_one_speed(speed):
    """Of a machine that becomes slower with every step."""
    steps = itertools.count(1)

    class Fake:
        def __init__(self, **work):
            self.work = work

        def __call__(self):
            slow = next(steps)
            return Counter({name: slow * time for name, time in self.work.items()}), Counter()

    probes = {"CLIP": Fake(mm=10.0), "ILA": Fake(mm=10.0, cat=1.0), "token": Fake(mm=12.0)}
    found = {name: whole for name, (whole, _) in speed.profiled(probes, rounds=5).items()}
    assert found["ILA"]["cat"] == pytest.approx(found["ILA"]["mm"] / 10)
    assert found["ILA"]["mm"] == pytest.approx(found["CLIP"]["mm"])
    assert found["token"]["mm"] == pytest.approx(1.2 * found["CLIP"]["mm"])


def test_the_first_compilation_of_a_process_is_not_told(speed, monkeypatch):
    """It takes seconds that no later one does."""
    clock, seconds = [0.0], iter((50, 3, 4))

    class Compiled:
        def __call__(self):
            clock[0] += next(seconds)

    monkeypatch.setattr(speed, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(speed, "make_step", lambda *arguments: Compiled())
    assert speed.time_compilation("cpu") == {"1 layers": 3, "12 layers": 4}


def test_another_device_leaves_the_files_of_the_page(speed, tmp_path, monkeypatch, capsys):
    """Here without one: what would be timed is faked."""
    asked = []
    monkeypatch.setattr(speed, "RESULTS", tmp_path)
    monkeypatch.setattr(speed, "draw", lambda *arguments: pytest.fail("drawn"))
    monkeypatch.setattr(speed, "run_case", lambda case, rounds, seconds, device: asked.append((case, device)) or [])
    for name in speed.OTHER_CASES:
        monkeypatch.setitem(speed.OTHER_CASES, name, lambda device, name=name: asked.append((name, device)) or {})
    monkeypatch.setattr("sys.argv", ["speed.py", "--device", "cuda:0"])
    speed.main()
    assert asked == [(case, "cuda:0") for case in (*speed.CASES, *speed.OTHER_CASES) if case != "onnxruntime"]
    assert [path.name for path in tmp_path.iterdir()] == ["speed_cuda.json"]
    assert capsys.readouterr().out.startswith("onnxruntime is left out")


@pytest.mark.slow
def test_onnxruntime_runs_what_was_exported(speed):
    models, patch, _, (batch, num_frames, size) = speed.CASES["onnxruntime"]
    clips = torch.zeros(batch, num_frames, 3, size, size)
    for name in ("CLIP", "ILA"):
        outputs = models[f"{name}, onnxruntime"](num_frames, patch_size=patch, image_size=size)(clips)
        assert [output.shape[-1] for output in outputs.values()] == [32, 32]
    found = speed.run_case("onnxruntime", 3, 1.0, "cpu")
    assert [each.name for each in found] == list(models)


def test_reading_ahead_is_timed(tmp_path, monkeypatch, capsys):
    script = load_script("benchmarks/read_ahead.py")
    monkeypatch.setattr(script, "SIZE", 64)
    vision = {"image_size": 224, "patch_size": 32, "num_hidden_layers": 1}
    monkeypatch.setattr(script, "make_model", lambda layers: ILAForVideoClassification(tiny_config(vision)).eval())
    file = tmp_path / "read_ahead.json"
    monkeypatch.setattr("sys.argv", ["read_ahead.py", "--count", "3", "--rounds", "2", "--output_file", str(file)])
    threads = torch.get_num_threads()
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    found = json.loads(file.read_text())
    assert [each["name"] for each in found["measurements"]] == [
        "one after the other",
        "only reading",
        "pipeline",
        "pipeline, one worker",
    ]
    assert "| pipeline |" in capsys.readouterr().out


def test_the_page_says_what_was_aimed_at_and_what_is():
    text = " ".join((ROOT / "docs/speed.md").read_text().split())
    found = json.loads((ROOT / "benchmarks/results/speed.json").read_text())
    script = load_script("benchmarks/speed.py")
    assert script.bounds_table(found) in (ROOT / "docs/speed.md").read_text()
    rows = script.ratios_beside_bounds(found)
    reached = {
        name: [ratio <= bound for ratio in ratios if ratio is not None] for name, (bound, ratios) in rows.items()
    }
    assert any(reached["ILA, B/16"][1:])
    assert not any(reached["ILA, B/32"] + reached["ILA, released, B/32"] + reached["ILA, training"])
    assert f"{sum(map(sum, reached.values()))} of {sum(map(len, reached.values()))} are reached, in bold" in text
    for size in ("B/32", "B/16"):
        _, fused, compiled = rows[f"ILA, released, {size}"][1]
        assert f"{compiled:.2f} against {fused:.2f} for {size}" in text

    def added(name, unit):
        cases = [case for case in script.LENGTHS if case.endswith(unit)]
        times = [(int(case.split("-")[0]), script.typical_milliseconds(found, case, name)) for case in cases]
        steps = [(time - other) / (count - fewer) for (fewer, other), (count, time) in itertools.pairwise(times)]
        return " and ".join(", ".join(f"{step:.1f}" for step in part) for part in (steps[:-1], steps[-1:])), steps

    for unit, sentence in {
        "frames": "each further frame takes {} ms",
        "patches": "patch of a frame takes {} ms",
    }.items():
        said, steps = added("ILA", unit)
        assert sentence.format(said) in text
        assert max(steps) < 1.2 * min(steps)  # a straight line
        assert added("joint attention", unit)[1][-1] > 1.3 * added("joint attention", unit)[1][0]
    assert f"{added('joint attention', 'frames')[0]} ms a frame" in text
    assert f"{added('joint attention', 'patches')[0]} ms a patch" in text
    twice = [{row["name"]: row["ratio"] for row in found["cases"][case]} for case in ("b32-1", "8-frames")]
    apart = max(abs(twice[1][name] / ratio - 1) for name, ratio in twice[0].items())
    assert f"the ratios of the two differ by up to {100 * apart:.0f} %" in text
    fused, of_clip = (found["operators"][name] for name in ("ILA, fused, B/32", "CLIP, B/32"))
    more = {name: time - of_clip[name] for name, time in fused.items()}
    whole = f"is {fused['the whole trunk'] / of_clip['the whole trunk']:.2f} of CLIP here"
    assert f"B/32 fused {whole}, {rows['ILA, B/32'][1][1]:.2f} by the clock" in text
    assert f"{more['the whole trunk']:.0f} ms beyond CLIP's, {more['addmm']:.0f} are matrix products" in text
    assert f"{more['mkldnn_convolution']:.0f} convolutions, {more['alignment']:.0f} what is between" in text
    assert f"{more['cat']:.0f} copies that join frames and tokens" in text
    assert f"{more['all other operators']:.0f} operators too short for the table" in text
    assert f"SiLU saves {-more['mul'] - more['sigmoid'] - more['silu_']:.0f}:" in text
    profile = found["profile"]["ILA"]
    assert "a quarter of the alignment's time is its largest matrix product" in text
    assert 0.2 < profile["addmm"] / profile["all of the alignment"] < 0.3
    assert f"takes {profile['cat']:.1f} of the {profile['all of the alignment']:.1f} ms" in text


def test_what_the_temporal_convolution_costs_in_one_map():
    """Why it is not fused: products of a patch, in C/2 channels over three frames and a map to D."""
    config = ILAVisionConfig(hidden_size=768)
    channels, width = config.alignment_hidden_size // 2, config.hidden_size
    assert 3 * channels * width == 2 * (3 * channels**2 + channels * width)


def test_pages_show_what_the_scripts_wrote():
    page = (ROOT / "docs/speed.md").read_text()
    found = json.loads((ROOT / "benchmarks/results/speed.json").read_text())
    script = load_script("benchmarks/speed.py")
    for table in script.tables(found).split("\n\n"):
        assert table in page
    text = " ".join(page.split())
    compilation = found["compilation"]
    assert f"{compilation['12 layers']:g} s for twelve layers and {compilation['1 layers']:g} s for one" in text
    assert found["machines"].keys() == {*found["cases"], *script.OTHER_CASES}
    machine, *others = found["machines"].values()
    assert all(other == machine for other in others)  # the page names one
    where = f"threads of an {machine['processor']}, torch {machine['torch'].split('+')[0]}"
    assert f"{machine['threads']} {where}, transformers {machine['transformers']}" in text
    assert f"two {where}, transformers {machine['transformers']}" in " ".join((ROOT / "README.md").read_text().split())
    ahead = json.loads((ROOT / "benchmarks/results/read_ahead.json").read_text())
    assert markdown_table(Measurement(**row) for row in ahead["measurements"]) in page
