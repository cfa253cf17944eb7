"""What ILA and four video models of transformers can do, tried on tiny models: the table of docs/comparison.md.

    python benchmarks/compare_features.py

A cell of the models in transformers and of ours is the outcome of one of the functions here, which
tests/test_comparison.py calls again. What cannot be tried is in `STATED`, with its source.
"""

import inspect
import re
import sys
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    CLIPConfig,
    CLIPModel,
    LlavaOnevisionVideoProcessor,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEImageProcessor,
    VideoMAEVideoProcessor,
    VideoPrismClipModel,
    VideoPrismConfig,
    VideoPrismForVideoClassification,
    VideoPrismVisionConfig,
    VJEPA2Config,
    VJEPA2ForVideoClassification,
    VJEPA2VideoProcessor,
    XCLIPConfig,
    XCLIPModel,
    XCLIPProcessor,
    pipeline,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_PRETRAINING_MAPPING_NAMES

from ila_hf import ILAForVideoTextClassification, ILAModel
from ila_hf.demo.motion_videos import draw_clip, write_video
from ila_hf.demo.tiny import tiny_config, tiny_processor


SIZE, FRAMES = 32, 8
OPTION = "an option"
# Widths of tiny.py, whose models take the weights of a CLIP of these sizes
_TOWER = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
_TEXT = {**_TOWER, "vocab_size": 514, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
_IDS = torch.tensor([[512, 5, 513], [512, 6, 513]])


@dataclass
class Family:
    """A tiny model of each kind that a family has.

    Args:
        name: Column of the table.
        model: Makes what is tried: the classifier or, where there is none, the model with texts.
        text_model: Makes the model that takes clips and texts, if there is one.
        processor: Makes what turns a video into clips.
        pixels: Name of the argument for clips.
        causal: Makes the model with the option that is to make it causal in time, if there is one.
        search: Makes the model with the option that is to embed texts without the video, if there is one.
    """

    name: str
    model: Callable[[], Any]
    text_model: Callable[[], Any] | None
    processor: Callable[[], Any]
    pixels: str = "pixel_values"
    causal: Callable[[], Any] | None = None
    search: Callable[[], Any] | None = None

    def inputs(self, model: Any, frames: int = FRAMES) -> dict[str, torch.Tensor]:
        """What the model needs for two clips."""
        clips = torch.randn(2, frames, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        needs_texts = isinstance(model, XCLIPModel | VideoPrismClipModel) or type(model) is ILAModel
        return {self.pixels: clips, **({"input_ids": _IDS} if needs_texts else {})}


def _ila(model_class: Any = ILAForVideoTextClassification, vision: dict[str, Any] | None = None, **fields: Any) -> Any:
    config = tiny_config(vision, **fields)
    model = model_class(config)
    if model_class is ILAForVideoTextClassification:
        model.set_class_texts(["left", "right"], tiny_processor(config))
    return model


def _xclip() -> XCLIPModel:
    mit = {f"mit_{name}": value for name, value in _TOWER.items()}
    vision = {**_TOWER, **mit, "image_size": SIZE, "patch_size": 8, "num_frames": FRAMES}
    return XCLIPModel(
        XCLIPConfig(text_config=_TEXT, vision_config=vision, projection_dim=64, prompt_num_attention_heads=2)
    )


def _videomae() -> VideoMAEForVideoClassification:
    config = VideoMAEConfig(**_TOWER, image_size=SIZE, patch_size=8, num_frames=FRAMES, tubelet_size=2)
    return VideoMAEForVideoClassification(config)


def _vjepa2() -> VJEPA2ForVideoClassification:
    predictor = {"pred_hidden_size": 64, "pred_num_attention_heads": 2, "pred_num_hidden_layers": 1}
    sizes = {"crop_size": SIZE, "patch_size": 8, "frames_per_clip": FRAMES, "num_pooler_layers": 1}
    tower = {name: value for name, value in _TOWER.items() if name != "intermediate_size"}
    return VJEPA2ForVideoClassification(VJEPA2Config(**tower, **predictor, **sizes))


_PRISM = {
    **{name: value for name, value in _TOWER.items() if name != "num_hidden_layers"},
    **{"image_size": SIZE, "num_frames": FRAMES, "tubelet_size": (1, 8, 8)},
    **{"num_spatial_layers": 1, "num_temporal_layers": 1, "num_auxiliary_layers": 1},
}


def _videoprism() -> VideoPrismForVideoClassification:
    return VideoPrismForVideoClassification(VideoPrismVisionConfig(**_PRISM))


def _videoprism_clip() -> VideoPrismClipModel:
    return VideoPrismClipModel(VideoPrismConfig(vision_config=_PRISM, text_config={**_TOWER, "vocab_size": 514}))


def _with_sizes(processor_class: Any) -> Callable[[], Any]:
    sizes = {"size": {"height": SIZE, "width": SIZE}, "crop_size": {"height": SIZE, "width": SIZE}}
    return lambda: processor_class(**sizes)


def _xclip_processor() -> XCLIPProcessor:
    """With the image processor of the published models."""
    tokenizer = tiny_processor(tiny_config()).tokenizer
    return XCLIPProcessor(_with_sizes(VideoMAEImageProcessor)(), tokenizer)


FAMILIES = [
    Family(
        "ILA, this package",
        _ila,
        _ila,
        lambda: tiny_processor(tiny_config()).video_processor,
        causal=lambda: _ila(vision={"first_frame": "self"}),
        search=lambda: _ila(ILAModel, prompt_num_hidden_layers=0),
    ),
    Family("X-CLIP", _xclip, _xclip, _xclip_processor),
    Family("VideoMAE", _videomae, None, _with_sizes(VideoMAEVideoProcessor)),
    Family("V-JEPA 2", _vjepa2, None, _with_sizes(VJEPA2VideoProcessor), "pixel_values_videos"),
    Family(
        "VideoPrism",
        _videoprism,
        _videoprism_clip,
        _with_sizes(LlavaOnevisionVideoProcessor),
        "pixel_values_videos",
    ),
]


def _made(make: Callable[[], Any]) -> Any:
    """A model in evaluation mode, with noise on its weights: what starts at zero would hide what depends on it."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def _scores(output: Any) -> torch.Tensor:
    scores: torch.Tensor = output.logits if "logits" in output else output.logits_per_video
    return scores


def _works(attempt: Callable[[], Any]) -> bool:
    """Whether an attempt ends without an error, of whatever class: they differ from model to model."""
    try:
        attempt()
    except Exception:
        return False
    return True


def names_weights(family: Family) -> bool:
    """The model's own docstrings load weights from the Hub."""
    source = inspect.getsource(sys.modules[type(_made(family.model)).__module__])
    return re.search(r"from_pretrained\(\"[\w-]+/[\w.-]+\"", source) is not None


def trains_without_labels(family: Family) -> str | bool:
    """Self-supervised training: a class of the mapping for it, or V-JEPA 2's predictor, whose loss is not included."""
    model = _made(family.model)
    if model.config.model_type in MODEL_FOR_PRETRAINING_MAPPING_NAMES:
        return True
    return "predictor" if hasattr(model.base_model, "predictor") else False


def compares_with_texts(family: Family) -> bool:
    """Clips are compared with texts, given as token ids."""
    if family.text_model is None:
        return False
    model = _made(family.text_model)
    with torch.no_grad():
        scores = _scores(model(**{**family.inputs(model), "input_ids": _IDS}))
    return scores.shape == (2, 2)


def embeds_texts_alone(family: Family) -> str | bool | None:
    """The features of a text do not depend on the video, so that a collection can be indexed and searched."""
    if family.text_model is None:
        return None
    model = _made(family.search or family.text_model)
    inputs = family.inputs(model)
    with torch.no_grad():
        first = model(**inputs).text_embeds
        second = model(**{**inputs, family.pixels: 1 - inputs[family.pixels]}).text_embeds
    return torch.equal(first, second) and (OPTION if family.search else True)


def pipeline_takes_files(family: Family) -> str | bool:
    """The video-classification pipeline classifies a file; "with num_frames" where it has to be told their number."""
    processor = family.processor()
    processor = getattr(processor, "video_processor", processor)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.mp4"
        frames, _, fps = draw_clip(0)
        write_video(path, frames, fps)

        def classify(**arguments: int) -> None:
            answer = pipeline("video-classification", model=_made(family.model), video_processor=processor)
            answer(str(path), **arguments)

        if _works(classify):
            return True
        return "with `num_frames`" if _works(lambda: classify(num_frames=FRAMES)) else False


def _shapes(family: Family, video: torch.Tensor, **views: int) -> list[tuple[int, ...]]:
    """The shapes of the clips that the processor makes of a video: sampled, and as it does by itself."""
    shapes = []
    for sampling in ({"num_frames": FRAMES, "do_sample_frames": True}, {}):
        try:
            output = family.processor()(videos=video, return_tensors="pt", **sampling, **views)
        except Exception:  # of whatever class: they differ from processor to processor
            continue
        shapes.append(tuple(output[family.pixels].shape))
    return shapes


def repeats_frames(family: Family) -> bool:
    """The processor makes a clip of eight frames from a video of three."""
    return (1, FRAMES, 3, SIZE, SIZE) in _shapes(family, torch.zeros(3, 3, 40, 40, dtype=torch.uint8))


def makes_views(family: Family) -> bool:
    """The processor cuts a video into clips × crops."""
    video = torch.zeros(20, 3, 40, 60, dtype=torch.uint8)
    return (1, 6, FRAMES, 3, SIZE, SIZE) in _shapes(family, video, num_clips=2, num_crops=3)


def takes_other_frame_counts(family: Family) -> bool:
    """A model for eight frames takes four and sixteen."""
    model = _made(family.model)
    options = {"interpolate_pos_encoding": True} if family.name == "VideoPrism" else {}
    return all(_works(lambda n=n: model(**family.inputs(model, n), **options)) for n in (4, 16))


def is_causal(family: Family) -> str | bool:
    """The first tokens in the last layer do not depend on the frames behind those that they are made of."""
    model = _made(family.causal or family.model)
    inputs = family.inputs(model)
    frames = getattr(model.config, "tubelet_size", 1)
    changed = inputs[family.pixels].clone()
    changed[:, frames if isinstance(frames, int) else frames[0] :] += 1
    tokens = []
    with torch.no_grad():
        for clips in (inputs[family.pixels], changed):
            output = model(**{**inputs, family.pixels: clips}, output_hidden_states=True)
            hidden = output.get("hidden_states") or output.vision_model_output.hidden_states
            tokens.append(hidden[-1].reshape(2, -1, _TOWER["hidden_size"])[:, 0])
    return torch.allclose(*tokens, atol=1e-6) and (OPTION if family.causal else True)


def attention_back_ends(family: Family) -> str:
    """Those that the class declares, beside eager."""
    model = _made(family.model)
    names = {"sdpa": "SDPA", "flash_attn": "flash", "flex_attn": "flex"}
    return ", ".join(label for name, label in names.items() if getattr(model, f"_supports_{name}"))


def compiles(family: Family) -> bool:
    """torch.compile makes one graph of the model, which gives the same scores."""
    model = _made(family.model)
    inputs = family.inputs(model)
    torch._dynamo.reset()
    with torch.no_grad():
        expected = _scores(model(**inputs))
        try:
            found = _scores(torch.compile(model, fullgraph=True, backend="eager")(**inputs))
        except Exception:
            return False
    return torch.allclose(expected, found, atol=1e-5)


def exports(family: Family) -> bool:
    """torch.export, from which ONNX files are made, takes the model, and the program gives the same scores."""
    model = _made(family.model)
    inputs = family.inputs(model)
    with torch.no_grad():
        expected = _scores(model(**inputs))
        try:
            found = _scores(torch.export.export(model, (), kwargs=inputs).module()(**inputs))
        except Exception:
            return False
    return torch.allclose(expected, found, atol=1e-4)


def checkpoints_gradients(family: Family) -> bool:
    """With activation checkpointing the gradients are the same."""
    gradients = []
    for checkpointed in (False, True):
        model = _made(family.model).train()
        if checkpointed:
            model.activation_checkpointing_enable()
        torch.manual_seed(0)
        _scores(model(**family.inputs(model))).square().sum().backward()
        gradients.append([p.grad for p in model.parameters() if p.grad is not None])
    pairs = zip(*gradients, strict=True)
    return all(torch.allclose(one, two, rtol=1e-3, atol=1e-5) for one, two in pairs)


def compiles_exports_checkpoints(family: Family) -> str | bool:
    """All three, or the names of those that work."""
    found = {
        "checkpointing": checkpoints_gradients(family),
        "compile": compiles(family),
        "export": exports(family),
    }
    return True if all(found.values()) else ", ".join(name for name, works in found.items() if works) or False


def takes_clip_weights(family: Family) -> str | bool:
    """How many of the tensors of a plain CLIP arrive under their names when it is loaded."""
    text = {**_TEXT, "projection_dim": 64}
    vision = {**_TOWER, "image_size": SIZE, "patch_size": 8, "projection_dim": 64}
    clip = _made(lambda: CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)))
    config = _made(family.text_model or family.model).config
    if family.text_model is _ila:
        config.vision_config.num_hidden_layers = _TOWER["num_hidden_layers"]
    model_class = type(_made(family.text_model or family.model))
    with tempfile.TemporaryDirectory() as folder:
        clip.save_pretrained(folder)
        loaded = model_class.from_pretrained(folder, config=config, ignore_mismatched_sizes=True).state_dict()
    theirs = dict(clip.named_parameters())
    arrived = sum(name in loaded and torch.equal(loaded[name], tensor) for name, tensor in theirs.items())
    if arrived < len(theirs) / 2:
        return False
    return True if arrived == len(theirs) else f"{arrived} of {len(theirs)} tensors"


