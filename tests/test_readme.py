"""Every Python snippet of README and docs runs, in one folder, as a reader would run them after `make demo`."""

import json
import re
import shutil
from pathlib import Path

import pytest
from test_examples import load_script
from transformers import HfArgumentParser
from video_files import VIDEOS

from ila_hf.tiny import tiny_config, tiny_processor


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SNIPPETS = [
    snippet
    for page in PAGES
    for snippet in re.findall(r"```python\n(.*?)```\n(?:\n((?:    [^\n]*\n)+))?", page.read_text(), flags=re.DOTALL)
]


@pytest.mark.parametrize(("code", "printed"), SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(code, printed, tiny_model, video_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("outputs/demo/model")
    tiny_processor(tiny_config()).save_pretrained("outputs/demo/model")
    shutil.copy(video_file, "clip.mp4")
    for name in ("juggling", "dancing"):
        Path("videos/train", name).mkdir(parents=True)
        shutil.copy(video_file, f"videos/train/{name}")
    exec(compile(code, "README.md", "exec"), {})
    output = capsys.readouterr().out
    if "torch.Size" in printed or printed.strip() == "0.5":
        assert output.strip() == printed.strip()
    elif printed:
        # the scores are those of the demo's model; here, one that was not trained
        lines = [re.fullmatch(r"\s*[a-z_ ]+: [01]\.\d\d", line) for line in (output + printed.rstrip()).splitlines()]
        assert len(lines) == 4
        assert all(lines)


def test_snippets_are_found_and_readme_is_short():
    assert len(SNIPPETS) >= 3
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_exist(page):
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        assert target.startswith("https://") or (page.parent / target).exists(), target


def test_flops_table_is_what_the_script_prints():
    count_flops = load_script("benchmarks/count_flops.py")
    for name, published in count_flops.PUBLISHED.items():
        paper = count_flops.trunk_flops(name)
        token = count_flops.trunk_flops(name, interaction_token=True)
        released = count_flops.trunk_flops(name, architecture="released")
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.split(" | ")[2:] == [str(published), f"{paper:.1f}", f"{token:.1f}", f"{released:.1f} |"]


@pytest.mark.parametrize("name", ["easy", "hard"])
def test_comparison_is_what_the_script_wrote(name):
    found = json.loads((ROOT / f"benchmarks/results/compare_architectures_{name}.json").read_text())
    assert load_script("benchmarks/compare_architectures.py").table(found) in README
    seconds = {model: sum(times.values()) for model, times in found["cpu_seconds"].items()}
    assert seconds["released"] > 2 * seconds["paper + interaction token"]


def test_reading_is_what_the_script_wrote():
    page = (ROOT / "docs/videos.md").read_text()
    results = json.loads((ROOT / "benchmarks/results/read_videos.json").read_text())
    table = load_script("benchmarks/read_videos.py").table
    assert table(results["length"], "length") in page
    assert table(results["loader"], "length", "{:.1f}") in page
    others = [{name: time for name, time in row.items() if "ours" not in name} for row in results["short"].values()]
    ours = [row["ours, PyAV"] for row in results["short"].values()]
    shares = [time / min(row.values()) for time, row in zip(ours, others, strict=True)]
    assert f"take {min(shares):.2f} to {max(shares):.2f} of the time of the fastest other reader" in page
    short, long = (round(results["length"][length]["ours, PyAV"]) for length in ("10 s", "1600 s"))
    assert f"a film of 27 minutes take {long} ms, of ten seconds {short}" in README


def test_kinds_of_files_are_counted():
    assert int(re.search(r"every frame of (\d+)\s+kinds of files", README)[1]) == len(VIDEOS)


def test_fine_tuning_command_has_arguments_that_exist():
    script = load_script("examples/run_video_classification.py")
    command = re.search(r"    python examples/run_video_classification.py (.*?)\n\n", README, re.DOTALL)[1]
    flags = command.replace("\\\n", " ").split()
    classes = (script.ModelArguments, script.DataArguments, script.ILATrainingArguments)
    model, data, training = script.parse_arguments(classes, flags)
    assert (model.freeze, data.train_dir, training.new_lr_factor) == (["text"], "videos/train", 10)


def test_arguments_of_the_guide_exist():
    script = load_script("examples/run_video_classification.py")
    parser = HfArgumentParser((script.ModelArguments, script.DataArguments, script.ILATrainingArguments))
    known = {option for action in parser._actions for option in action.option_strings}
    of_commands = {"--config", "--help", "--confusion_matrix", "--temporal_classes", "--static_classes"}
    found = set(re.findall(r"--[a-z_]{3,}", (ROOT / "docs/training.md").read_text()))
    assert len(found) > 30
    assert found <= known | of_commands
