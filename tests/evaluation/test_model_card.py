"""Model cards: what they say, that their code runs, and that nothing in a name can break them."""

import json
import shutil
from html.parser import HTMLParser

import jinja2
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import meta
from pages import run_card

from ila_hf import ILAForVideoClassification, ILAVideoProcessor
from ila_hf.demo.motion_clips import MOTIONS
from ila_hf.demo.tiny import tiny_config, tiny_processor, tiny_tokenizer
from ila_hf.evaluation import model_card
from ila_hf.evaluation.model_card import (
    TEMPLATE,
    card_from_run,
    escape_markdown,
)


METRICS = {"top1": 0.9325, "top5": 0.99, "mean_class_accuracy": 0.9, "loss": 0.25, "num_clips": 400.0}
HOSTILE = [
    "a | b",
    "`code`",
    "\"double\" and 'single'",
    "two\nlines\r\nand\ttab",
    "{{ card_data }} {% endif %} {# no #}",
    "</details><script>alert(1)</script>",
    "*bold* _it_ **b** ~~gone~~",
    "[link](http://example.com) ![i](x)",
    "back\\slash \\| \\\\|",
    "--- # - 1. > x",
    "&lt; & &amp; $x$",
    "- {a: [b]}: !!python/object:os.system",
]


@pytest.fixture
def tiny_run(tiny_model):
    """`tiny_run(**arguments of card_from_run)`: the card of a tiny model."""

    def get(model=None, processor=None, **arguments):
        model = model or tiny_model()
        arguments = {"model_name": "me/my-ila", "recipe": {"epochs": 3}, "metrics": METRICS, **arguments}
        return card_from_run(model, processor or tiny_processor(model.config), **arguments)

    return get


def front_matter(card):
    return yaml.safe_load(str(card).split("\n---\n")[0])


def section(card, title):
    return card.text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def table(card, title):
    """Rows of the table of a section, without its head; by hand, for no cell holds a bar."""
    rows = [line for line in section(card, title).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows[2:]]


# --- A model of one's own -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "linear", "no tokenizer", "views", "multi-label"])
def test_code_of_a_run_runs(kind, tiny_model, tiny_run, tmp_path, monkeypatch, video_file, capsys):
    fields = {"problem_type": "multi_label_classification"} if kind == "multi-label" else {}
    is_linear = kind in ("linear", "multi-label")
    model = tiny_model(ILAForVideoClassification, num_labels=8, **fields) if is_linear else tiny_model()
    processor = tiny_processor(model.config)
    if is_linear or kind == "no tokenizer":
        processor = processor.video_processor
    if kind == "views":
        processor.video_processor.num_clips, processor.video_processor.num_crops = 2, 3
    monkeypatch.chdir(tmp_path)
    name = 'my "best" model'
    model.save_pretrained(name)
    processor.save_pretrained(name)
    shutil.copy(video_file, "clip.mp4")

    card = tiny_run(model, processor, model_name=name)
    assert f"# {name}\n" in card.text
    assert 'pipeline("video-classification", model="my \\"best\\" model")' in card.text
    variables = run_card(card)
    scored, label = capsys.readouterr().out.splitlines()
    assert len(variables["classify"]("clip.mp4", top_k=8)) == 8
    assert scored.startswith("[{'score': ")
    assert variables["pixel_values"].shape == ((6 if kind == "views" else 1), 8, 3, 32, 32)
    assert label == model.config.id2label[int(variables["scores"].argmax())]
    best = variables["classify"]("clip.mp4")[0]
    if kind in ("text", "views"):  # other classes were set last
        assert variables["model"].config.id2label == {0: "juggling balls", 1: "playing cello"}
    assert label == best["label"]
    if kind != "multi-label":  # the pipeline of transformers 5.11 takes the softmax of several labels, too
        assert float(variables["scores"].max()) == pytest.approx(best["score"], abs=1e-5)


def test_what_a_run_measured(tiny_run):
    card = tiny_run(dataset_name="me/motions", base_model="openai/clip-vit-base-patch16", license="apache-2.0")
    assert table(card, "Evaluation") == [
        ["top-1 accuracy", "93.2 %"],
        ["top-5 accuracy", "99.0 %"],
        ["mean class accuracy", "90.0 %"],
        ["loss", "0.25"],
        ["clips evaluated", "400"],
    ]
    assert "One view of each video" in section(card, "Evaluation")
    assert table(card, "Classes") == [[str(i), motion] for i, motion in enumerate(MOTIONS)]
    assert table(card, "Training recipe") == [["epochs", "3"]]
    assert "do not flip" in section(card, "Intended use and limits")  # "moving left", "circling clockwise"
    assert "published" not in card.text
    data = front_matter(card)
    assert data["datasets"] == ["me/motions"]
    assert data["base_model"] == "openai/clip-vit-base-patch16"
    assert data["license"] == "apache-2.0"
    assert data["language"] == "en"
    assert "zero-shot-video-classification" in data["tags"]


