# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Model cards: of a model of yours, from its run; of the ten published variants, from the figures of the paper.

    ila-hf model-cards --output_dir model_cards

The words are in model_card_template.md, the data here; `huggingface_hub` writes the front matter.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.utils import HFValidationError, validate_repo_id
from PIL import Image

from ..configuration_ila import PRESET_NAMES, ILAConfig
from ..data.video_transforms import names_a_side
from ..modeling_ila import ILAForVideoClassification, ILAForVideoTextClassification
from ..processing_ila import ILAProcessor
from ..video_processing_ila import ILAVideoProcessor


TEMPLATE = Path(__file__).with_name("model_card_template.md")
VISIBLE_CLASSES = 20  # longer lists are folded
PUBLISHED = "published by the paper, not measured here"

_ACCURACIES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "mean_class_accuracy": "mean class accuracy"}
_OTHER_METRICS = {"num_clips": "clips evaluated"}
_TAGS = ("video-classification", "ila", "ila_hf", "clip", "action-recognition")
_TEXT_HEAD, _LINEAR_HEAD = ILAForVideoTextClassification.__name__, ILAForVideoClassification.__name__
_BACKBONES = {(768, 12): "ViT-B", (1024, 24): "ViT-L"}

# In CommonMark a backslash takes the meaning off a character. `|` would still end the cell of a table in some parsers,
# and `<` and `&` are taken for HTML by some: these three become entities, with `>`.
_ESCAPES = str.maketrans(
    {**{c: f"\\{c}" for c in "\\`*_[]#~$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
)


class _DataSet(NamedTuple):
    name: str
    id: str
    labels: str  # what `ila-hf convert --labels` takes
    bias: str
    licence: str


_K400 = _DataSet(
    "Kinetics-400",
    "kinetics-400",
    "kinetics400",
    "Kinetics-400 is made of YouTube videos: people and places are a skewed sample, and scenes give classes away.",
    "Kinetics-400 is a list of YouTube videos: the annotations are under CC BY 4.0, the videos remain their owners'.",
)
_SSV2 = _DataSet(
    "Something-Something v2",
    "something-something-v2",
    "ssv2",
    "In Something-Something v2 crowd workers handle everyday objects: the model knows no other scenes.",
    "Something-Something v2 comes under a data licence for research: read it before any other use.",
)

# preset -> (base model, top-1 and top-5 in % of 4 clips × 3 crops, FLOPs of one view in 1e9 multiply-adds: published,
# and of our visual trunk as benchmarks/count_flops.py counts them); Tables 1-3 of the paper
_FIGURES: dict[str, tuple[str, float, float, float, float]] = {
    "ila-base-patch32": ("openai/clip-vit-base-patch32", 81.3, 95.0, 40, 37.9),
    "ila-base-patch32-16-frames": ("openai/clip-vit-base-patch32", 82.4, 95.8, 75, 76.0),
    "ila-base-patch16": ("openai/clip-vit-base-patch16", 84.0, 96.6, 149, 149.3),
    "ila-base-patch16-16-frames": ("openai/clip-vit-base-patch16", 85.7, 97.2, 295, 299.7),
    "ila-large-patch14": ("openai/clip-vit-large-patch14", 88.0, 98.1, 673, 677.7),
    "ila-large-patch14-336-16-frames": ("openai/clip-vit-large-patch14-336", 88.7, 97.8, 3130, 3191.2),
    "ila-base-patch16-ssv2": ("openai/clip-vit-base-patch16", 65.0, 89.2, 214, 214.7),
    "ila-base-patch16-16-frames-ssv2": ("openai/clip-vit-base-patch16", 66.8, 90.3, 438, 439.9),
    "ila-large-patch14-ssv2": ("openai/clip-vit-large-patch14", 67.8, 90.5, 907, 893.4),
    "ila-large-patch14-336-16-frames-ssv2": ("openai/clip-vit-large-patch14-336", 70.2, 91.8, 3723, 4231.1),
}

# Table 14
_RECIPE = {
    "optimizer": "AdamW, betas 0.9 and 0.98",
    "batch size": 256,
    "schedule": "cosine to lr / 100 after 5 warm-up epochs",
    "multi-scale crop": "1, 0.875, 0.75, 0.66",
    "colour jitter": "probability 0.8",
    "grey": "probability 0.2",
    "label smoothing": 0.1,
    "mixup and cutmix": "0.8 and 1.0, switching with probability 0.5",
    "no weight decay": "biases, norms and other 1-D parameters, positions",
}
_K400_RECIPE = {
    "learning rate": "8e-6 for CLIP's weights, 8e-5 for all others",
    "weight decay": 0.003,
    "steps": "50 000",
    "frozen": "text tower",
    "flip": "probability 0.5",
}
_SSV2_RECIPE = {
    "learning rate": "5e-4",
    "weight decay": 0.01,
    "steps": "30 000",
    "frozen": "CLIP's weights",
    "flip": "none in the released code, for labels name sides; the table of the paper says probability 0.5",
}


def escape_markdown(value: Any) -> str:
    """Text as it is to be read, on one line, safe in paragraphs, headings and cells of tables."""
    return " ".join(str(value).split()).translate(_ESCAPES)


def _hub_id(name: str | None) -> str | None:
    """The name, if it can be an id of the Hub; a folder of this machine is none."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return None
    return None if Path(str(name)).exists() else name


@dataclass
class ILAModelCardData:
    """What a model card says; [`ILAModelCardData.card`] renders it.

    Args:
        model_name: Hub id or folder, as `from_pretrained` takes it.
        config: Tells architecture, backbone and classes.
        processor: Tells T, S, mean and standard deviation, sampling, and the views that the code of the card takes.
        model_class: Name of the head, "ILAForVideoTextClassification" or "ILAForVideoClassification".
        views: Clips and crops of the evaluation.
        class_names: In the order of their ids; empty for the classes of `dataset_name`.
        has_tokenizer: Whether the model is saved with an [`ILAProcessor`], which also takes class texts.
        dataset_name: Hub id or name of the training videos.
        recipe: Settings of the training, (name, value).
        metrics: "top1", "top5" and "mean_class_accuracy" in [0, 1]; "loss", "num_clips" and others as they are.
            NaN, a mean over nothing, is left out.
        num_parameters: Of the model.
        base_model: Hub id or folder of the weights that the training started from.
        license: Identifier of the Hub's list, such as "apache-2.0".
        language: Of the class texts, such as "en".
        tags: Further tags of the Hub.
        preset: For a published variant, its name: figures and recipe are marked as published, not measured.

    Raises:
        ValueError: For accuracies outside [0, 1].
    """

    model_name: str
    config: ILAConfig
    processor: ILAVideoProcessor
    model_class: str
    views: tuple[int, int]
    class_names: list[str] = field(default_factory=list)
    has_tokenizer: bool = False
    dataset_name: str | None = None
    recipe: list[tuple[str, Any]] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    num_parameters: int | None = None
    base_model: str | None = None
    license: str | None = None
    language: str | None = None
    tags: list[str] = field(default_factory=list)
    preset: str | None = None

    def __post_init__(self) -> None:
        self.metrics = {name: value for name, value in self.metrics.items() if value == value}
        for name in _ACCURACIES.keys() & self.metrics.keys():
            if not 0 <= self.metrics[name] <= 1:
                raise ValueError(f"`{name}` is an accuracy, in [0, 1], got {self.metrics[name]!r}.")

    @property
    def data_set(self) -> _DataSet | None:
        """The data set of a published variant."""
        if self.preset is None:
            return None
        return _SSV2 if self.preset.endswith("-ssv2") else _K400

    def card(self) -> ModelCard:
        """Render the card."""
        card: ModelCard = ModelCard.from_template(self.metadata(), template_path=str(TEMPLATE), **self._fields())
        card.text += "\n"  # jinja takes off the line break at the end of a template
        return card

    def metadata(self) -> ModelCardData:
        """The front matter."""
        dataset = self.data_set.id if self.data_set else _hub_id(self.dataset_name)
        results = self._eval_results(dataset or "unknown")
        return ModelCardData(
            language=self.language,
            license=self.license,
            library_name="transformers",
            pipeline_tag="video-classification",
            tags=[*_TAGS, *(["zero-shot-video-classification"] if self.model_class == _TEXT_HEAD else []), *self.tags],
            base_model=self.base_model if self.preset else _hub_id(self.base_model),
            datasets=[dataset] if dataset else None,
            metrics=["accuracy"] if results else None,
            model_name=self.model_name if results else None,
            eval_results=results or None,
        )

    def _eval_results(self, dataset: str) -> list[EvalResult]:
        num_clips, num_crops = self.views
        return [
            EvalResult(
                task_type="video-classification",
                dataset_type=dataset,
                dataset_name=self.dataset_name or "unknown",
                dataset_split="validation" if self.preset else None,
                metric_type="accuracy",
                metric_name=f"{name} in %",
                metric_value=round(100 * float(self.metrics[key]), 2),
                metric_args={"num_clips": num_clips, "num_crops": num_crops},
                source_name="arXiv 2304.10465" if self.preset else None,
                source_url="https://arxiv.org/abs/2304.10465" if self.preset else None,
            )
            for key, name in _ACCURACIES.items()
            if key in self.metrics
        ]

    def _fields(self) -> dict[str, Any]:
        """The variables of the template."""
        vision, processor, data_set = self.config.vision_config, self.processor, self.data_set
        return {
            **{name: getattr(self, name) for name in ("preset", "model_class", "has_tokenizer", "data_set")},
            "title": escape_markdown(self.model_name),
            "model_code": _python_string(self.model_name),
            "base_model": escape_markdown(self.base_model or ""),
            "base_model_code": _python_string(self.base_model or ""),
            "dataset": escape_markdown(self.dataset_name or ""),
            "license": escape_markdown(self.license or ""),
            "has_text": self.model_class == _TEXT_HEAD,
            "processor_class": (ILAProcessor if self.has_tokenizer else ILAVideoProcessor).__name__,
            "is_multi_label": self.config.problem_type == "multi_label_classification",
            "class_names": [escape_markdown(name) for name in self.class_names],
            "visible_classes": VISIBLE_CLASSES,
            "num_labels": self.config.num_labels,
            "names_sides": data_set is _SSV2 or names_a_side(self.class_names),
            "num_frames": processor.num_frames,
            "size": processor.crop_size["height"],
            "num_clips": processor.num_clips,
            "num_crops": processor.num_crops,
            "num_views": processor.num_clips * processor.num_crops,
            "backbone": _backbone(self.config),
            "architecture": vision.architecture,
            "aligns": vision.alignment_layers != [],
            "has_interaction_token": vision.interaction_token,
            "is_causal": vision.first_frame == "self",
            "protocol": _protocol(*self.views, processor.crop_size["height"]),
            "preprocessing": _preprocessing(processor),
            "recipe": [(escape_markdown(name), escape_markdown(value)) for name, value in self.recipe],
            "evaluation": self._evaluation(),
            "architecture_fields": self._architecture_fields(),
        }

    def _evaluation(self) -> list[tuple[str, str, str]]:
        """Rows of measure, value and origin."""
        origin = PUBLISHED if self.preset else "measured by this run"
        rows = [(name, f"{100 * self.metrics[key]:.1f} %") for key, name in _ACCURACIES.items() if key in self.metrics]
        others = {key: value for key, value in self.metrics.items() if key not in _ACCURACIES}
        rows += [(escape_markdown(_OTHER_METRICS.get(key, key)), _number(value)) for key, value in others.items()]
        if self.preset is None:
            return [(*row, origin) for row in rows]
        published, counted = _FIGURES[self.preset][3:]
        return [
            *((*row, origin) for row in rows),
            ("FLOPs of one view, 1e9 multiply-adds", f"{published:g}", PUBLISHED),
            ("the same of the visual trunk in `ila_hf`", f"{counted:.1f}", "counted here"),
        ]

    def _architecture_fields(self) -> list[tuple[str, str]]:
        vision, layers = self.config.vision_config, self.config.vision_config.alignment_layers
        prompt = self.config.prompt_num_hidden_layers
        text = f"similarity to class texts, video-specific prompt of {prompt} blocks"
        rows = {
            "architecture": vision.architecture,
            "interaction_token": vision.interaction_token,
            "alignment_conv": vision.alignment_conv,
            "alignment_layers": "all" if layers is None else ", ".join(map(str, layers)) or "none",
            "first_frame": vision.first_frame,
            "backbone": _backbone(self.config),
            "head": text if self.model_class == _TEXT_HEAD else "linear",
        }
        if self.num_parameters is not None:
            rows["parameters"] = f"{self.num_parameters:,}"
        return [(escape_markdown(name), str(value)) for name, value in rows.items()]


def _python_string(text: str) -> str:
    """A literal in double quotes; those of JSON are literals of Python too."""
    return json.dumps(text, ensure_ascii=False)


def _number(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else escape_markdown(value)


def _backbone(config: ILAConfig) -> str:
    vision = config.vision_config
    name = _BACKBONES.get((vision.hidden_size, vision.num_hidden_layers))
    if name is not None:
        return f"{name}/{vision.patch_size}"
    return f"ViT of {vision.num_hidden_layers} layers of width {vision.hidden_size}, patches of {vision.patch_size}"


def _protocol(num_clips: int, num_crops: int, size: int) -> str:
    """How many views of a video an evaluation takes."""
    if num_clips * num_crops == 1:
        return "One view of each video: one clip, the centre crop."
    views = f"{num_clips} × {num_crops} views (clips × crops) of each video; their scores are averaged."
    crops = f"\nThe crops are those at both ends and in the centre, with the short side resized to {size} pixels."
    return views + (crops if num_crops == 3 else "")


def _preprocessing(processor: ILAVideoProcessor) -> list[tuple[str, str]]:
    """Rows of a step and what happens in it."""
    frames = {
        "sparse": f"the middle frame of each of {processor.num_frames} equal parts of the video",
        "uniform": f"the frames midway between {processor.num_frames + 1} evenly spaced ones",
        "dense": f"{processor.num_frames} frames, {processor.frame_sampling_rate} apart, from the middle of the video",
    }[processor.sampling_strategy]
    if processor.num_clips > 1:
        frames += f"; in clip i, not the middle but the place (i + 1/2) / {processor.num_clips}"
    height, width = processor.crop_size["height"], processor.crop_size["width"]
    rows = [("frames", f"{processor.sampling_strategy}: {frames}")]
    if processor.do_resize:
        short = height if processor.num_crops == 3 else processor.size["shortest_edge"]
        target = f"short side to {short}" if short else f"to {processor.size['height']}×{processor.size['width']}"
        rows.append(("resize", f"{target} pixels, {Image.Resampling(processor.resample).name.lower()}"))
    if processor.num_crops == 3:
        rows.append(("crop", f"three of {height}×{width}: at both ends and in the centre"))
    elif processor.do_center_crop:
        rows.append(("crop", f"{height}×{width} from the centre"))
    if processor.do_normalize:
        mean, std = (", ".join(map(str, values)) for values in (processor.image_mean, processor.image_std))
        rows.append(("normalise", f"RGB in [0, 1], mean {mean}, standard deviation {std}"))
    return [*rows, ("clips × crops", f"{processor.num_clips} × {processor.num_crops}")]


def card_from_run(
    model: ILAForVideoTextClassification | ILAForVideoClassification,
    processor: ILAProcessor | ILAVideoProcessor,
    *,
    model_name: str,
    recipe: Mapping[str, Any],
    metrics: Mapping[str, float] | None = None,
    dataset_name: str | None = None,
    base_model: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """The card of a trained model; its `save` writes the README.md of a model folder.

    Args:
        model: A model with a head.
        processor: Its processor, as it was evaluated: `num_clips` × `num_crops` are the views.
        model_name: Hub id or folder that the code of the card loads.
        recipe: Settings of the training, shown as a table.
        metrics: What was measured; see [`ILAModelCardData`]. None: the card says that nothing was.
        dataset_name: Hub id or name of the training videos.
        base_model: Hub id or folder of the weights that the training started from.
        license: Identifier of the Hub's list, such as "apache-2.0".

    Raises:
        ValueError: For a model or processor of another class, and for accuracies outside [0, 1].
    """
    if not isinstance(model, ILAForVideoTextClassification | ILAForVideoClassification):
        raise ValueError(f"`model` must be an {_TEXT_HEAD} or {_LINEAR_HEAD}, got {type(model).__name__}.")
    video_processor = getattr(processor, "video_processor", processor)
    if not isinstance(video_processor, ILAVideoProcessor):
        raise ValueError(f"`processor` must be an ILAProcessor or ILAVideoProcessor, got {type(processor).__name__}.")
    has_text = isinstance(model, ILAForVideoTextClassification)
    return ILAModelCardData(
        model_name=model_name,
        config=model.config,
        processor=video_processor,
        model_class=_TEXT_HEAD if has_text else _LINEAR_HEAD,
        views=(video_processor.num_clips, video_processor.num_crops),
        class_names=[model.config.id2label[i] for i in range(model.config.num_labels)],
        has_tokenizer=isinstance(processor, ILAProcessor),
        dataset_name=dataset_name,
        recipe=list(recipe.items()),
        metrics=dict(metrics or {}),
        num_parameters=model.num_parameters(),
        base_model=base_model,
        license=license,
        language="en" if has_text else None,
    ).card()


def published_card(preset: str) -> ModelCard:
    """The card of a published variant, with the figures of the paper.

    Args:
        preset: One of `ila_hf.PRESET_NAMES`.

    Raises:
        ValueError: If there is no such preset; the message lists them.
    """
    config = ILAConfig.from_preset(preset)
    base_model, top1, top5, *_ = _FIGURES[preset]
    is_ssv2 = preset.endswith("-ssv2")
    return ILAModelCardData(
        model_name=preset,
        config=config,
        processor=ILAVideoProcessor.from_config(config),
        model_class=_LINEAR_HEAD if is_ssv2 else _TEXT_HEAD,
        views=(4, 3),
        has_tokenizer=not is_ssv2,
        dataset_name=(_SSV2 if is_ssv2 else _K400).name,
        recipe=list({**(_SSV2_RECIPE if is_ssv2 else _K400_RECIPE), **_RECIPE}.items()),
        metrics={"top1": top1 / 100, "top5": top5 / 100},
        base_model=base_model,
        license="unknown",
        language=None if is_ssv2 else "en",
        preset=preset,
    ).card()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf model-cards`."""
    parser.add_argument("--output_dir", required=True, help="folder to write")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf model-cards`: a card for each published variant."""
    for preset in PRESET_NAMES:
        published_card(preset).save(Path(arguments.output_dir) / f"{preset}.md")
    print(f"Wrote {len(PRESET_NAMES)} model cards to {arguments.output_dir}.")
