"""The tables of the paper on motion videos: the script, and the page that shows what it wrote."""

import json
import sys
from statistics import fmean

import pytest
import torch
from pages import ROOT
from test_examples import load_script

from ila_hf.analysis.ablation import show_mean
from ila_hf.analysis.paper_tables import TABLES


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")  # where a script finds the others
    threads = torch.get_num_threads()
    module = load_script("benchmarks/ablations.py")
    monkeypatch.setattr("compare_architectures.load_backgrounds", list)
    yield module
    torch.set_num_threads(threads)


def run(script, monkeypatch, folder, *words):
    small = ["--steps", "2", "--eval_steps", "1", "--train_clips", "8", "--test_clips", "8", "--batch_size", "8"]
    monkeypatch.setattr(sys, "argv", ["ablations.py", *small, "--output_dir", str(folder), *words])
    script.main()


def test_rows_are_trained_and_scored_once(script, monkeypatch, tmp_path, capsys):
    words = ["--set", "two_events", "--seeds", "0", "--tables", "9"]
    run(script, monkeypatch, tmp_path, *words)
    file = tmp_path / "ablations_two_events_2.json"
    found = json.loads(file.read_text())
    assert found["results"].keys() == {script.run_name(row) for row in TABLES["9"]}
    for runs in found["results"].values():
        (measured,) = runs.values()
        assert list(measured["curve"]) == ["1", "2"]
        assert measured["top1"] == measured["curve"]["2"]  # of a set in pairs: the same clips
        assert 0 <= measured["pair_accuracy"] <= measured["top1"]
        assert 0 <= measured["shuffled_pair_accuracy"] <= measured["shuffled_top1"]
        assert 0 < measured["earth_movers"] <= measured["in_place"]
    printed = capsys.readouterr().out
    assert "two_events, 2 steps, Table 9" in printed
    # The row of ILA itself is in other tables, too, and is not trained again
    assert "| adjacent frame |" in printed
    run(script, monkeypatch, tmp_path, *words)
    assert json.loads(file.read_text()) == found
    with pytest.raises(ValueError, match="holds runs with batch_size=8, not 4"):
        run(script, monkeypatch, tmp_path, *words, "--batch_size", "4")


def test_partners_of_clips(script):
    clips, labels = torch.arange(24.0).view(4, 6), torch.tensor([0, 3, 4, 7])
    both, of_both, pairs = script.with_partners("easy", clips, labels)
    assert torch.equal(both[4:], clips.flip(1))
    assert of_both.tolist() == [0, 3, 4, 7, 1, 2, 5, 6]  # the opposite motions
    assert pairs.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]
    same, of_same, pairs = script.with_partners("noise", clips, labels)
    assert same is clips
    assert of_same is labels
    assert pairs.tolist() == [0, 0, 1, 1]


def test_the_page_shows_what_the_script_wrote(script):
    page = (ROOT / "docs" / "ablations.md").read_text()
    files = sorted((ROOT / "benchmarks/results").glob("ablations_*.json"))
    assert files
    for file in files:
        found = json.loads(file.read_text())
        assert f"## {found['arguments']['set']}, {found['arguments']['steps']} steps" in page
        for table in script.tables(found).values():
            assert table in page


def test_what_is_said_of_noise(script):
    found = json.loads((ROOT / "benchmarks/results/ablations_noise_200.json").read_text())
    top1 = {name: [run["top1"] for run in runs.values()] for name, runs in found["results"].items()}
    shift, token = (
        show_mean([100 * value for value in top1.pop(json.dumps(vision))], 1)
        for vision in ({"temporal_module": "shift"}, {"interaction_token": True})
    )
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"temporal shift beats the interaction token: after 200 steps, {shift} to {token}" in readme
    assert len(top1) == 11
    assert max(map(max, top1.values())) <= 0.5
    page = " ".join((ROOT / "docs" / "ablations.md").read_text().split())
    third, *learned = sorted(100 * run["top1"] for run in found["results"]['{"interaction_token": true}'].values())
    assert f"{learned[0]:.1f} and {learned[1]:.1f} % with two seeds" in page
    assert third == 25  # chance
    distances = {
        row.name: [run["earth_movers"] for run in found["results"][script.run_name(row)].values()]
        for row in TABLES["4"]
        if row.earth_movers is not None
    }
    assert max(distances.pop("ILA")) < min(map(min, distances.values()))
    ours = sorted((run["earth_movers"], 100 * run["top1"]) for run in found["results"]["{}"].values())
    assert f"top-1 {ours[1][1]:.1f} and {ours[0][1]:.1f} %" in page
    assert ours[2][1] > 40
    window = found["results"]['{"alignment_operator": "window_attention"}']
    means = {name: fmean(run["earth_movers"] for run in runs.values()) for name, runs in found["results"].items()}
    assert min(means, key=means.get) == '{"alignment_operator": "window_attention"}'
    assert all(abs(run["top1"] - 0.25) < 0.01 for run in window.values())


def test_without_runs_there_is_no_report(script, tmp_path):
    with pytest.raises(ValueError, match=r"holds no ablations_<set>_<steps>\.json: make runs first"):
        script.report(tmp_path)
