# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0 (the "License"); you may not use
# this file except in compliance with the License. You may obtain a copy of the License at
# http://www.apache.org/licenses/LICENSE-2.0. Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND,
# either express or implied. See the License for the specific language governing permissions and limitations under the
# License.
"""Configuration of ILA (Implicit Learnable Alignment, ICCV 2023, https://arxiv.org/abs/2304.10465).

Everything in which the published variants differ is a field here; no code is edited to go from one to another.
Letters in shapes: B clips, T frames, N = h·w patches, L = 1 + N tokens, D vision width, E projection width, K classes.
"""

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import CLIPConfig, CLIPTextConfig, CLIPVisionConfig, PreTrainedConfig
from transformers.utils import TRANSFORMERS_DYNAMIC_MODULE_NAME


# Two 2×2 poolings precede the point prediction: a side of fewer than 4 patches would pool to nothing.
MIN_GRID_SIZE = 4

_BASE = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
_LARGE = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
_BASE_TEXT = {"hidden_size": 512, "intermediate_size": 2048, "num_attention_heads": 8}
_LARGE_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12}

# name -> (data set, width of the towers, patch size, frames, frame size); Tables 1-3 of the paper
_PRESETS: dict[str, tuple[str, str, int, int, int]] = {
    "ila-base-patch32": ("k400", "base", 32, 8, 224),
    "ila-base-patch32-16-frames": ("k400", "base", 32, 16, 224),
    "ila-base-patch16": ("k400", "base", 16, 8, 224),
    "ila-base-patch16-16-frames": ("k400", "base", 16, 16, 224),
    "ila-large-patch14": ("k400", "large", 14, 8, 224),
    "ila-large-patch14-336-16-frames": ("k400", "large", 14, 16, 336),
    "ila-base-patch16-ssv2": ("ssv2", "base", 16, 8, 224),
    "ila-base-patch16-16-frames-ssv2": ("ssv2", "base", 16, 16, 224),
    "ila-large-patch14-ssv2": ("ssv2", "large", 14, 8, 224),
    "ila-large-patch14-336-16-frames-ssv2": ("ssv2", "large", 14, 16, 336),
}
PRESET_NAMES = tuple(_PRESETS)
_NUM_LABELS = {"k400": 400, "ssv2": 174}


# Arguments of `from_pretrained` that say where files are
WHERE = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


