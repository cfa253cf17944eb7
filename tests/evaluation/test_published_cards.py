"""The cards of the published variants: the paper's figures, marked as such, and commands and code that run."""

import re
import shlex
import shutil
from argparse import ArgumentParser
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from pages import run_card

from ila_hf import PRESET_NAMES, ILAConfig
from ila_hf.conversion.convert_ila_checkpoint import add_arguments as add_convert_arguments
from ila_hf.data.class_labels import HUB_LABELS
from ila_hf.demo.tiny import save_tiny_clip, tiny_config
from ila_hf.evaluation.published_cards import add_arguments, published_card, run


ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"
# preset: (base model, top-1, top-5, published FLOPs, counted FLOPs, T, S)
FIGURES = {
    "ila-base-patch32": ("openai/clip-vit-base-patch32", "81.3", "95.0", "40", "37.3", 8, 224),
    "ila-base-patch32-16-frames": ("openai/clip-vit-base-patch32", "82.4", "95.8", "75", "74.9", 16, 224),
    "ila-base-patch16": ("openai/clip-vit-base-patch16", "84.0", "96.6", "149", "148.7", 8, 224),
    "ila-base-patch16-16-frames": ("openai/clip-vit-base-patch16", "85.7", "97.2", "295", "298.5", 16, 224),
    "ila-large-patch14": ("openai/clip-vit-large-patch14", "88.0", "98.1", "673", "675.6", 8, 224),
    "ila-large-patch14-336-16-frames": (
        *("openai/clip-vit-large-patch14-336", "88.7", "97.8", "3130", "3186.6"),
        *(16, 336),
    ),
    "ila-base-patch16-ssv2": ("openai/clip-vit-base-patch16", "65.0", "89.2", "214", "214.1", 8, 224),
    "ila-base-patch16-16-frames-ssv2": ("openai/clip-vit-base-patch16", "66.8", "90.3", "438", "438.7", 16, 224),
    "ila-large-patch14-ssv2": ("openai/clip-vit-large-patch14", "67.8", "90.5", "907", "891.2", 8, 224),
    "ila-large-patch14-336-16-frames-ssv2": (
        *("openai/clip-vit-large-patch14-336", "70.2", "91.8", "3723", "4226.4"),
        *(16, 336),
    ),
}


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_files_are_what_the_code_renders(preset):
    written = (CARDS / f"{preset}.md").read_bytes().decode()
    assert written == str(published_card(preset)), "renew them: ila-hf model-cards --output_dir model_cards"
    assert str(ModelCard.load(CARDS / f"{preset}.md")) == written
    assert written.endswith("```\n")


def test_there_is_a_file_for_each_preset():
    assert {file.name for file in CARDS.iterdir()} == {f"{preset}.md" for preset in FIGURES}
    assert tuple(FIGURES) == PRESET_NAMES


@pytest.mark.parametrize(("preset", "figures"), FIGURES.items())
def test_published_figures(preset, figures):
    base_model, top1, top5, published, counted, num_frames, size = figures
    card = published_card(preset)
    assert len(str(card).splitlines()) <= 80
    rows = [line for line in card.text.splitlines() if line.startswith("| ")]
    assert rows == [
        "| published by the paper, not measured here | |",
        f"| top-1 and top-5 accuracy, 4 × 3 views (clips × crops) | {top1} %, {top5} % |",
        f"| FLOPs of one view, 1e9 multiply-adds (`ila_hf` counts {counted} for the visual trunk) | {published} |",
    ]
    assert f"on {num_frames} frames of {size}×{size} pixels" in card.text
    assert card.text.count(base_model) == 2  # in the description, and in the code that trains it
    is_ssv2 = preset.endswith("ssv2")
    assert ("Something-Something v2" if is_ssv2 else "Kinetics-400") in card.text
    assert ("do not flip" in card.text) == is_ssv2
    assert (ROOT / "examples" / "configs" / f"{preset}.json").is_file()
    assert f"examples/run_video_classification.py --config {preset}`" in card.text


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_published_front_matter(preset):
    is_ssv2 = preset.endswith("ssv2")
    tags = ["video-classification", "ila", "ila_hf", "clip", "action-recognition"]
    assert yaml.safe_load(str(published_card(preset)).split("\n---\n")[0]) == {
        "library_name": "transformers",
        "pipeline_tag": "video-classification",
        "base_model": FIGURES[preset][0],
        "datasets": ["something-something-v2" if is_ssv2 else "kinetics-400"],
        "license": "unknown",
        "tags": tags if is_ssv2 else [*tags, "zero-shot-video-classification"],
        **({} if is_ssv2 else {"language": "en"}),
    }


@pytest.mark.parametrize("preset", ["ila-base-patch16", "ila-large-patch14-ssv2"])
def test_published_code_runs(preset, tmp_path, monkeypatch, video_file, capsys):
    """With a tiny CLIP in place of OpenAI's, and the preset as small as it."""
    base_model, *_ = FIGURES[preset]
    monkeypatch.chdir(tmp_path)
    shutil.copy(video_file, "clip.mp4")
    save_tiny_clip("clip")
    presets = []

    def from_preset(name, **arguments):
        presets.append(name)
        return tiny_config(**arguments)

    monkeypatch.setattr(ILAConfig, "from_preset", from_preset)
    card = ModelCard.load(CARDS / f"{preset}.md")
    variables = run_card(card, [(base_model, "clip")])
    assert presets == [preset]
    assert set(variables["model"].config.id2label.values()) == {"juggling balls", "playing cello"}
    assert re.search(r"^\[{'score': .*'label': '(juggling balls|playing cello)'}\]\n$", capsys.readouterr().out)


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_published_command_converts(preset):
    line = re.search(r"\n    ila-hf convert (.*)\n", published_card(preset).text)[1]
    parser = ArgumentParser(exit_on_error=False)
    add_convert_arguments(parser)
    arguments = parser.parse_args(shlex.split(line))
    assert arguments.output_dir == preset
    assert arguments.labels == ("ssv2" if preset.endswith("ssv2") else "kinetics400")
    assert arguments.labels in HUB_LABELS


def test_unknown_preset():
    with pytest.raises(ValueError, match="There is no preset 'ila-huge'"):
        published_card("ila-huge")


def test_command(tmp_path, capsys):
    parser = ArgumentParser()
    add_arguments(parser)
    run(parser.parse_args(["--output_dir", str(tmp_path / "cards")]))
    assert len(list((tmp_path / "cards").iterdir())) == 10
    assert "10 model cards" in capsys.readouterr().out


def test_authors_are_those_of_the_citation_file():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    card = published_card("ila-base-patch32").text
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"  author = {{{authors}}},\n" in card
    assert f"  title = {{{paper['title']}}},\n" in card
    assert f"  year = {{{paper['year']}}},\n" in card
