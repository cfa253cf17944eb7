# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Convert a released ILA checkpoint (.pth) into a folder that `from_pretrained` loads.

    ila-hf convert --checkpoint_path k400_B_16_8.pth --output_dir ila-base-patch16 --labels kinetics_400_labels.csv

The file is read without running any code of it: torch's weights-only reader takes the tensors, and every class it does
not know (the checkpoints hold a pickled yacs configuration) becomes an inert placeholder. Sizes are inferred from the
weights. Every key is mapped or on the ignore list; anything else is an error that lists it.
"""

import argparse
import re
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..configuration_ila import ILAConfig
from ..data.class_labels import read_labels
from ..modeling_ila import ILAForVideoClassification, ILAForVideoTextClassification, ILAPreTrainedModel
from ..processing_ila import ILAProcessor
from ..video_processing_ila import ILAVideoProcessor


DEFAULT_TOKENIZER = "openai/clip-vit-base-patch32"

# Original name -> ours, tried in this order. A name ending in "^T" is a matrix that is stored transposed.
_BLOCK = {
    r"attn\.in_proj_(weight|bias)": r"self_attn.{q,k,v}_proj.\1",
    r"attn\.out_proj\.(\w+)": r"self_attn.out_proj.\1",
    r"ln_([12])\.(\w+)": r"layer_norm\1.\2",
    r"mlp\.c_fc\.(\w+)": r"mlp.fc1.\1",
    r"mlp\.c_proj\.(\w+)": r"mlp.fc2.\1",
}
_TEMPORAL = {
    r"message_fc\.(\w+)": r"input_fc.\1",
    r"message_ln\.(\w+)": r"input_norm.\1",
    r"message_attn\.conv\.(\w+)": r"temporal_conv.\1",
    r"message_attn\.fc\.(\w+)": r"interaction_fc.\1",
    r"temporal_skip_fc\.(\w+)": r"interaction_out.\1",
    r"temporal_skip_align_fc\.(\w+)": r"aligned_out.\1",
    r"message_attn\.prediction_block\.0\.(\w+)": r"alignment.prediction.conv1.\1",
    r"message_attn\.prediction_block\.1\.(\w+)": r"alignment.prediction.norm1.\1",
    r"message_attn\.prediction_block\.4\.(\w+)": r"alignment.prediction.conv2.\1",
    r"message_attn\.prediction_block\.5\.(\w+)": r"alignment.prediction.norm2.\1",
    r"message_attn\.prediction_block\.10\.(\w+)": r"alignment.prediction.fc1.\1",
    r"message_attn\.prediction_block\.12\.(\w+)": r"alignment.prediction.fc2.\1",
}
_SEPARABLE = {
    r"message_attn\.interactive_block\.0\.depthwise_conv\.([01])\.(\w+)": r"alignment.interaction.\1.\2",
    r"message_attn\.interactive_block\.0\.pointwise_conv\.0\.(\w+)": r"alignment.interaction.3.\1",
    r"message_attn\.interactive_block\.0\.pointwise_conv\.1\.(\w+)": r"alignment.interaction.4.\1",
    r"message_attn\.interactive_block\.1\.(\w+)": r"alignment.interaction.6.\1",
    r"message_attn\.interactive_block\.2\.(\w+)": r"alignment.interaction.7.\1",
}
_DENSE = {r"message_attn\.interactive_block\.([0134])\.(\w+)": r"alignment.interaction.\1.\2"}
_REST = {
    r"visual\.conv1\.weight": r"vision_model.embeddings.patch_embedding.weight",
    r"visual\.class_embedding": r"vision_model.embeddings.class_embedding",
    r"visual\.positional_embedding": r"vision_model.embeddings.position_embedding.weight",
    r"visual\.ln_pre\.(\w+)": r"vision_model.pre_layrnorm.\1",
    r"visual\.ln_post\.(\w+)": r"vision_model.post_layernorm.\1",
    r"visual\.proj": r"visual_projection.weight^T",
    r"token_embedding\.weight": r"text_model.embeddings.token_embedding.weight",
    r"positional_embedding": r"text_model.embeddings.position_embedding.weight",
    r"ln_final\.(\w+)": r"text_model.final_layer_norm.\1",
    r"text_projection": r"text_projection.weight^T",
    r"logit_scale": r"logit_scale",
    r"mit\.positional_embedding": r"integration.position_embedding",
    r"mit\.classify_head\.0\.(\w+)": r"norm.\1",
    r"mit\.classify_head\.2\.(\w+)": r"classifier.\1",
    r"prompts_visual_ln\.(\w+)": r"prompt.patch_norm.\1",
    r"prompts_visual_proj": r"prompt.patch_projection.weight^T",
    r"prompts_generator\.alpha": r"prompt.alpha",
    r"prompts_generator\.norm\.(\w+)": r"prompt.norm.\1",
    r"prompts_generator\.decoder\.(\d+)\.cross_attn\.([qkv]_proj)\.weight": r"prompt.layers.\1.cross_attn.\2.weight",
    r"prompts_generator\.decoder\.(\d+)\.cross_attn\.proj\.(\w+)": r"prompt.layers.\1.cross_attn.out_proj.\2",
    r"prompts_generator\.decoder\.(\d+)\.norm1\.(\w+)": r"prompt.layers.\1.norm1.\2",
    r"prompts_generator\.decoder\.(\d+)\.norm3\.(\w+)": r"prompt.layers.\1.norm2.\2",
    r"prompts_generator\.decoder\.(\d+)\.mlp\.0\.(\w+)": r"prompt.layers.\1.mlp.0.\2",
    r"prompts_generator\.decoder\.(\d+)\.mlp\.3\.(\w+)": r"prompt.layers.\1.mlp.2.\2",
}
# Sizes that OpenAI's archives of CLIP carry beside the weights
_IGNORED = {"input_resolution", "context_length", "vocab_size"}
# What the sizes are inferred from, with the number of dimensions
_REQUIRED = {
    "visual.conv1.weight": 4,
    "visual.positional_embedding": 2,
    "visual.proj": 2,
    "visual.transformer.resblocks.0.message_fc.weight": 2,
    "visual.transformer.resblocks.0.mlp.c_fc.weight": 2,
    "visual.transformer.resblocks.0.message_attn.prediction_block.0.weight": 4,
    "mit.positional_embedding": 3,
}
_REQUIRED_TEXT = {"token_embedding.weight": 2, "positional_embedding": 2, "transformer.resblocks.0.mlp.c_fc.weight": 2}
# State of ours that no released checkpoint has: s of the mask jitter starts at 1, class texts are set afterwards
_OURS = re.compile(r"class_texts\.input_ids|.*\.mask\.jitter_scale")


class _Opaque:
    """Stands in for numpy's scalars, arrays and types, such as a `max_accuracy`; it holds nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Opaque":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any):
        """Take what the file passes, keep nothing."""

    def __setstate__(self, state: Any) -> None:
        """Take what the file passes, keep nothing."""


