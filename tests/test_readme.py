"""Every Python snippet of the README runs, in one folder, as a reader would run them after `make demo`."""

import re
import shutil
from pathlib import Path

import pytest

from ila_hf.tiny import tiny_config, tiny_processor


ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```\n(?:\n((?:    [^\n]*\n)+))?", README, flags=re.DOTALL)


@pytest.mark.parametrize(("code", "printed"), SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(code, printed, tiny_model, video_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny_model().save_pretrained("outputs/demo/model")
    tiny_processor(tiny_config()).save_pretrained("outputs/demo/model")
    shutil.copy(video_file, "clip.mp4")
    exec(compile(code, "README.md", "exec"), {})
    output = capsys.readouterr().out
    if "torch.Size" in printed:
        assert output.strip() == printed.strip()
    elif printed:
        # the scores are those of the demo's model; here, one that was not trained
        lines = [re.fullmatch(r"\s*[a-z_ ]+: [01]\.\d\d", line) for line in (output + printed.rstrip()).splitlines()]
        assert len(lines) == 4
        assert all(lines)


def test_snippets_are_found_and_readme_is_short():
    assert len(SNIPPETS) >= 3
    assert len(README.splitlines()) < 200


def test_links_exist():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_flops_table_is_what_the_script_prints():
    import importlib.util

    spec = importlib.util.spec_from_file_location("count_flops", ROOT / "benchmarks/count_flops.py")
    count_flops = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(count_flops)
    for name, published in count_flops.PUBLISHED.items():
        paper = count_flops.trunk_flops(name)
        token = count_flops.trunk_flops(name, interaction_token=True)
        released = count_flops.trunk_flops(name, architecture="released")
        row = next(line for line in README.splitlines() if line.startswith(f"| `{name}` |"))
        assert row.split(" | ")[2:] == [str(published), f"{paper:.1f}", f"{token:.1f}", f"{released:.1f} |"]
