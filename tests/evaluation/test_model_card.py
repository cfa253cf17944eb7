"""Model cards: what they say, that their code runs, and that nothing in a name can break them."""

import json
import re
import shlex
import shutil
from argparse import ArgumentParser
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard
from jinja2 import meta
from transformers import CLIPConfig, CLIPModel

from ila_hf import PRESET_NAMES, ILAConfig, ILAForVideoClassification, ILAVideoProcessor
from ila_hf.conversion.convert_ila_checkpoint import add_arguments as add_convert_arguments
from ila_hf.data.class_labels import HUB_LABELS
from ila_hf.demo.motion_videos import MOTIONS
from ila_hf.demo.tiny import tiny_config, tiny_processor, tiny_tokenizer
from ila_hf.evaluation.model_card import (
    TEMPLATE,
    ILAModelCardData,
    add_arguments,
    card_from_run,
    escape_markdown,
    published_card,
    run,
)


ROOT = Path(__file__).parents[2]
CARDS = ROOT / "model_cards"
NOT_MEASURED = "published by the paper, not measured here"
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

# preset: (base model, top-1, top-5, published FLOPs, counted FLOPs, T, S, short side)
FIGURES = {
    "ila-base-patch32": ("openai/clip-vit-base-patch32", "81.3", "95.0", "40", "37.9", 8, 224, 256),
    "ila-base-patch32-16-frames": ("openai/clip-vit-base-patch32", "82.4", "95.8", "75", "76.0", 16, 224, 256),
    "ila-base-patch16": ("openai/clip-vit-base-patch16", "84.0", "96.6", "149", "149.3", 8, 224, 256),
    "ila-base-patch16-16-frames": ("openai/clip-vit-base-patch16", "85.7", "97.2", "295", "299.7", 16, 224, 256),
    "ila-large-patch14": ("openai/clip-vit-large-patch14", "88.0", "98.1", "673", "677.7", 8, 224, 256),
    "ila-large-patch14-336-16-frames": (
        *("openai/clip-vit-large-patch14-336", "88.7", "97.8", "3130", "3191.2"),
        *(16, 336, 384),
    ),
    "ila-base-patch16-ssv2": ("openai/clip-vit-base-patch16", "65.0", "89.2", "214", "214.7", 8, 224, 256),
    "ila-base-patch16-16-frames-ssv2": ("openai/clip-vit-base-patch16", "66.8", "90.3", "438", "439.9", 16, 224, 256),
    "ila-large-patch14-ssv2": ("openai/clip-vit-large-patch14", "67.8", "90.5", "907", "893.4", 8, 224, 256),
    "ila-large-patch14-336-16-frames-ssv2": (
        *("openai/clip-vit-large-patch14-336", "70.2", "91.8", "3723", "4231.1"),
        *(16, 336, 384),
    ),
}


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


def run_snippets(card, replace=()):
    """Run the Python of a card as a reader would, from top to bottom; returns the variables."""
    variables = {}
    for code in re.findall(r"^```python\n(.*?)^```$", card.text, flags=re.DOTALL | re.MULTILINE):
        for old, new in replace:
            code = code.replace(old, new)
        exec(compile(code, "card", "exec"), variables)
    return variables


# --- Published variants -------------------------------------------------------------------------------------------


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
    base_model, top1, top5, published, counted, num_frames, size, short = figures
    card = published_card(preset)
    assert table(card, "Evaluation") == [
        ["top-1 accuracy", f"{top1} %", NOT_MEASURED],
        ["top-5 accuracy", f"{top5} %", NOT_MEASURED],
        ["FLOPs of one view, 1e9 multiply-adds", published, NOT_MEASURED],
        ["the same of the visual trunk in `ila_hf`", counted, "counted here"],
    ]
    assert "4 × 3 views (clips × crops)" in section(card, "Evaluation")
    steps = dict(table(card, "Preprocessing"))
    assert steps["resize"] == f"short side to {short} pixels, bilinear"
    assert steps["crop"] == f"{size}×{size} from the centre"
    numbers = "mean 0.485, 0.456, 0.406, standard deviation 0.229, 0.224, 0.225"
    assert steps["normalise"] == f"RGB in [0, 1], {numbers}"
    strategy = "uniform: the frames midway" if preset.endswith("ssv2") else "sparse: the middle frame"
    assert steps["frames"].startswith(strategy)
    assert f"sees {num_frames} frames of {size}×{size} pixels" in card.text
    assert card.text.count(base_model) == 3  # in the description, and in the way to train it and its code
    assert "measured by this run" not in card.text