ORIGINAL = "ILA, original code"
COLUMNS = [FAMILIES[0].name, ORIGINAL, *(family.name for family in FAMILIES[1:])]

# What no test can find out: the best accuracies of the papers (arXiv 2304.10465, 2208.02816, 2203.12602, 2506.09985,
# 2402.13217); the original code has main.py, transformers a guide to video classification, with VideoMAE
STATED = {
    "Kinetics-400 top-1, published": [
        *("88.7, ViT-L", "88.7, ViT-L", "87.7, ViT-L", "87.4, ViT-H", "87.3, ViT-g, frozen", "87.2, ViT-g, frozen")
    ],
    "Something-Something v2 top-1, published": [
        *("70.2, ViT-L", "70.2, ViT-L", "–", "75.4, ViT-L", "77.3, ViT-g, frozen", "68.5, ViT-g, frozen")
    ],
    "training script": [
        *("yes, exact resume", "yes", "Trainer, no script", "Trainer, a guide", "Trainer, no script"),
        "Trainer, no script",
    ],
}

# Row -> the function that tries it, and the cell of the original code (its main.py, datasets/build.py, models/mit.py)
TRIED: dict[str, tuple[Callable[[Family], Any], str]] = {
    "weights on the Hub": (names_weights, "no, on Google Drive"),
    "self-supervised pre-training": (trains_without_labels, "no"),
    "class texts (zero-shot)": (compares_with_texts, "Kinetics branch"),
    "texts embedded without the video (search)": (embeds_texts_alone, "no"),
    "pipeline takes a file": (pipeline_takes_files, "no"),
    "videos shorter than a clip": (repeats_frames, "–"),
    "several views from the processor": (makes_views, "yes"),
    "other numbers of frames than trained": (takes_other_frame_counts, "no"),
    "trunk causal in time": (is_causal, "no"),
    "attention beside eager, declared": (attention_back_ends, "torch's own"),
    "checkpointing, `torch.compile`, `torch.export`": (compiles_exports_checkpoints, "–"),
    "loads a plain CLIP": (takes_clip_weights, "OpenAI's files"),
}


def cell(outcome: Any) -> str:
    """An outcome as the table shows it."""
    return {True: "yes", False: "no", None: "–"}.get(outcome, str(outcome))


def row(label: str) -> list[str]:
    """The cells of a row, in the order of `COLUMNS`."""
    if label in STATED:
        return STATED[label]
    probe, original = TRIED[label]
    found = [cell(probe(family)) for family in FAMILIES]
    return [found[0], original, *found[1:]]


def line(label: str, cells: list[str]) -> str:
    """A line of Markdown."""
    return f"| {label} | {' | '.join(cells)} |"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    print(line("", COLUMNS), "|---" * (len(COLUMNS) + 1) + "|", sep="\n")
    for label in [*STATED, *TRIED]:
        print(line(label, row(label)), flush=True)