def test_results_round_trip(tiny_run, tmp_path):
    tiny_run(dataset_name="my own videos").save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.model_name == "me/my-ila"
    kind = ("video-classification", "unknown", "my own videos", "accuracy")
    views = {"num_clips": 1, "num_crops": 1}
    assert card.data.eval_results == [
        EvalResult(*kind, 93.25, metric_name="top-1 accuracy in %", metric_args=views),
        EvalResult(*kind, 99.0, metric_name="top-5 accuracy in %", metric_args=views),
        EvalResult(*kind, 90.0, metric_name="mean class accuracy in %", metric_args=views),
    ]


def test_views_of_a_run(tiny_run):
    processor = ILAVideoProcessor(num_clips=4, num_crops=3, crop_size={"height": 32, "width": 32})
    card = tiny_run(processor=processor)
    assert "4 × 3 views (clips × crops)" in section(card, "Evaluation")
    assert "short side resized to 32 pixels" in section(card, "Evaluation")
    steps = dict(table(card, "Preprocessing"))
    assert (steps["resize"], steps["clips × crops"]) == ("short side to 32 pixels, bilinear", "4 × 3")
    assert steps["crop"] == "three of 32×32: at both ends and in the centre"
    assert steps["frames"].endswith("in clip i, not the middle but the place (i + 1/2) / 4")
    assert card.data.eval_results[0].metric_args == {"num_clips": 4, "num_crops": 3}


def test_other_preprocessing(tiny_run):
    other = {"do_center_crop": False, "do_normalize": False, "size": {"height": 32, "width": 48}}
    processor = ILAVideoProcessor(sampling_strategy="dense", frame_sampling_rate=4, **other)
    assert table(tiny_run(processor=processor), "Preprocessing") == [
        ["frames", "dense: 8 frames, 4 apart, from the middle of the video"],
        ["resize", "to 32×48 pixels, bilinear"],
        ["clips × crops", "1 × 1"],
    ]


@pytest.mark.parametrize("metrics", [None, {}, {"top1": float("nan")}])
def test_without_metrics(tiny_run, metrics):
    card = tiny_run(metrics=metrics, recipe={})
    assert section(card, "Evaluation").strip() == "This model has not been evaluated."
    assert section(card, "Training recipe").strip() == "The recipe was not recorded."
    assert not {"metrics", "model-index", "model_name"} & front_matter(card).keys()
    assert card.data.eval_results is None


def test_folders_are_no_ids_of_the_hub(tiny_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "first").mkdir(parents=True)
    card = tiny_run(base_model="outputs/first", dataset_name="/data/videos", license=None)
    assert not {"base_model", "datasets", "license"} & front_matter(card).keys()
    assert "It was trained on videos." in card.text
    assert "states no licence" in card.text
    assert "outputs/first" not in card.text
    # What the folder's own card states is of use elsewhere
    metadata = ModelCardData(base_model="openai/clip-vit-base-patch16")
    (tmp_path / "outputs" / "first" / "README.md").write_text(f"---\n{metadata.to_yaml()}\n---\nA model.\n")
    card = tiny_run(base_model="outputs/first", model_name=f"{tmp_path}/outputs/mine/")
    assert front_matter(card)["base_model"] == "openai/clip-vit-base-patch16"
    assert "trained from openai/clip-vit-base-patch16" in card.text
    assert str(tmp_path) not in str(card)
    assert "\n# mine\n" in card.text
    for broken in ("---\nbase_model: [\n---\n", "no front matter"):
        (tmp_path / "outputs" / "first" / "README.md").write_text(broken)
        assert "base_model" not in front_matter(tiny_run(base_model="outputs/first"))


@pytest.mark.parametrize(
    ("vision", "says", "says_not"),
    [
        ({}, "one mutual-information\ntoken", "interaction token is"),
        ({"interaction_token": True}, "an extension of\n`ila_hf`, not of the paper", "causal"),
        ({"first_frame": "self"}, "causal in time", "interaction token is"),
        ({"architecture": "released"}, "what the published checkpoints hold", "mutual-information\ntoken"),
        ({"alignment_layers": []}, "no layer aligns frames", "mutual-information\ntoken"),
    ],
)
def test_architectures(tiny_model, tiny_run, vision, says, says_not):
    card = tiny_run(tiny_model(vision=vision))
    assert says in section(card, "Architecture")
    assert says_not not in section(card, "Architecture")
    fields = dict(table(card, "Architecture"))
    if "alignment_layers" not in vision:
        assert fields["architecture"] == vision.get("architecture", "paper")
        assert fields["interaction\\_token"] == str("interaction_token" in vision)
    assert fields["alignment\\_layers"] == ("none" if "alignment_layers" in vision else "all")
    assert fields["backbone"] == "ViT of 3 layers of width 64, patches of 8"