@pytest.mark.parametrize("preset", PRESET_NAMES)
def test_published_front_matter(preset):
    base_model, top1, top5 = FIGURES[preset][:3]
    is_ssv2 = preset.endswith("ssv2")
    dataset, name = (
        ("something-something-v2", "Something-Something v2") if is_ssv2 else ("kinetics-400", "Kinetics-400")
    )
    tags = ["video-classification", "ila", "ila_hf", "clip", "action-recognition"]
    card = ModelCard.load(CARDS / f"{preset}.md")
    data = front_matter(card)
    assert "verified" not in str(data)
    index = data.pop("model-index")
    assert data == {
        "library_name": "transformers",
        "pipeline_tag": "video-classification",
        "base_model": base_model,
        "datasets": [dataset],
        "license": "unknown",
        "metrics": ["accuracy"],
        "tags": tags if is_ssv2 else [*tags, "zero-shot-video-classification"],
        **({} if is_ssv2 else {"language": "en"}),
    }
    assert index[0]["name"] == preset
    assert index[0]["results"][0]["source"] == {"name": "arXiv 2304.10465", "url": "https://arxiv.org/abs/2304.10465"}
    views = {"num_clips": 4, "num_crops": 3}
    assert card.data.eval_results == [
        EvalResult(
            *("video-classification", dataset, name, "accuracy", float(value)),
            dataset_split="validation",
            metric_name=f"{metric} accuracy in %",
            metric_args=views,
            source_name="arXiv 2304.10465",
            source_url="https://arxiv.org/abs/2304.10465",
        )
        for metric, value in (("top-1", top1), ("top-5", top5))
    ]


def test_published_recipes():
    both = {
        "optimizer": "AdamW, betas 0.9 and 0.98",
        "batch size": "256",
        "schedule": "cosine to lr / 100 after 5 warm-up epochs",
        "multi-scale crop": "1, 0.875, 0.75, 0.66",
        "colour jitter": "probability 0.8",
        "grey": "probability 0.2",
        "label smoothing": "0.1",
        "mixup and cutmix": "0.8 and 1.0, switching with probability 0.5",
        "no weight decay": "biases, norms and other 1-D parameters, positions",
    }
    k400, ssv2 = published_card("ila-base-patch16"), published_card("ila-base-patch16-ssv2")
    assert dict(table(k400, "Training recipe")) == both | {
        "learning rate": "8e-6 for CLIP's weights, 8e-5 for all others",
        "weight decay": "0.003",
        "steps": "50 000",
        "frozen": "text tower",
        "flip": "probability 0.5",
    }
    flip = "none in the released code, for labels name sides; the table of the paper says probability 0.5"
    assert dict(table(ssv2, "Training recipe")) == both | {
        "learning rate": "5e-4",
        "weight decay": "0.01",
        "steps": "30 000",
        "frozen": "CLIP's weights",
        "flip": flip,
    }
    assert NOT_MEASURED in section(k400, "Training recipe")
    assert "The 400 classes of Kinetics-400." in section(k400, "Classes")
    assert "The 174 classes of Something-Something v2." in section(ssv2, "Classes")
    limits = "Intended use and limits"
    assert "do not flip" in section(ssv2, limits)
    assert "do not flip" not in section(k400, limits)


