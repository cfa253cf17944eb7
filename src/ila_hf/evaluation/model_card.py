# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""The model card of a run.

The words are in model_card_template.md, the data here; `huggingface_hub` writes the front matter.
"""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml
from huggingface_hub.utils import HFValidationError, validate_repo_id
from PIL import Image

from ..configuration_ila import ILAConfig
from ..data.video_transforms import names_a_side
from ..modeling_ila import ILAForVideoClassification, ILAForVideoTextClassification
from ..processing_ila import ILAProcessor
from ..temporal_baselines_ila import SYSTEMS
from ..video_processing_ila import ILAVideoProcessor


TEMPLATE = Path(__file__).with_name("model_card_template.md")
EVAL_RESULTS = ".eval_results/ila_hf.yaml"  # of a repository of the Hub
VISIBLE_CLASSES = 20  # longer lists are folded

_ACCURACIES = {"top1": "top-1 accuracy", "top5": "top-5 accuracy", "mean_class_accuracy": "mean class accuracy"}
# How the aligned frame joins its layer, by `alignment_join`
_JOINS = {
    "token": "is pooled into one token that joins the spatial self-attention",
    "add": "is added to the input of its layer",
    "concatenate": "joins the spatial self-attention as further keys and values",
}
_OTHER_METRICS = {"num_clips": "clips evaluated", "num_unreadable": "of them unreadable, counted as wrong"}
TAGS = ("video-classification", "ila", "ila_hf", "clip", "action-recognition")
ZERO_SHOT_TAG = "zero-shot-video-classification"
_TEXT_HEAD, _LINEAR_HEAD = ILAForVideoTextClassification.__name__, ILAForVideoClassification.__name__
_BACKBONES = {(768, 12): "ViT-B", (1024, 24): "ViT-L"}

# In CommonMark a backslash takes the meaning off a character. `|` would still end the cell of a table in some parsers,
# and `<` and `&` are taken for HTML by some: these three become entities, with `>`.
_ESCAPES = str.maketrans(
    {**{c: f"\\{c}" for c in "\\`*_[]#~$"}, "&": "&amp;", "<": "&lt;", ">": "&gt;", "|": "&#124;"}
)


def escape_markdown(value: Any) -> str:
    """Text as it is to be read, on one line, safe in paragraphs, headings and cells of tables."""
    return " ".join(str(value).split()).translate(_ESCAPES)


def render_card(metadata: ModelCardData, template: Path, fields: Mapping[str, Any]) -> ModelCard:
    """A card from its front matter, a template, and the variables of the template."""
    card: ModelCard = ModelCard.from_template(metadata, template_path=str(template), **fields)
    card.text += "\n"  # jinja takes off the line break at the end of a template
    return card


def _hub_id(name: str | None) -> str | None:
    """The name, if it can be an id of the Hub; a folder of this machine is none."""
    try:
        validate_repo_id(name or "")
    except HFValidationError:
        return None
    return None if Path(str(name)).exists() else name


def _base_model(name: str | None) -> str | None:
    """Where the weights came from. Of a folder, which nobody else has, what its own card says, or nothing."""
    if name is None or not os.path.exists(name):
        return name
    try:
        base: Any = ModelCard.load(Path(name) / "README.md").data.base_model
    except (OSError, ValueError, yaml.YAMLError):  # no card, or none that says anything
        return None
    return base if isinstance(base, str) else None


def _without_folders(name: str) -> str:
    return os.path.basename(os.path.normpath(name)) if os.path.isabs(name) else name


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
        model_name: Hub id or folder that the code of the card loads; of a path from the root, its last part.
        recipe: Settings of the training, shown as a table.
        metrics: What was measured: "top1", "top5" and "mean_class_accuracy" in [0, 1]; "loss", "num_clips" and others
            as they are. NaN, a mean over nothing, is left out. None: the card says that nothing was measured.
        dataset_name: Hub id or name of the training videos; of a path from the root, its last part.
        base_model: Hub id of the weights that the training started from. A folder is not named: the base model that
            its own card states is.
        license: Identifier of the Hub's list, such as "apache-2.0".

    Raises:
        ValueError: For a model or processor of another class, and for accuracies outside [0, 1].
    """
    if not isinstance(model, ILAForVideoTextClassification | ILAForVideoClassification):
        raise ValueError(f"`model` must be an {_TEXT_HEAD} or {_LINEAR_HEAD}, got {type(model).__name__}.")
    video_processor = getattr(processor, "video_processor", processor)
    if not isinstance(video_processor, ILAVideoProcessor):
        raise ValueError(f"`processor` must be an ILAProcessor or ILAVideoProcessor, got {type(processor).__name__}.")
    measured = {name: value for name, value in (metrics or {}).items() if value == value}
    for name in _ACCURACIES.keys() & measured.keys():
        if not 0 <= measured[name] <= 1:
            raise ValueError(f"`{name}` is an accuracy, in [0, 1], got {measured[name]!r}.")
    has_tokenizer = isinstance(processor, ILAProcessor)
    run = _Run(model, video_processor, has_tokenizer, model_name, recipe, measured, dataset_name, base_model, license)
    return render_card(run.metadata(), TEMPLATE, run.fields())


