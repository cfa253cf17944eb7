"""The table of docs/comparison.md: every cell is tried again."""

import pytest
import torch
import transformers
from pages import README, ROOT
from test_examples import load_script
from transformers.utils.import_utils import is_torchcodec_available


pytestmark = pytest.mark.skipif(
    not transformers.__version__.startswith("5.23."), reason="the table is of the models in transformers 5.23"
)


def table():
    """Row -> cells."""
    lines = [line for line in (ROOT / "docs/comparison.md").read_text().splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {label: cells for label, *cells in rows}


@pytest.fixture(scope="module")
def script():
    return load_script("benchmarks/compare_features.py")


@pytest.mark.parametrize("label", [label for label in table() if label])
def test_row(label, script):
    if label.startswith("pipeline") and not is_torchcodec_available():
        pytest.skip("transformers' video processors read files with torchcodec alone")
    assert table()[label] == script.row(label)


def test_rows_and_columns(script):
    assert table()[""] == script.COLUMNS
    assert list(table()) == ["", *script.STATED, *script.TRIED]


def test_readme_shows_rows_of_the_page():
    section = README.read_text().split("## Beside other models")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 10
    assert set(rows) <= set((ROOT / "docs/comparison.md").read_text().splitlines())


def test_own_accuracies_are_those_of_the_readme(script):
    published = {
        line.split("`")[1]: line.split(" | ")[1] for line in README.read_text().splitlines() if "| `ila-" in line
    }
    accuracies = [script.STATED[label][0] for label in script.STATED if "top-1" in label]
    assert accuracies == [
        f"{published['ila-large-patch14-336-16-frames']}, ViT-L",
        f"{published['ila-large-patch14-336-16-frames-ssv2']}, ViT-L",
    ]


def test_processors_are_asked(script):
    """A "no" is not for want of a processor, or because it fails: of eight frames each makes a clip."""
    video = torch.zeros(8, 3, 40, 60, dtype=torch.uint8)
    for family in script.FAMILIES:
        assert script._shapes(family, video) == [(1, 8, 3, 32, 32)] * 2, family.name


def test_probes_can_say_no(script, monkeypatch):
    """Without its options, and with positions that do not fit, ILA gets other cells."""
    family = script.FAMILIES[0]
    monkeypatch.setattr(family, "causal", None)
    assert script.is_causal(family) is False
    monkeypatch.setattr(family, "search", lambda: script._ila(script.ILAModel))
    assert script.embeds_texts_alone(family) is False
    monkeypatch.setattr("torch.nn.functional.interpolate", lambda positions, **_: positions)
    assert script.takes_other_frame_counts(family) is False