@pytest.mark.parametrize("preset", ["ila-base-patch16", "ila-large-patch14-ssv2"])
def test_published_code_runs(preset, tmp_path, monkeypatch, video_file, capsys):
    """With a tiny CLIP in place of OpenAI's, and the preset as small as it."""
    base_model, *_ = FIGURES[preset]
    monkeypatch.chdir(tmp_path)
    shutil.copy(video_file, "clip.mp4")
    config = tiny_config()
    parts = {name: getattr(config, name).to_dict() for name in ("text_config", "vision_config")}
    CLIPModel(CLIPConfig(**parts, projection_dim=64)).save_pretrained("clip")
    tiny_tokenizer().save_pretrained("clip")
    presets = []

    def from_preset(name, **arguments):
        presets.append(name)
        return tiny_config(**arguments)

    monkeypatch.setattr(ILAConfig, "from_preset", from_preset)
    save = f'model.save_pretrained("{preset}")\nprocessor.save_pretrained("{preset}")\n'
    card = ModelCard.load(CARDS / f"{preset}.md")
    variables = run_snippets(card, [(base_model, "clip"), ("import ila_hf  #", f"{save}import ila_hf  #")])
    assert presets == [preset]
    assert set(variables["model"].config.id2label.values()) == {"juggling balls", "playing cello"}
    assert re.search(r"(juggling balls|playing cello)\n$", capsys.readouterr().out)


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
    variables = run_snippets(card)
    scored, label = capsys.readouterr().out.splitlines()
    assert len(variables["classify"]("clip.mp4", top_k=8)) == 8
    assert scored.startswith("[{'score': ")
    assert variables["pixel_values"].shape == ((6 if kind == "views" else 1), 8, 3, 32, 32)
    assert label == model.config.id2label[int(variables["scores"].argmax())]
    best = variables["classify"]("clip.mp4")[0]
    if kind in ("text", "views"):  # other classes were set last
        assert variables["model"].config.id2label == {0: "juggling balls", 1: "playing cello"}
    if kind != "views":  # the pipeline takes one view
        assert label == best["label"]
    if kind not in (
        "views",
        "multi-label",
    ):  # the pipeline of transformers 5.11 takes the softmax of several labels, too
        assert float(variables["scores"].max()) == pytest.approx(best["score"], abs=1e-5)


def test_what_a_run_measured(tiny_run):
    card = tiny_run(dataset_name="me/motions", base_model="openai/clip-vit-base-patch16", license="apache-2.0")
    origin = "measured by this run"
    assert table(card, "Evaluation") == [
        ["top-1 accuracy", "93.2 %", origin],
        ["top-5 accuracy", "99.0 %", origin],
        ["mean class accuracy", "90.0 %", origin],
        ["loss", "0.25", origin],
        ["clips evaluated", "400", origin],
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
    assert "trained from outputs/first on /data/videos." in card.text
    assert "states no licence" in card.text


@pytest.mark.parametrize(
    ("vision", "says", "says_not"),
    [
        ({}, "mutual-information token", "interaction token is"),
        ({"interaction_token": True}, "an extension of `ila_hf`,\nnot of the paper", "causal"),
        ({"first_frame": "self"}, "causal in time", "interaction token is"),
        ({"architecture": "released"}, "what the published checkpoints hold", "mutual-information token"),
        ({"alignment_layers": []}, "no layer aligns frames", "mutual-information token"),
    ],
)
def test_architectures(tiny_model, tiny_run, vision, says, says_not):
    card = tiny_run(tiny_model(vision=vision))
    assert says in section(card, "Architecture")
    assert says_not not in section(card, "Architecture")
    fields = dict(table(card, "Architecture"))
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


def test_template_takes_what_the_code_gives():
    config = tiny_config()
    data = ILAModelCardData("m", config, ILAVideoProcessor.from_config(config), "ILAForVideoClassification", (1, 1))
    variables = meta.find_undeclared_variables(jinja2.Environment().parse(TEMPLATE.read_text()))
    assert variables == {"card_data", *data._fields()}


def test_authors_are_those_of_the_citation_file():
    paper = yaml.safe_load((ROOT / "CITATION.cff").read_text())["preferred-citation"]
    card = published_card("ila-base-patch32").text
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert f"  author = {{{authors}}},\n" in card
    assert f"  title = {{{paper['title']}}},\n" in card
    assert f"  year = {{{paper['year']}}},\n" in card