def save_eval_results(
    folder: str | Path,
    evaluated_on: str | None,
    metrics: Mapping[str, float],
    processor: ILAProcessor | ILAVideoProcessor,
    notes: Sequence[str] = (),
) -> None:
    """Write `EVAL_RESULTS`, the top-1 accuracy in % as the Hub shows it, beside the card.

    Without top-1, and for a data set that is not on the Hub, the results of an earlier run are removed.

    Args:
        folder: Of the card.
        evaluated_on: Hub id of the data set, all of whose split was evaluated.
        metrics, processor: As in [`card_from_run`].
        notes: What else is to be known of the evaluation.
    """
    file, dataset, top1 = Path(folder) / EVAL_RESULTS, _hub_id(evaluated_on), metrics.get("top1", math.nan)
    if dataset is None or math.isnan(top1):
        file.unlink(missing_ok=True)
        return
    video_processor: Any = getattr(processor, "video_processor", processor)
    views = f"{video_processor.num_clips} × {video_processor.num_crops} views (clips × crops)"
    text = ", ".join(["top-1 accuracy in %", views, *notes])
    entries = [EvalResultEntry(dataset, "default", round(100 * top1, 2), notes=text)]
    file.parent.mkdir(exist_ok=True)
    file.write_text(yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False, allow_unicode=True))


