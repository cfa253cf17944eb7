"""The counts of FLOPs, compared with those that README and docs state, and with a formula."""

import json
from pathlib import Path

import pytest

from ila_hf import PRESET_NAMES, ILAConfig
from ila_hf.__main__ import main
from ila_hf.analysis.flops import clip_flops, flops_by_part, parameters_by_part, trunk_flops
from ila_hf.analysis.paper_tables import TABLES


@pytest.mark.slow
def test_flops_of_the_ten_variants():
    """What the docs state; the published figures differ by up to 2 % (B/32: -7 %, the last row: +14 %)."""
    expected = (37.3, 74.9, 148.7, 298.5, 675.6, 3186.6, 214.1, 438.7, 891.2, 4226.4)
    for name, value in zip(PRESET_NAMES, expected, strict=True):
        assert trunk_flops(ILAConfig.from_preset(name)) == pytest.approx(value, rel=0.01)
    released = {"ila-base-patch32": 49.9, "ila-base-patch16": 198.6}
    for name, value in released.items():
        config = ILAConfig.from_preset(name, architecture="released")
        assert trunk_flops(config) == pytest.approx(value, rel=0.01)


def test_clip_costs_what_its_matrices_cost():
    """8 frames, 12 layers, L = 197 tokens of width D = 768: 12 D² L + 2 D L² a layer, and the patches."""
    config = ILAConfig.from_preset("ila-base-patch16")
    layer = 12 * 768**2 * 197 + 2 * 768 * 197**2
    patches = 196 * 768 * 3 * 16**2
    assert clip_flops(config) == pytest.approx(8 * (12 * layer + patches) / 1e9)


def test_a_trunk_that_aligns_nowhere_costs_as_much_as_clip():
    config = ILAConfig.from_preset("ila-base-patch16", vision_config={"alignment_layers": []})
    assert trunk_flops(config) == clip_flops(config)


@pytest.mark.parametrize(
    ("tables", "count"),
    [
        ("9", 3),
        pytest.param("1 2 3 4 7 8 15", 16 + 7 + 4 + 8 + 5 + 2 + 1, marks=pytest.mark.slow),
    ],
)
def test_the_tables_of_the_paper_are_those_of_the_docs(capsys, tables, count):
    """Every row that the docs show, as the command prints it."""
    page = (Path(__file__).parents[2] / "docs" / "laboratory.md").read_text()
    main(["flops", "--table", *tables.split()])
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ") and "published" not in line]
    assert len(rows) == count
    for row in rows:
        assert row in page


@pytest.mark.parametrize(
    ("fields", "part", "expected"),
    [
        ({"num_frames": 32}, "trunk", 562.0),
        (
            {"num_frames": 16, "integration_module": "evl", "integration_options": {"frame_difference": False}},
            "all",
            296.0,
        ),
    ],
)
def test_what_the_docs_say_of_two_figures(fields, part, expected):
    """ActionCLIP's is CLIP's, and EVL's has no frame-difference attention."""
    fields = {"vision_config": {"temporal_module": "none"}, "prompt_num_hidden_layers": 0, **fields}
    config = ILAConfig.from_preset("ila-base-patch16", **fields)
    assert flops_by_part(config)[part] == pytest.approx(expected, abs=0.05)
    assert clip_flops(config) == pytest.approx(flops_by_part(config)["trunk"])


def test_parts_of_a_model(tmp_path, capsys):
    """The parts of CLIP's layers are their matrices; what a module adds is its own."""
    config = ILAConfig.from_preset("ila-base-patch32", vision_config={"temporal_module": "aim"})
    found, sizes = flops_by_part(config), parameters_by_part(config)
    tokens = 8 * 50
    assert found["MLP"] == pytest.approx(12 * tokens * 8 * 768**2 / 1e9)
    assert found["temporal modules"] == pytest.approx(12 * tokens * 3 * 2 * 768 * 192 / 1e9)
    assert found["embeddings"] == pytest.approx(8 * 49 * 768 * 3 * 32**2 / 1e9)
    within, over_time = (12 * (4 * tokens * 768**2 + 2 * 768 * pairs) / 1e9 for pairs in (8 * 50**2, 50 * 8**2))
    assert found["attention"] == pytest.approx(within)
    parts = sum(found[part] for part in ("embeddings", "attention", "MLP", "temporal modules"))
    assert found["trunk"] == pytest.approx(parts + over_time)
    assert found["trunk"] + found["head"] == pytest.approx(found["all"])
    assert sizes["temporal modules"] == pytest.approx(12 * 3 * (2 * 768 * 192 + 768 + 192) / 1e6)
    assert sizes["MLP"] == pytest.approx(12 * (8 * 768**2 + 5 * 768) / 1e6)
    plain = ILAConfig.from_preset("ila-base-patch32", vision_config={"alignment_layers": []})
    assert flops_by_part(plain)["trunk"] == pytest.approx(clip_flops(plain))
    assert flops_by_part(plain)["temporal modules"] == 0

    linear = ILAConfig.from_preset("ila-base-patch16-ssv2", architectures=["ILAForVideoClassification"])
    linear.save_pretrained(tmp_path)
    main(["flops", "--model", str(tmp_path), "--num_frames", "16"])
    text = capsys.readouterr().out
    linear.num_frames = 16
    assert f"| trunk | {trunk_flops(linear):.2f} |" in text
    fields = '{"alignment_join": "concatenate"}'
    main(["flops", "--model", "ila-base-patch32", "--vision_config", fields])
    joined = ILAConfig.from_preset("ila-base-patch32", vision_config=json.loads(fields))
    assert f"| trunk | {trunk_flops(joined):.2f} |" in capsys.readouterr().out
    for words, message in (
        (["--model", str(tmp_path), "--table", "4"], "Pass `model` or `table`"),
        (["--model", str(tmp_path), "--vision_config", "{}"], "`vision_config` is for presets: ila-base-patch32,"),
        (["--vision_config", "{}"], "`vision_config` is for `model`: the rows of the tables have theirs"),
        (["--model", "ila-base-patch32", "--vision_config", '{"join": "add"}'], "that ILAVisionConfig has not: join"),
        (["--model", "ila-base-patch32", "--vision_config", "[1]"], "needed is a json object such as"),
        (["--model", "ila-base-patch32", "--vision_config", '{"alignment_join": "on"}'], "alignment_join"),
    ):
        with pytest.raises(SystemExit):
            main(["flops", *words])
        assert message in capsys.readouterr().err


def test_what_the_docs_say_of_addition():
    """With one linear layer of the patches in each of the layers, and with two."""
    (row,) = (row for row in TABLES["9"] if row.name == "addition")
    counted, linear = flops_by_part(row.config())["all"], 12 * 8 * 49 * 768**2 / 1e9
    assert f"one D→D would make it {counted + linear:.1f}, two {counted + 2 * linear:.1f}" in row.note
