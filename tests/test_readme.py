"""Every Python snippet of the README runs, and its tables are what the scripts print."""

import json
import re

import pytest
from pages import README as PAGE
from pages import ROOT, commands, make_reader_folder, run_snippet, snippets
from test_examples import load_script
from video_files import VIDEOS

from ila_hf import PRESET_NAMES, ILAConfig
from ila_hf.analysis import clip_flops, trunk_flops
from ila_hf.evaluation.published_cards import FIGURES


README = PAGE.read_text()
SNIPPETS = snippets(PAGE)


@pytest.mark.parametrize(("code", "printed"), SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(code, printed, tiny_model, video_file, tmp_path, monkeypatch, capsys):
    make_reader_folder(tmp_path, tiny_model(vision={"first_frame": "self"}), video_file)
    monkeypatch.chdir(tmp_path)
    run_snippet(code, printed, capsys)


def test_snippets_are_found_and_readme_is_short():
    assert len(SNIPPETS) >= 3
    assert len(README.splitlines()) < 200


@pytest.mark.slow
def test_flops_table_is_what_the_script_prints(capsys):
    table = (ROOT / "docs/architecture.md").read_text().splitlines()
    load_script("benchmarks/count_flops.py").main()
    lines = capsys.readouterr().out.splitlines()[2:]
    assert len(lines) == len(PRESET_NAMES) == 10
    for line in lines:
        name, published, paper, _, token, released, _ = (cell.strip() for cell in line.strip("|").split("|"))
        row = next(row for row in table if row.startswith(f"| {name} |"))
        assert row.split(" | ")[2:] == [published, paper, token, f"{released} |"]


def test_published_accuracies_of_the_comparison():
    """Of the largest models: the table and the cards agree."""
    rows = [
        line.split(" | ") for line in (ROOT / "docs/comparison.md").read_text().splitlines() if "published" in line
    ]
    for row, suffix in zip(rows, ("", "-ssv2"), strict=True):
        expected = f"{FIGURES['ila-large-patch14-336-16-frames' + suffix].top1}, ViT-L"
        assert row[1:3] == [expected, expected]


def test_trunk_costs_so_much_more_than_clip():
    """Of the two presets with ViT-B/16 on 8 frames."""
    configs = [ILAConfig.from_preset(name) for name in ("ila-base-patch16", "ila-base-patch16-ssv2")]
    kinetics, ssv2 = (round(100 * (trunk_flops(config) / clip_flops(config) - 1)) for config in configs)
    text = " ".join(README.split())
    assert f"on 8 frames ViT-B/16 costs {kinetics} % more FLOPs than CLIP's, and {ssv2} % more with the dense" in text


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_comparison_is_what_the_script_wrote(name):
    found = json.loads((ROOT / f"benchmarks/results/compare_architectures_{name}.json").read_text())
    script = load_script("benchmarks/compare_architectures.py")
    assert script.table(found) in (ROOT / "docs/miniature.md").read_text()
    for model, runs in found["results"].items():
        statistics = script.mean_and_deviation(runs)
        mean, deviation = statistics[max(statistics)]
        row = next(line for line in README.splitlines() if line.startswith(f"| {model} |"))
        assert row.split(" | ")[1 if name == "easy" else 2].strip(" |") == f"{mean:.1f} ± {deviation:.1f}"
    seconds = {model: sum(times.values()) for model, times in found["cpu_seconds"].items()}
    assert seconds["released"] > 2 * seconds["paper + interaction token"]


def test_reading_is_what_the_script_wrote():
    page = (ROOT / "docs/videos.md").read_text()
    text = " ".join(page.split())
    results = json.loads((ROOT / "benchmarks/results/read_videos.json").read_text())
    table = load_script("benchmarks/read_videos.py").table
    assert table(results["length"], "length") in page
    assert table(results["loader"], "length", "{:.1f}") in page
    assert f"({results['machine'].replace(' 1 ', ' one ')})" in text
    shares = [row.pop("ours") / min(row.values()) for row in results["short"].values()]
    assert f"takes {min(shares):.2f} to {max(shares):.2f} of the time of the fastest other" in text
    ours = {length: row["ours"] for length, row in results["length"].items()}
    long, short = (f"{ours[length]:.0f} ms" for length in ("1600 s", "10 s"))
    assert f"takes {long} from a film of 27 minutes and {short} from a clip of ten" in " ".join(README.split())
    range_of_times = f"{min(ours.values()):.0f} to {max(ours.values()):.0f} ms"
    assert range_of_times in " ".join((ROOT / "docs/use.md").read_text().split())
    memory = results["memory"]["ours"].values()
    assert f"peaks at {min(memory):.1f} to {max(memory):.1f} MiB" in text


def test_kinds_of_files_are_counted():
    assert int(re.search(r"every frame of (\d+)\s+kinds of files", README)[1]) == len(VIDEOS)


def test_fine_tuning_command_has_arguments_that_exist():
    script = load_script("examples/run_video_classification.py")
    flags = next(words[2:] for words in commands(PAGE) if words[:2] == ["ila-hf", "train"])
    classes = (script.ModelArguments, script.DataArguments, script.ILATrainingArguments)
    model, data, training = script.parse_arguments(classes, flags, ROOT / "examples" / "configs")
    assert (model.freeze, data.data_dir, training.label_smoothing_factor) == (["text"], "videos", 0.1)
