"""The pages of docs: snippets run, flags and links exist, and the site builds without a warning."""

import html
import re
import zlib
from urllib.parse import urlsplit

import pytest
from pages import (
    DOCS,
    README,
    ROOT,
    anchors,
    command_parser,
    commands,
    links,
    make_reader_folder,
    run_snippet,
    snippets,
)
from sphinx.cmd.build import main as build_site
from test_examples import load_script
from transformers import HfArgumentParser

import ila_hf
from ila_hf.__main__ import COMMANDS, DEFAULTS


MARKS = {
    "export.md": pytest.mark.slow,  # exporters take half a minute, whatever the size of the model
    # peft 0.21 asks for it under the name that transformers has given up
    "adapters_and_memory.md": pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is:FutureWarning"),
}
SNIPPETS = [
    pytest.param(*snippet, id=f"{page.stem}-{i}", marks=MARKS.get(page.name, ()))
    for page in DOCS
    if page.name != "first_hour.md"  # test_first_hour.py runs it as a whole
    for i, snippet in enumerate(snippets(page))
]
PUBLIC_MODULES = [
    "analysis.attribution",
    "analysis.deletion",
    "analysis.flops",
    "analysis.pictures",
    "analysis.rollout",
    "analysis.temporal_score",
    "analysis.visualization",
    "conversion.convert_ila_checkpoint",
    "conversion.export_ila",
    "data.video_clips",
    "data.video_data",
    "evaluation.metrics",
    "evaluation.model_card",
    "evaluation.published_cards",
    "evaluation.reports",
    "evaluation.views",
    "pipeline_ila",
    "training.optimization",
    "training.trainer",
]


@pytest.mark.parametrize(("code", "printed"), SNIPPETS)
def test_snippet(code, printed, tiny_model, video_file, tmp_path, monkeypatch, capsys):
    if "torchao" in code:
        pytest.importorskip("torchao", reason="it needs a newer torch than the lowest that is supported")
    make_reader_folder(tmp_path, tiny_model(vision={"first_frame": "self"}), video_file)
    monkeypatch.chdir(tmp_path)
    run_snippet(code, printed, capsys)


@pytest.fixture(scope="module")
def script_flags():
    """The flags of the two training scripts, by file name."""
    flags = {}
    for name, third in (
        ("run_video_classification", "ILATrainingArguments"),
        ("run_video_classification_no_trainer", "LoopArguments"),
    ):
        script = load_script(f"examples/{name}.py")
        parser = HfArgumentParser((script.ModelArguments, script.DataArguments, getattr(script, third)))
        flags[f"examples/{name}.py"] = {"--config", *parser._option_string_actions}
    return flags


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_commands_take_these_arguments(page, script_flags):
    for words in commands(page):
        if words[0] in ("ila-hf", "accelerate") and DEFAULTS.keys() & set(words):
            flags = {word for word in words if word.startswith("--")}
            if "ablate" in words:  # it has flags of its own besides
                _, rest = command_parser("ablate").parse_known_args(words[2:])
                flags &= set(rest)
            assert flags <= script_flags["examples/run_video_classification.py"], words
        elif words[0] == "ila-hf":
            command_parser(words[1]).parse_args(words[2:])
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), words
        elif script := next((word for word in words if word.startswith("examples/")), None):
            flags = {word for word in words[words.index(script) :] if word.startswith("--")}
            assert flags <= script_flags[script], words


def test_flags_in_the_text_exist(script_flags):
    parsers = [command_parser(name) for name in COMMANDS if name not in ("train", "evaluate")]
    known = set().union(*script_flags.values(), *(parser._option_string_actions for parser in parsers))
    known.add("--exclude")  # of `hf upload`
    found = {page.name: set(re.findall(r"--[a-z_]{3,}", page.read_text())) for page in DOCS}
    assert len(found["training.md"]) > 30
    for page, flags in found.items():
        assert flags <= known, page


@pytest.mark.parametrize("page", [*DOCS, README, ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    """Without the network, an address of the web is only checked for its form."""
    for target in links(page):
        if "://" in target:
            parts = urlsplit(target)
            assert parts.scheme == "https", target
            assert re.fullmatch(r"[\w-]+(\.[\w-]+)+", parts.netloc), target
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(linked), target


def test_every_page_is_in_the_table_of_contents():
    tables = re.findall(r"^```\{toctree\}\n(.*?)^```$", (ROOT / "docs/index.md").read_text(), re.DOTALL | re.MULTILINE)
    entries = [line for table in tables for line in table.splitlines() if line and not line.startswith(":")]
    assert sorted(entries) == sorted(page.stem for page in DOCS if page.stem != "index")


def test_site_builds_and_knows_every_public_name(tmp_path, capfd):
    """Broken references are errors; the inventory is what other sites would link to."""
    status = build_site(["-W", "--keep-going", "-n", "-q", str(ROOT / "docs"), str(tmp_path)])
    assert status == 0, capfd.readouterr().err
    inventory = (tmp_path / "objects.inv").read_bytes().split(b"\n", 4)[4]  # behind four lines of text
    entries = [line.split() for line in zlib.decompress(inventory).decode().splitlines()]
    documented = {name for name, kind, *_ in entries if kind.startswith("py:")}
    assert {f"ila_hf.{name}" for name in ila_hf.__all__} - documented == {"ila_hf.__version__"}
    for module in PUBLIC_MODULES:
        assert f"ila_hf.{module}" in documented
    page = (tmp_path / "api.html").read_text()
    assert "[<code" not in page
    assert "```" not in page
    text = html.unescape(re.sub(r"<[^>]+>", "", page))
    assert "Built-in immutable sequence" not in text  # the docstring of tuple
    assert "(...)" not in text
    assert "ILATrainingArguments(new_lr_factor=1.0, warmup_epochs=None, " in text
    assert "new_lr_factor (float, defaults to 1.0) – Weights that are not CLIP's" in text
    assert re.search(r"top1 and top5 –|temporal_accuracy and static_accuracy –", text) is None
    assert re.search(r"[(\s]–[a-z_]+|\s--\s", text) is None  # flags keep their hyphens, and only they
    for line in text.splitlines():  # a colon in the head of an argument parts it, and leaves its bracket open
        head = line.split(" – ")[0]
        assert " – " not in line or head.count("(") == head.count(")"), line
    assert (tmp_path / "index.html").is_file()