def test_many_classes_are_folded(tiny_model, tiny_run):
    def card(num_labels):
        return tiny_run(tiny_model(ILAForVideoClassification, num_labels=num_labels))

    assert "<details>" not in section(card(20), "Classes")
    folded = section(card(21), "Classes")
    # markdown within HTML needs empty lines around it
    assert folded.startswith("\n<details>\n<summary>21 classes</summary>\n\n| id | class |\n")
    assert folded.endswith("| 20 | LABEL\\_20 |\n\n</details>\n")


@pytest.mark.parametrize(("name", "value"), [("top1", 93.2), ("top5", -0.1), ("mean_class_accuracy", 1.01)])
def test_accuracies_are_shares(tiny_run, name, value):
    with pytest.raises(ValueError, match=rf"`{name}` is an accuracy, in \[0, 1\], got {value}"):
        tiny_run(metrics={name: value})


def test_other_objects_are_refused(tiny_model, tiny_run):
    with pytest.raises(ValueError, match=r"`model` must be an ILAForVideoText.* got CLIPTokenizer"):
        tiny_run(tiny_tokenizer(), tiny_processor(tiny_config()))
    with pytest.raises(ValueError, match=r"`processor` must be .* got CLIPTokenizer"):
        tiny_run(processor=tiny_tokenizer())


# --- Names that could break a card --------------------------------------------------------------------------------


class Cells(HTMLParser):
    """Texts of the cells of all tables, and all other tags."""

    def __init__(self, html):
        super().__init__()
        self.cells, self.tags, self._open = [], set(), False
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag == "td":
            self.cells.append("")
            self._open = True

    def handle_endtag(self, tag):
        self._open &= tag != "td"

    def handle_data(self, data):
        if self._open:
            self.cells[-1] += data


@pytest.fixture
def hostile_card(tiny_model, tiny_run):
    model = tiny_model(ILAForVideoClassification, num_labels=len(HOSTILE))
    model.config.id2label = dict(enumerate(HOSTILE))
    name = "\n".join(HOSTILE)
    recipe = {text: text for text in HOSTILE}
    return tiny_run(model, model_name=name, dataset_name=name, base_model=name, license="x: |\n y", recipe=recipe)


def test_hostile_names_keep_tables_and_front_matter(hostile_card, tmp_path):
    hostile_card.save(tmp_path / "README.md")
    card = ModelCard.load(tmp_path / "README.md")
    assert str(card) == str(hostile_card)
    assert card.data.license == "x: |\n y"
    assert card.data.model_name == card.data.eval_results[0].dataset_name == "\n".join(HOSTILE)
    assert all(len(row) == 2 for row in table(card, "Classes"))
    assert len(table(card, "Classes")) == len(table(card, "Training recipe")) == len(HOSTILE)
    assert card.text.count("\n## ") == 8
    assert "<script" not in card.text.split("## How to use")[0] + card.text.split("## Classes")[1]
    assert json.dumps("\n".join(HOSTILE)) in card.text  # in the code, as a literal


def test_hostile_names_are_shown_as_they_are(hostile_card):
    markdown_it = pytest.importorskip("markdown_it")
    body = hostile_card.text
    html = Cells(markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(body))
    shown = [" ".join(name.split()) for name in HOSTILE]
    for i, name in enumerate(shown):
        at = html.cells.index(name)
        assert html.cells[at - 1] == str(i)
        assert html.cells.count(name) == 3  # among the classes, and both cells of the recipe
    assert html.tags == {
        *("h1", "h2", "p", "em", "a", "code", "pre", "ul", "li"),
        *("table", "thead", "tbody", "tr", "th", "td"),
    }


def test_escapes():
    assert escape_markdown("a|b\n<c> & `d` e_f") == "a&#124;b &lt;c&gt; &amp; \\`d\\` e\\_f"
    assert escape_markdown(0.001) == "0.001"


def test_template_takes_what_the_code_gives(tiny_run, monkeypatch):
    given = []
    monkeypatch.setattr(model_card, "render_card", lambda metadata, template, fields: given.append(fields))
    tiny_run()
    variables = meta.find_undeclared_variables(jinja2.Environment().parse(TEMPLATE.read_text()))
    assert variables == {"card_data", *given[0]}
