"""What the tests of README and docs share: snippets, commands, links and anchors of a Markdown page."""

import argparse
import importlib
import re
import shutil
from pathlib import Path

import torch
from test_golden import original_weights

from ila_hf.__main__ import COMMANDS
from ila_hf.demo.tiny import save_tiny_clip, tiny_config, tiny_processor


ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))


def snippets(page):
    """(code, what is printed below it) of every Python block of a page."""
    block = r"```python\n(.*?)```\n(?:\n((?:    [^\n]*\n)+))?"
    return re.findall(block, page.read_text(), flags=re.DOTALL)


def without_code(page):
    """The text of a page without blocks and spans of code."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"\n(\n    [^\n]*)+", "\n", text)
    return re.sub(r"`[^`\n]*`", "`x`", text)


def links(page):
    return re.findall(r"\]\(([^)]+)\)", without_code(page))


def anchors(page):
    """The anchors that GitHub gives to the headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page):
    """The words of every command of the indented blocks, such as ["ila-hf", "check", "--data", "videos/train"]."""
    lines = re.sub(r"\\\n +", "", page.read_text()).splitlines()
    programs = r" {4}(?:[A-Z_]+=\S+ )*((?:ila-hf|python|accelerate|torchrun|make|pip) .*)"
    return [match[1].split("#")[0].split() for line in lines if (match := re.fullmatch(programs, line))]


def command_parser(name):
    """The parser of `ila-hf <name>`."""
    parser = argparse.ArgumentParser(name, exit_on_error=False)
    importlib.import_module(f"ila_hf.{COMMANDS[name][0]}").add_arguments(parser)
    return parser


def make_reader_folder(folder, model, video_file):
    """What a reader has after `make demo`, a video, labelled videos, a released checkpoint and a CLIP, tiny here."""
    save_tiny_clip(folder / "openai/clip-vit-base-patch16")
    model.save_pretrained(folder / "outputs/demo/model")
    tiny_processor(tiny_config()).save_pretrained(folder / "outputs/demo/model")
    shutil.copy(video_file, folder / "clip.mp4")
    torch.save({"model": original_weights("k400")[0]}, folder / "k400_B_16_8.pth")
    for split in ("train", "validation"):
        for name in ("juggling", "dancing"):
            (folder / "videos" / split / name).mkdir(parents=True)
            shutil.copy(video_file, folder / "videos" / split / name)


def run_snippet(code, printed, capsys):
    """Run a snippet; what it prints must be what the page shows, scores of the demo's trained model aside."""
    exec(compile(code, "snippet", "exec"), {"__name__": "snippet"})
    output = capsys.readouterr().out
    if re.search(r": [01]\.\d\d$", printed, re.MULTILINE):
        score = r"\s*[a-z_ ]+: [01]\.\d\d"
        assert all(re.fullmatch(score, line) for line in (output + printed.rstrip()).splitlines())
        assert len(output.splitlines()) == len(printed.splitlines())
    elif printed:
        assert [line.strip() for line in output.splitlines()] == [line.strip() for line in printed.splitlines()]


def run_card(card, replace=()):
    """Run the Python of a model card as a reader would, from top to bottom; returns the variables."""
    variables = {}
    for code in re.findall(r"^```python\n(.*?)^```$", card.text, flags=re.DOTALL | re.MULTILINE):
        for old, new in replace:
            code = code.replace(old, new)
        exec(compile(code, "card", "exec"), variables)
    return variables