@dataclass
class _Run:
    """What [`card_from_run`] takes, as front matter and as variables of the template."""

    model: ILAForVideoTextClassification | ILAForVideoClassification
    processor: ILAVideoProcessor
    has_tokenizer: bool
    model_name: str
    recipe: Mapping[str, Any]
    metrics: Mapping[str, float]
    dataset_name: str | None
    base_model: str | None
    license: str | None

    def __post_init__(self) -> None:
        self.config: ILAConfig = self.model.config
        self.hub_dataset = _hub_id(self.dataset_name)
        # A card is read elsewhere, where the folders of this machine are not
        self.model_name = _without_folders(self.model_name)
        self.dataset_name = self.dataset_name and _without_folders(self.dataset_name)
        self.base_model = _base_model(self.base_model)
        self.has_text = isinstance(self.model, ILAForVideoTextClassification)

    def metadata(self) -> ModelCardData:
        """The front matter."""
        results = self._eval_results(self.hub_dataset or "unknown")
        return ModelCardData(
            language="en" if self.has_text else None,
            license=self.license,
            library_name="transformers",
            pipeline_tag="video-classification",
            tags=[*TAGS, *([ZERO_SHOT_TAG] if self.has_text else [])],
            base_model=_hub_id(self.base_model),
            datasets=[self.hub_dataset] if self.hub_dataset else None,
            metrics=["accuracy"] if results else None,
            model_name=self.model_name if results else None,
            eval_results=results or None,
        )

    def _eval_results(self, dataset: str) -> list[EvalResult]:
        views = {"num_clips": self.processor.num_clips, "num_crops": self.processor.num_crops}
        return [
            EvalResult(
                task_type="video-classification",
                dataset_type=dataset,
                dataset_name=self.dataset_name or "unknown",
                metric_type="accuracy",
                metric_name=f"{name} in %",
                metric_value=round(100 * float(self.metrics[key]), 2),
                metric_args=views,
            )
            for key, name in _ACCURACIES.items()
            if key in self.metrics
        ]

    def fields(self) -> dict[str, Any]:
        """The variables of the template."""
        vision, processor = self.config.vision_config, self.processor
        names = [self.config.id2label[i] for i in range(self.config.num_labels)]
        is_plain = vision.alignment_layers == [] or vision.temporal_module == "none"
        return {
            "model_class": _TEXT_HEAD if self.has_text else _LINEAR_HEAD,
            "has_tokenizer": self.has_tokenizer,
            "title": escape_markdown(self.model_name),
            "model_code": json.dumps(self.model_name, ensure_ascii=False),  # a literal of JSON is one of Python
            "base_model": escape_markdown(self.base_model or ""),
            "dataset": escape_markdown(self.dataset_name or ""),
            "license": escape_markdown(self.license or ""),
            "has_text": self.has_text,
            "processor_class": (ILAProcessor if self.has_tokenizer else ILAVideoProcessor).__name__,
            "is_multi_label": self.config.problem_type == "multi_label_classification",
            "class_names": [escape_markdown(name) for name in names],
            "visible_classes": VISIBLE_CLASSES,
            "names_sides": names_a_side(names),
            "num_frames": processor.num_frames,
            "size": processor.crop_size["height"],
            "num_clips": processor.num_clips,
            "num_crops": processor.num_crops,
            "num_views": processor.num_clips * processor.num_crops,
            "backbone": backbone_name(self.config),
            "architecture": vision.architecture,
            "temporal_module": None if is_plain else escape_markdown(vision.temporal_module),
            "temporal_system": SYSTEMS.get(vision.temporal_module),
            "has_evl_decoder": self.config.integration_module == "evl",
            "has_interaction_token": vision.aligns and vision.interaction_token,
            "is_causal": vision.aligns and vision.first_frame == "self" and vision.reference_frame == "previous",
            "join": vision.alignment_join,
            "how_it_joins": _JOINS[vision.alignment_join],
            "reference_frame": vision.reference_frame,
            "protocol": _protocol(processor.num_clips, processor.num_crops, processor.crop_size["height"]),
            "preprocessing": _preprocessing(processor),
            "recipe": [(escape_markdown(name), escape_markdown(value)) for name, value in self.recipe.items()],
            "evaluation": self._evaluation(),
            "architecture_fields": self._architecture_fields(),
        }

    def _evaluation(self) -> list[tuple[str, str]]:
        """Rows of measure and value."""
        rows = [(name, f"{100 * self.metrics[key]:.1f} %") for key, name in _ACCURACIES.items() if key in self.metrics]
        others = {key: value for key, value in self.metrics.items() if key not in _ACCURACIES}
        for key, value in others.items():
            shown = f"{value:.6g}" if isinstance(value, float) else escape_markdown(value)
            rows.append((escape_markdown(_OTHER_METRICS.get(key, key)), shown))
        return rows

    def _architecture_fields(self) -> list[tuple[str, str]]:
        vision, layers = self.config.vision_config, self.config.vision_config.alignment_layers
        prompt = self.config.prompt_num_hidden_layers
        text = f"similarity to class texts, video-specific prompt of {prompt} blocks"
        always = ("architecture", "interaction_token", "alignment_conv", "first_frame")
        rare = {"reference_frame": "previous", "alignment_operator": "convolution", "alignment_join": "token"}
        changed = tuple(name for name, default in rare.items() if getattr(vision, name) != default)
        of_alignment = (*always, *changed) if vision.aligns else ()
        options = vision.temporal_options or {}
        has_decoder, of_decoder = self.config.integration_module == "evl", self.config.integration_options or {}
        rows = {
            "temporal_module": vision.temporal_module,
            **{f"temporal_options.{name}": value for name, value in options.items()},
            "alignment_layers": "all" if layers is None else ", ".join(map(str, layers)) or "none",
            **{name: getattr(vision, name) for name in of_alignment},
            "backbone": backbone_name(self.config),
            **({"integration_module": self.config.integration_module} if has_decoder else {}),
            **{f"integration_options.{name}": value for name, value in of_decoder.items()},
            "head": text if self.has_text else "linear",
            "parameters": f"{self.model.num_parameters():,}",
        }
        return [(escape_markdown(name), escape_markdown(value)) for name, value in rows.items()]


def backbone_name(config: ILAConfig) -> str:
    """Such as "ViT-B/16", or a description where it has no such name."""
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