def saved_settings(source: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """The content of the config.json in a folder or at a Hub id; none where there is no such file.

    Args:
        source: As of `from_pretrained`.
        arguments: Of `from_pretrained`.
    """
    if source is None:
        return {}
    try:
        where = {name: arguments[name] for name in WHERE if name in arguments}
        settings: dict[str, Any] = PreTrainedConfig.get_config_dict(source, **where)[0]
    except OSError:  # weights or a processor alone
        return {}
    return settings


class _OfCLIP:
    """A configuration that is also read from that of a CLIP: this is what it is for, and no mistake to warn of."""

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """As every configuration."""
        parent: Any = super()
        settings, rest = parent.get_config_dict(*args, **kwargs)
        return {name: _renamed(value) for name, value in _renamed(settings).items()}, rest


def _renamed(settings: Any) -> Any:
    """With ILA's `model_type` where it is CLIP's."""
    names = {"clip": "ila", "clip_text_model": "ila_text_model", "clip_vision_model": "ila_vision_model"}
    name = settings.get("model_type") if isinstance(settings, dict) else None
    return {**settings, "model_type": names[name]} if name in names else settings


def _names(config_class: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(config_class)}


def _require(condition: bool, field: str, value: Any, allowed: str) -> None:
    if not condition:
        raise ValueError(f"`{field}` must be {allowed}, got {value!r}.")


@strict
class ILATextConfig(_OfCLIP, CLIPTextConfig):
    """CLIP's text tower under ILA's own model type; see [`~transformers.CLIPTextConfig`] for the fields."""

    model_type = "ila_text_model"
    base_config_key = "text_config"
    _auto_class = "AutoConfig"

    if TYPE_CHECKING:  # narrower than in CLIP, whose text tower looks for one token
        eos_token_id: int

        def __init__(self, **kwargs: Any) -> None: ...


@strict
class ILAVisionConfig(_OfCLIP, CLIPVisionConfig):
    """The visual trunk: CLIP's vision transformer with one temporal module per layer.

    CLIP's own fields are documented in [`~transformers.CLIPVisionConfig`].

    Args:
        temporal_module (str, defaults to "ila"):
            What a layer learns from other frames: a name of [`~temporal_ila.ILA_TEMPORAL_MODULES`], of which
            temporal_baselines_ila.py has those that the paper compares. The fields below `temporal_options` are those
            of "ila", `alignment_layers` aside.
        temporal_options (dict, optional):
            Of a module other than "ila": the fields of its options, such as {"shift_position": "key_value"}.
        architecture ("paper" or "released", defaults to "paper"):
            "paper" appends one mutual-information token per frame to the self-attention (Eq. 3 and 4). "released" is
            what the published checkpoints hold: projections of aligned maps are added to the layer's input.
        alignment_conv ("separable" or "dense", defaults to "separable"):
            Interaction convolution: depthwise-separable (Kinetics-400 models) or two dense 3×3 (SSv2 models).
        alignment_hidden_size (int, defaults to 256):
            Channels of the interaction; the prediction uses a half and a quarter of it. A multiple of 8.
        alignment_layers (list of int, optional):
            Indices of the layers with a temporal module (Table 7). None: all of them; an empty list: plain CLIP.
        first_frame ("next" or "self", defaults to "next"):
            Paper architecture: the pair that gives the first frame its token. "next" takes its feature as the
            previous frame of the first pair; "self" pairs it with itself, which makes the trunk causal in time.
        reference_frame ("previous", "first" or "middle", defaults to "previous"):
            Paper architecture: the frame that every frame is aligned with (Table 6). With one of the others, it is
            aligned with itself, too, which does not count in the loss; `first_frame` has no meaning then.
        alignment_operator ("convolution" or "window_attention", defaults to "convolution"):
            Paper architecture: what turns a pair into its interaction (Table 8): the convolution above, or two layers
            of attention to the 3×3 patches around every patch.
        alignment_join ("token", "add" or "concatenate", defaults to "token"):
            Paper architecture: how the aligned frame joins its layer (Table 9): pooled into a token, added to the
            patches, or as further keys and values of the self-attention.
        interaction_token (bool, defaults to False):
            Our extension, not the paper's: append the pooled interaction channels as a second token per frame.
        point_range (float, defaults to 0.75): points lie in [-point_range, point_range].
        mask_distance ("separable" or "euclidean", defaults to "separable"):
            Distance of Eq. 6: a product of one profile per axis (as released), or one profile of the distance.
        mask_peak, mask_radius, mask_slope (float, default to 1.0, 0.25 and 1.5): η, δ and β of Eq. 6.
        mask_jitter (float, defaults to 0.2):
            In training, masks are averaged over nine points shifted by `mask_jitter`·s·{-1, 0, 1}².
        mask_jitter_decay_epoch (int, defaults to 30): s is 1 before it; at it and at every later epoch s halves.
        alignment_loss_type ("cosine_distance" or "negative_cosine", defaults to "cosine_distance"):
            Of a layer: the mean over clips and pairs of 1 - cos, as released; or, as in Eq. 10, the sum over the pairs
            of -cos, averaged over the clips. They differ by a constant and by the factor T - 1 in the weight.

    Raises:
        StrictDataclassFieldValidationError, StrictDataclassClassValidationError: naming the field and its value.
    """

    model_type = "ila_vision_model"
    base_config_key = "vision_config"
    _auto_class = "AutoConfig"

    if TYPE_CHECKING:  # narrower than in CLIP, by `validate_grid`
        image_size: int
        patch_size: int

        def __init__(self, **kwargs: Any) -> None: ...

    # What a layer learns from other frames
    temporal_module: str = "ila"
    temporal_options: dict[str, Any] | None = None

    # Alignment (section 3.2)
    architecture: Literal["paper", "released"] = "paper"
    alignment_conv: Literal["separable", "dense"] = "separable"
    alignment_hidden_size: int = 256
    alignment_layers: list[int] | None = None
    first_frame: Literal["next", "self"] = "next"
    reference_frame: Literal["previous", "first", "middle"] = "previous"
    alignment_operator: Literal["convolution", "window_attention"] = "convolution"
    alignment_join: Literal["token", "add", "concatenate"] = "token"
    interaction_token: bool = False

    # Masks (Eq. 6)
    point_range: float | int = 0.75
    mask_distance: Literal["separable", "euclidean"] = "separable"
    mask_peak: float | int = 1.0
    mask_radius: float | int = 0.25
    mask_slope: float | int = 1.5
    mask_jitter: float | int = 0.2
    mask_jitter_decay_epoch: int = 30

    # Loss (Eq. 9, 10)
    alignment_loss_type: Literal["cosine_distance", "negative_cosine"] = "cosine_distance"

    def validate_alignment(self) -> None:
        """Part of the `@strict` validation: fields that exclude each other or are out of range."""
        channels = self.alignment_hidden_size
        _require(channels > 0 and channels % 8 == 0, "alignment_hidden_size", channels, "a positive multiple of 8")
        layers = [] if self.alignment_layers is None else self.alignment_layers
        for layer in layers:
            allowed = f"between 0 and num_hidden_layers - 1 = {self.num_hidden_layers - 1}"
            _require(0 <= layer < self.num_hidden_layers, "alignment_layers", layer, allowed)
        _require(len(set(layers)) == len(layers), "alignment_layers", self.alignment_layers, "without repetitions")
        if self.architecture == "released":
            with_released = 'with architecture="released", which has no such choice'
            for field, only in {
                "first_frame": "next",
                "reference_frame": "previous",
                "alignment_operator": "convolution",
                "alignment_join": "token",
            }.items():
                _require(getattr(self, field) == only, field, getattr(self, field), f'"{only}" {with_released}')
            _require(not self.interaction_token, "interaction_token", self.interaction_token, f"False {with_released}")

    def validate_masks(self) -> None:
        """Part of the `@strict` validation: the constants of Eq. 6."""
        _require(0 < self.point_range <= 1, "point_range", self.point_range, "in (0, 1]")
        _require(self.mask_peak > 0, "mask_peak", self.mask_peak, "positive")
        for field in ("mask_radius", "mask_slope", "mask_jitter", "mask_jitter_decay_epoch"):
            _require(getattr(self, field) >= 0, field, getattr(self, field), "zero or positive")

    def validate_grid(self) -> None:
        """Part of the `@strict` validation: the frame must hold at least 4×4 patches."""
        size, patch = self.image_size, self.patch_size
        _require(isinstance(size, int) and size > 0, "image_size", size, "a positive integer (frames are square)")
        _require(isinstance(patch, int) and patch > 0, "patch_size", patch, "a positive integer")
        allowed = f"at least {MIN_GRID_SIZE} patches of `patch_size` {patch}, i.e. {MIN_GRID_SIZE * patch} pixels"
        _require(size // patch >= MIN_GRID_SIZE or not self.aligns, "image_size", size, allowed)

    @property
    def aligns(self) -> bool:
        """Whether any layer aligns frames."""
        return self.temporal_module == "ila" and self.alignment_layers != []


@strict
class ILAConfig(_OfCLIP, CLIPConfig):
    """Configuration of a whole ILA model: both towers, integration, text prompt, losses.

    Args:
        text_config, vision_config (dict or config, optional): [`ILATextConfig`] and [`ILAVisionConfig`].
        initializer_range (float, defaults to 0.02): Standard deviation of the new linear layers of prompt and head.
        num_frames (int, defaults to 8): T, the length of the temporal positions; other lengths are interpolated.
        integration_module ("transformer" or "evl", defaults to "transformer"):
            What makes the features of a video: the multi-frame integration of the paper (Eq. 8), or in its place EVL's
            decoder over the last layers of the trunk (Tables 1 to 3), with any temporal module or none.
        integration_options (dict, optional):
            Of "evl": the fields of [`~evl_decoder_ila.ILAEVLOptions`], such as {"num_hidden_layers": 12}.
        mit_num_hidden_layers (int, defaults to 1): blocks of the multi-frame integration transformer (Eq. 8).
        prompt_num_hidden_layers (int, defaults to 2):
            Cross-attention blocks of the video-specific text prompt; 0 switches the prompt off (Table 11).
        prompt_alpha (float, defaults to 0.1): initial value of α, the weight of the prompt.
        alignment_loss_weight (float, defaults to 1.0): γ, the weight of the summed loss of all layers (Eq. 10).
        classifier_dropout (float, defaults to 0.5): dropout of the head of [`ILAForVideoClassification`].
        kwargs: `projection_dim`, `logit_scale_init_value` of CLIP, and `id2label`, `label2id`, `num_labels`,
            `problem_type` as in every transformers model.

    Example:

    ```python
    >>> from ila_hf import ILAConfig

    >>> config = ILAConfig.from_preset("ila-base-patch16", interaction_token=True)
    >>> config.num_frames, config.vision_config.patch_size
    (8, 16)
    ```
    """

    model_type = "ila"
    _auto_class = "AutoConfig"  # transformers then saves the code beside a saved configuration
    sub_configs_defaults: ClassVar[Any] = {"vision_config": ILAVisionConfig, "text_config": ILATextConfig}
    # Trainer gathers the other outputs as predictions
    keys_to_ignore_at_inference = ["classification_loss", "alignment_loss"]
    # transformers < 5.20 reads this name
    sub_configs = {"vision_config": ILAVisionConfig, "text_config": ILATextConfig}

    architectures: list[str] | None = None

    if TYPE_CHECKING:  # narrower than in CLIP and its base, which also say what the arguments may be
        text_config: ILATextConfig
        vision_config: ILAVisionConfig
        projection_dim: int
        logit_scale_init_value: float
        num_labels: int
        id2label: dict[int, str]

        def __init__(self, **kwargs: Any) -> None: ...

    # Without it, transformers takes `initializer_factor`, 1.0, for the spread of every new linear layer
    initializer_range: float | int = 0.02

    # Integration (Eq. 8)
    num_frames: int = 8
    integration_module: Literal["transformer", "evl"] = "transformer"
    integration_options: dict[str, Any] | None = None
    mit_num_hidden_layers: int = 1

    # Text prompt
    prompt_num_hidden_layers: int = 2
    prompt_alpha: float | int = 0.1

    # Loss and head (Eq. 10)
    alignment_loss_weight: float | int = 1.0
    classifier_dropout: float | int = 0.5

    def __post_init__(self, **kwargs: Any) -> None:
        # AutoModelForVideoClassification looks for one of our two heads in this list, also where it is not set
        self.architectures = self.architectures or []
        # Built here, not by CLIPConfig: transformers < 5.20 would build CLIP's own classes. A plain CLIP configuration
        # is taken over field by field; those of LAION hold the fields once more in `text_config_dict` and the like.
        for key, config_class in self.sub_configs.items():
            value, again = getattr(self, key), kwargs.pop(f"{key}_dict", None) or {}
            if isinstance(value, config_class) and not again:
                continue
            fields = value.to_dict() if isinstance(value, CLIPTextConfig | CLIPVisionConfig) else value or {}
            fields = {**fields, **again}
            fields.pop("model_type", None)
            setattr(self, key, config_class(**fields))
        misplaced = sorted((_names(ILAVisionConfig) - _names(CLIPVisionConfig)) & kwargs.keys())
        if misplaced:
            given = ", ".join(f'"{name}": {kwargs[name]!r}' for name in misplaced)
            raise ValueError(f"Of the visual trunk: write `vision_config={{{given}}}`, not `{misplaced[0]}=...`.")
        # With them, transformers makes no pipeline without `trust_remote_code`; ours are registered
        if not __name__.startswith(f"{TRANSFORMERS_DYNAMIC_MODULE_NAME}."):
            kwargs.pop("custom_pipelines", None)
        super(CLIPConfig, self).__post_init__(**kwargs)  # type: ignore[no-untyped-call]

    def validate_head(self) -> None:
        """Part of the `@strict` validation: integration, prompt and loss."""
        _require(self.num_frames >= 1, "num_frames", self.num_frames, "at least 1")
        options, allowed = self.integration_options, 'empty with integration_module="transformer", which has none'
        _require(self.integration_module == "evl" or not options, "integration_options", options, allowed)
        _require(self.mit_num_hidden_layers >= 1, "mit_num_hidden_layers", self.mit_num_hidden_layers, "at least 1")
        layers = self.prompt_num_hidden_layers
        _require(layers >= 0, "prompt_num_hidden_layers", layers, "zero (no prompt) or positive")
        heads = self.head_num_attention_heads
        allowed = f"a multiple of its number of heads, max(1, projection_dim // 64) = {heads}"
        _require(self.projection_dim % heads == 0, "projection_dim", self.projection_dim, allowed)
        dropout, weight = self.classifier_dropout, self.alignment_loss_weight
        _require(0 <= dropout < 1, "classifier_dropout", dropout, "in [0, 1)")
        _require(weight >= 0, "alignment_loss_weight", weight, "zero or positive")

    def validate_problem_type(self) -> None:
        """Part of the `@strict` validation: what the classification heads can learn."""
        allowed = '"single_label_classification", "multi_label_classification" or None'
        _require(self.problem_type != "regression", "problem_type", self.problem_type, allowed)

    @property
    def head_num_attention_heads(self) -> int:
        """Heads of the integration and prompt blocks, E / 64 as in X-CLIP."""
        return max(1, self.projection_dim // 64)

    @classmethod
    def from_preset(
        cls,
        name: str,
        architecture: Literal["paper", "released"] = "paper",
        interaction_token: bool = False,
        vision_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "ILAConfig":
        """Configuration of one of the ten published variants (Tables 1-3).

        Args:
            name: One of `ila_hf.PRESET_NAMES`, such as "ila-base-patch16" or "ila-base-patch16-ssv2".
            architecture: "paper" (default) or "released".
            interaction_token: Add our second token per frame; see [`ILAVisionConfig`].
            vision_config: Further fields of [`ILAVisionConfig`] that replace the preset's.
            kwargs: Further fields of [`ILAConfig`] that replace the preset's.

        Raises:
            ValueError: If there is no such preset; the message lists them.
        """
        if name not in _PRESETS:
            raise ValueError(f"There is no preset {name!r}. Presets: {', '.join(_PRESETS)}.")
        data, width, patch_size, num_frames, image_size = _PRESETS[name]
        projection_dim = 512 if width == "base" else 768
        vision = {
            **(_BASE if width == "base" else _LARGE),
            "patch_size": patch_size,
            "image_size": image_size,
            "projection_dim": projection_dim,
            "architecture": architecture,
            "interaction_token": interaction_token,
            "alignment_conv": "separable" if data == "k400" else "dense",
            **(vision_config or {}),
        }
        text = {**(_BASE_TEXT if width == "base" else _LARGE_TEXT), "projection_dim": projection_dim}
        fields = {
            "text_config": text,
            "projection_dim": projection_dim,
            "num_frames": num_frames,
            "prompt_num_hidden_layers": 2 if data == "k400" else 0,
        }
        if not {"id2label", "label2id", "num_labels"} & kwargs.keys():
            fields["num_labels"] = _NUM_LABELS[data]
        return cls(vision_config=vision, **{**fields, **kwargs})


__all__ = ["PRESET_NAMES", "ILAConfig", "ILATextConfig", "ILAVisionConfig"]