class _Placeholder:
    """Stands in for every other class that torch does not know: whatever the file asks of it, nothing runs.

    An instance is an empty OrderedDict, the one container that torch's weights-only reader fills and sets state on.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> "OrderedDict[Any, Any]":  # type: ignore[misc]
        return OrderedDict()


def load_original_state_dict(path: str | Path) -> dict[str, torch.Tensor]:
    """Read the weights of a released checkpoint without running code of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a torch archive, or holds no weights of an ILA model.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"There is no checkpoint {str(path)!r}.")
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        placeholders = [(_Opaque if name.startswith("numpy.") else _Placeholder, name) for name in unknown]
        with torch.serialization.safe_globals([_Opaque, *placeholders]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types for broken and foreign files
        raise ValueError(f"{str(path)!r} cannot be read as a torch checkpoint in zip format: {error}") from error
    weights = content
    for key in ("model", "state_dict"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            weights = content[key]
            break
    if not isinstance(weights, dict) or not all(isinstance(value, torch.Tensor) for value in weights.values()):
        kind = sorted(weights)[:10] if isinstance(weights, dict) else type(weights).__name__
        raise ValueError(
            f"{str(path)!r} is not an ILA checkpoint: no weights under 'model' or 'state_dict', got {kind}."
        )
    weights = {name.removeprefix("module."): value for name, value in weights.items()}
    required = _REQUIRED | (_REQUIRED_TEXT if _has_text(weights) else {})
    problems = [f"no {name}" for name in required if name not in weights]
    problems += [
        f"{name} of shape {tuple(weights[name].shape)}, not of {ndim} dimensions"
        for name, ndim in required.items()
        if name in weights and weights[name].ndim != ndim
    ]
    if problems:
        found = f"it has {sorted(weights)[:5]} and others"
        raise ValueError(f"{str(path)!r} is not an ILA checkpoint: {', '.join(problems)}; {found}.")
    return weights


def _has_text(weights: dict[str, torch.Tensor]) -> bool:
    return any(name.startswith(("transformer.", "token_embedding.", "prompts_", "logit_scale")) for name in weights)


def _is_separable(weights: dict[str, torch.Tensor]) -> bool:
    return any(".depthwise_conv." in name for name in weights)


def _count(weights: dict[str, torch.Tensor], prefix: str) -> int:
    """Number of numbered children, such as layers, below a prefix."""
    pattern = re.compile(re.escape(prefix) + r"\.(\d+)\.")
    return len({match[1] for name in weights if (match := pattern.match(name))})


def infer_config(weights: dict[str, torch.Tensor]) -> ILAConfig:
    """Infer every size from the shapes of the weights; heads are 64 wide, as in CLIP."""
    width, channels, patch_size, _ = weights["visual.conv1.weight"].shape
    positions, projection_dim = len(weights["visual.positional_embedding"]), weights["visual.proj"].shape[1]
    vision = {
        "architecture": "released",
        "alignment_conv": "separable" if _is_separable(weights) else "dense",
        "alignment_hidden_size": len(
            weights["visual.transformer.resblocks.0.message_attn.prediction_block.0.weight"][0]
        ),
        "hidden_size": width,
        "intermediate_size": len(weights["visual.transformer.resblocks.0.mlp.c_fc.weight"]),
        "num_hidden_layers": _count(weights, "visual.transformer.resblocks"),
        "num_attention_heads": max(1, width // 64),
        "num_channels": channels,
        "patch_size": patch_size,
        "image_size": patch_size * round((positions - 1) ** 0.5),
        "projection_dim": projection_dim,
    }
    fields = {
        "projection_dim": projection_dim,
        "num_frames": weights["mit.positional_embedding"].shape[1],
        "mit_num_hidden_layers": _count(weights, "mit.resblocks"),
        "prompt_num_hidden_layers": _count(weights, "prompts_generator.decoder"),
    }
    text = {"projection_dim": projection_dim}
    if _has_text(weights):
        vocabulary, text_width = weights["token_embedding.weight"].shape
        text |= {
            "vocab_size": vocabulary,
            "hidden_size": text_width,
            "intermediate_size": len(weights["transformer.resblocks.0.mlp.c_fc.weight"]),
            "num_hidden_layers": _count(weights, "transformer.resblocks"),
            "num_attention_heads": max(1, text_width // 64),
            "max_position_embeddings": len(weights["positional_embedding"]),
            "bos_token_id": vocabulary - 2,
            "eos_token_id": vocabulary - 1,
        }
    return ILAConfig(vision_config=vision, text_config=text, **fields)


def _table(separable: bool) -> Iterator[tuple[re.Pattern[str], str]]:
    for tower, layers in (
        (r"visual\.transformer", "vision_model.encoder"),
        (r"transformer", "text_model.encoder"),
        (r"mit", "integration"),
    ):
        for name, ours in _BLOCK.items():
            ours = re.sub(r"\\(\d)", lambda match: rf"\{int(match[1]) + 1}", ours)
            yield re.compile(rf"{tower}\.resblocks\.(\d+)\.{name}"), rf"{layers}.layers.\1.{ours}"
    for name, ours in (_TEMPORAL | (_SEPARABLE if separable else _DENSE)).items():
        ours = re.sub(r"\\(\d)", lambda match: rf"\{int(match[1]) + 1}", ours)
        yield (
            re.compile(rf"visual\.transformer\.resblocks\.(\d+)\.{name}"),
            rf"vision_model.encoder.layers.\1.temporal.{ours}",
        )
    for name, ours in _REST.items():
        yield re.compile(name), ours


def convert_state_dict(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Rename the weights of a released checkpoint.

    Raises:
        ValueError: If a key is neither mapped nor on the ignore list; the message lists all such keys.
    """
    table = list(_table(_is_separable(weights)))
    converted, unknown = {}, []
    for name, value in weights.items():
        if name in _IGNORED:
            continue
        ours = next((match.expand(ours) for pattern, ours in table if (match := pattern.fullmatch(name))), None)
        if ours is None:
            unknown.append(name)
        elif "{q,k,v}" in ours:
            for part, chunk in zip("qkv", value.chunk(3), strict=True):
                converted[ours.replace("{q,k,v}", part)] = chunk.clone()
        elif ours.endswith("^T"):
            converted[ours.removesuffix("^T")] = value.t().contiguous()
        elif ".prediction.fc" in ours and ours.endswith("weight"):
            converted[ours] = value[..., None]  # a 1-D convolution of kernel 1 there, a 2-D one here
        else:
            converted[ours] = value
    if unknown:
        raise ValueError(f"Unknown keys in the checkpoint: {', '.join(sorted(unknown))}.")
    return converted


def _load(model: torch.nn.Module, converted: dict[str, torch.Tensor]) -> None:
    expected = model.state_dict()
    problems = [f"missing: {name}" for name in expected.keys() - converted.keys() if not _OURS.fullmatch(name)]
    problems += [f"unexpected: {name}" for name in converted.keys() - expected.keys()]
    problems += [
        f"wrong shape: {name} is {tuple(converted[name].shape)}, should be {tuple(expected[name].shape)}"
        for name in expected.keys() & converted.keys()
        if expected[name].shape != converted[name].shape
    ]
    if problems:
        raise ValueError("The checkpoint does not fit the inferred model:\n  " + "\n  ".join(sorted(problems)))
    model.load_state_dict(converted, strict=False)  # strict but for our own state, checked above


def _load_tokenizer(name: str, vocab_size: int) -> PreTrainedTokenizerBase | None:
    """The tokenizer, or None, said aloud, where it cannot be reached or has another vocabulary than the model."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        print(f"No tokenizer: {name!r} cannot be loaded ({str(error).splitlines()[0]}). Pass --tokenizer.")
        return None
    if len(tokenizer) != vocab_size:
        print(
            f"No tokenizer: {name!r} has {len(tokenizer)} tokens, the text tower has {vocab_size}. Pass --tokenizer."
        )
        return None
    return tokenizer


def convert_ila_checkpoint(
    checkpoint_path: str | Path,
    output_dir: str | Path,
    labels: str | Path | None = None,
    num_labels: int | None = None,
    tokenizer: str = DEFAULT_TOKENIZER,
) -> ILAForVideoTextClassification | ILAForVideoClassification:
    """Convert a released checkpoint, save model and processor, reload them and run the model once.

    Args:
        checkpoint_path: A released `.pth`, with a text tower (Kinetics-400) or a linear head (SSv2).
        output_dir: Folder to write.
        labels: Class names; see [`read_labels`]. For a linear head the first K rows are kept.
        num_labels: Number of rows of a linear head to keep (SSv2 uses 174 of 400). Default: as many as labels, or all.
        tokenizer: Folder or Hub id of the tokenizer of the text tower.

    Returns:
        The reloaded model.

    Raises:
        FileNotFoundError, ValueError: See [`load_original_state_dict`], [`convert_state_dict`], [`read_labels`].
    """
    weights = load_original_state_dict(checkpoint_path)
    config = infer_config(weights)
    names = None if labels is None else read_labels(labels)
    converted = convert_state_dict(weights)
    has_text = _has_text(weights)
    rows = len(converted["classifier.weight"]) if "classifier.weight" in converted else None
    if names is not None and num_labels is not None and len(names) != num_labels:
        raise ValueError(f"Got {len(names)} labels and num_labels={num_labels}; they must agree.")
    if num_labels is None:
        num_labels = len(names) if names is not None else rows
    if num_labels is not None and not 0 < num_labels <= (rows or num_labels):
        limit = "at least 1" if rows is None else f"between 1 and the {rows} rows of the head"
        raise ValueError(f"The number of classes must be {limit}, got {num_labels}.")
    if num_labels is not None:
        config.num_labels = num_labels
    if names is not None:
        config.id2label, config.label2id = dict(enumerate(names)), {name: i for i, name in enumerate(names)}
    if rows is not None:
        converted |= {name: converted[name][:num_labels] for name in ("classifier.weight", "classifier.bias")}
    _report(config, sum(value.numel() for value in weights.values()), rows)

    model_class: Any = ILAForVideoTextClassification if has_text else ILAForVideoClassification
    model = model_class(config).eval()
    _load(model, converted)
    processor: Any = ILAVideoProcessor.from_config(config)
    if has_text and (loaded := _load_tokenizer(tokenizer, config.text_config.vocab_size)) is not None:
        processor = ILAProcessor(processor, loaded)
        if names is not None:
            model.set_class_texts(names, loaded)
    processor.save_pretrained(output_dir)
    model.save_pretrained(output_dir)
    return cast("ILAForVideoTextClassification | ILAForVideoClassification", _check(model_class, output_dir))


def _report(config: ILAConfig, num_parameters: int, rows: int | None) -> None:
    vision = config.vision_config
    print(
        f"Inferred: {'Kinetics-400' if rows is None else 'SSv2'} kind ({vision.alignment_conv} convolution), "
        f"{vision.num_hidden_layers} layers of width {vision.hidden_size}, patches of {vision.patch_size}, "
        f"{config.num_frames} frames of {vision.image_size} pixels, projection {config.projection_dim}, "
        f"{num_parameters:,} numbers."
    )
    if rows is not None:
        print(f"The linear head keeps {config.num_labels} of {rows} rows (SSv2 has 174 classes: --num_labels 174).")


def _check(model_class: type[ILAPreTrainedModel], output_dir: str | Path) -> Any:
    model = model_class.from_pretrained(output_dir).eval()
    config = model.config
    size = config.vision_config.image_size
    clips = torch.zeros(1, config.num_frames, 3, size, size)
    inputs = {}
    if not _can_classify(model):
        print(
            "The model cannot classify yet: it has no class texts. Convert again with the names of the classes "
            "(--labels) and CLIP's tokenizer (--tokenizer, a folder or a Hub id); or call `set_class_texts`."
        )
        inputs["input_ids"] = torch.tensor([[config.text_config.bos_token_id, config.text_config.eos_token_id]])
    with torch.no_grad():
        logits = model(clips, **inputs).logits
    if not logits.isfinite().all():
        raise ValueError(f"The reloaded model gives {logits.tolist()} for a black clip.")
    print(f"Saved to {output_dir}; the reloaded {model_class.__name__} gives logits of shape {tuple(logits.shape)}.")
    return model


def _can_classify(model: ILAForVideoTextClassification | ILAForVideoClassification) -> bool:
    return not (isinstance(model, ILAForVideoTextClassification) and (model.class_texts.input_ids < 0).any())


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf convert`."""
    parser.add_argument("--checkpoint_path", required=True, help="released checkpoint (.pth)")
    parser.add_argument("--output_dir", required=True, help="folder to write")
    parser.add_argument("--labels", help="class names: csv, json or text file, or kinetics400 / ssv2 from the Hub")
    parser.add_argument("--num_labels", type=int, help="rows of a linear head to keep (SSv2: 174)")
    parser.add_argument("--tokenizer", default=DEFAULT_TOKENIZER, help="folder or Hub id of the CLIP tokenizer")


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf convert`; exits with 1 if what it has saved lacks class texts."""
    model = convert_ila_checkpoint(
        arguments.checkpoint_path, arguments.output_dir, arguments.labels, arguments.num_labels, arguments.tokenizer
    )
    if not _can_classify(model):
        raise SystemExit(1)
