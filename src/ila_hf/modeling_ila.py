# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ILA: Implicit Temporal Modeling with Learnable Alignment for Video Recognition (ICCV 2023).

Paper: Tu, Dai, Wu, Cheng, Hu, Jiang, https://arxiv.org/abs/2304.10465. "Eq.", "Table" and "section" are its own.

Notation, used in every shape:
    B clips · T frames · N = h·w patches · L = 1 + N tokens (class token first) · D vision width · E projection width
    K classes

One layer (IST block) of the *paper* architecture:

    z (B, T, L, D) ──┬──────────────────────────────────────────► [z, ẑ] ► CLIP's layer ► drop the last token ► z
                     └► pairs (t-1, t) ► points ► masks ► pooled: ẑ (B, T, 1, D) ▲

paper:     one mutual-information token ẑ per frame joins the self-attention (`ILAMutualInformation`, Eq. 3 and 4).
released:  what the published checkpoints hold; projections of the aligned maps and of the interaction are added to z
           before CLIP's layer (`ILAAlignedResidual`).

Where to find the equations: 3a, 5, 6, 7 and 9 in alignment_ila.py; 3b and 4 in `ILAEncoderLayer`; 8 in
integration_ila.py; 10 in `ILAVisionModel`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import nn
from transformers import (
    CLIPModel,
    CLIPPreTrainedModel,
    CLIPTextModel,
    CLIPVisionModel,
    PreTrainedModel,
)
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPEncoderLayer,
    CLIPVisionEmbeddings,
    image_text_contrastive_loss,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, generic, is_tracing, output_capturing

from .alignment_ila import (
    ILAAlignedResidual,
    ILAAlignment,
    ILAMask,
    ILAMutualInformation,
    ILATemporalModule,
    ILATemporalOutput,
)
from .configuration_ila import MIN_GRID_SIZE, ILAConfig, ILATextConfig, ILAVisionConfig
from .integration_ila import ILAMultiframeIntegration, ILAVideoPrompt
from .outputs_ila import ILAClassifierOutput, ILAEncoderOutput, ILAOutput, ILAVisionModelOutput
from .quantization import mend_quantized_files
from .remote_code_ila import ILARemoteCodeMixin


_Method = TypeVar("_Method", bound=Callable[..., Any])

# Decorators that transformers leaves without types would take those of the methods away
can_return_tuple = cast("Callable[[_Method], _Method]", generic.can_return_tuple)
merge_with_config_defaults = cast("Callable[[_Method], _Method]", generic.merge_with_config_defaults)
capture_outputs = cast("Callable[[_Method], _Method]", output_capturing.capture_outputs(tie_last_hidden_states=False))


class ILAEncoderLayer(CLIPEncoderLayer):
    """An IST block: CLIP's layer, and the temporal module that feeds it.

    The encoder calls `temporal` outside of `forward`: activation checkpointing runs `forward` twice, and BatchNorm
    must see every batch once.
    """

    def __init__(self, config: ILAVisionConfig, layer_index: int):
        super().__init__(config)
        temporal_class = ILAMutualInformation if config.architecture == "paper" else ILAAlignedResidual
        aligns = config.alignment_layers is None or layer_index in config.alignment_layers
        self.temporal = temporal_class(config) if aligns else None

    def forward(  # type: ignore[override]
        self,
        hidden_states: torch.Tensor,
        residual: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """(B, T, L, D), what is added to it, and the appended tokens (B, T, A, D) -> (B, T, L, D)."""
        inputs = hidden_states if residual is None else hidden_states + residual
        inputs = inputs if tokens is None else torch.cat([inputs, tokens], dim=2)
        no_mask: Any = None
        output = super().forward(inputs.flatten(0, 1), no_mask, **kwargs)  # (B, T, L + A, D) -> (B·T, L + A, D)
        # The MLP works token by token, so dropping the tokens after it, not before it as in Eq. 4, changes nothing.
        return cast("torch.Tensor", output.unflatten(0, inputs.shape[:2])[:, :, : hidden_states.shape[2]])


class ILAEncoder(nn.Module):
    """The layers of the visual trunk."""

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(ILAEncoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(self, hidden_states: torch.Tensor, grid: tuple[int, int], **kwargs: Any) -> ILAEncoderOutput:
        alignments = []
        for layer in cast("Iterable[ILAEncoderLayer]", self.layers):
            if layer.temporal is None:
                hidden_states = layer(hidden_states, **kwargs)
                continue
            temporal = layer.temporal(hidden_states, grid)
            hidden_states = layer(hidden_states, temporal.residual, temporal.tokens, **kwargs)
            # What the layer has used is not kept until the end of the trunk
            kept = {name: temporal[name] for name in temporal.keys() - {"residual", "tokens"}}
            alignments.append(ILATemporalOutput(**kept))
        return ILAEncoderOutput(last_hidden_state=hidden_states, alignments=tuple(alignments))


class ILAPreTrainedModel(ILARemoteCodeMixin, CLIPPreTrainedModel):
    """Weight initialisation, freezing and the state of the mask jitter."""

    config: ILAConfig
    base_model_prefix = "ila"
    main_input_name = "pixel_values"
    input_modalities: Any = ("video", "text")
    _no_split_modules = ["CLIPTextEmbeddings", "CLIPEncoderLayer", "CLIPVisionEmbeddings", "ILAEncoderLayer"]
    # Keyword arguments of `forward` go to the towers, not to the loss: Trainer must average over accumulated steps
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The layers of torch; CLIP's method of transformers 5.11 passes over them
        PreTrainedModel._init_weights(self, module)
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, ILAAlignment | ILAAlignedResidual):
            # torch's own initialisation suits convolutions of 9 to 2D·9 inputs better than one fixed spread
            for child in module.modules():
                if isinstance(child, nn.Conv2d | nn.Conv3d):
                    child.reset_parameters()
        if isinstance(module, ILATemporalModule):
            init.zeros_(module.alignment.prediction.fc2.weight)
            init.zeros_(cast("torch.Tensor", module.alignment.prediction.fc2.bias))
            init.ones_(module.alignment.mask.jitter_scale)
        if isinstance(module, ILAAlignedResidual):
            for linear in (module.aligned_out, module.interaction_out):
                init.zeros_(linear.weight)
                init.zeros_(linear.bias)
        elif isinstance(module, ILAMultiframeIntegration):
            init.normal_(module.position_embedding, std=self.config.initializer_range)
        elif isinstance(module, ILAVideoPrompt):
            init.constant_(module.alpha, self.config.prompt_alpha)
        elif isinstance(module, ILAModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
        elif isinstance(module, ILAForVideoClassification):
            init.normal_(module.visual_projection.weight, std=module.visual_projection.in_features**-0.5)
        elif isinstance(module, ILAClassTexts):
            init.constant_(module.input_ids, ILAClassTexts.UNSET)

    def parameter_origin(self, name: str) -> str | None:
        """Where a parameter is from: "text" or "vision" (CLIP's towers), "clip" (logit scale) or None (new).

        What LoRA adds to a tower belongs to the tower.
        """
        name = name.removeprefix("base_model.model.")  # of a model that peft has wrapped
        if name.startswith(("text_model.", "text_projection.")) or isinstance(self, ILATextModel):
            return "text"
        if ".temporal." in name:
            return None
        if name.startswith(("vision_model.", "visual_projection.")) or isinstance(self, ILAVisionModel):
            return "vision"
        return "clip" if name == "logit_scale" else None

    def freeze(self, *parts: str) -> None:
        """Stop the training of CLIP's weights.

        Args:
            parts: "text" (text tower and its projection, as for Kinetics-400), "vision" (CLIP's vision tower and
                its projection; the alignment still trains), "clip" (both and the logit scale, as for SSv2) or "trunk"
                (all but a linear classifier: a linear probe, as in Table 12).

        Raises:
            ValueError: If a part is none of these, or for "trunk" without a linear classifier.
        """
        frozen = {"text": {"text"}, "vision": {"vision"}, "clip": {"text", "vision", "clip"}}
        for part in parts:
            if part not in (*frozen, "trunk"):
                raise ValueError(f"Cannot freeze {part!r}: the parts are {', '.join(map(repr, (*frozen, 'trunk')))}.")
            if part == "trunk" and not isinstance(self, ILAForVideoClassification):
                raise ValueError(f"{type(self).__name__} has no linear classifier beside which to freeze the trunk.")
            for name, parameter in self.named_parameters():
                is_trunk = not name.startswith("classifier.")
                if is_trunk if part == "trunk" else self.parameter_origin(name) in frozen[part]:
                    parameter.requires_grad_(False)

    def flatten_scalars(self) -> None:
        """Give parameters without a dimension, CLIP's logit scale, one: FSDP2 cannot split them otherwise."""
        for name, parameter in list(self.named_parameters(recurse=False)):
            if parameter.ndim == 0:
                flat = nn.Parameter(parameter.detach().reshape(1), requires_grad=parameter.requires_grad)
                setattr(self, name, flat)

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in every model; the logit scale is saved as CLIP has it, also after `flatten_scalars`."""
        is_quantized = getattr(self, "hf_quantizer", None) is not None
        if is_quantized and kwargs.get("push_to_hub"):
            raise ValueError("A quantised model is written, then mended: push it with `model.push_to_hub`.")
        state_dict = self.state_dict() if kwargs.get("state_dict") is None else dict(kwargs["state_dict"])
        if "logit_scale" in state_dict:
            kwargs["state_dict"] = {**state_dict, "logit_scale": state_dict["logit_scale"].reshape(())}
        super().save_pretrained(save_directory, *args, **kwargs)
        if is_quantized and kwargs.get("is_main_process", True):
            mend_quantized_files(save_directory)

    def set_attn_implementation(self, attn_implementation: str | dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As in every model; the integration transformer follows, whose configuration is no part of the model's."""
        if isinstance(attn_implementation, str) and isinstance(self, ILAForVideoClassification):
            # Its configuration tells of a text tower that it has not; transformers would warn
            attn_implementation = {"": attn_implementation, "vision_config": attn_implementation}
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        if isinstance(self, ILAForVideoClassification):
            self.config.text_config._attn_implementation = self.config._attn_implementation
        for module in self.modules():
            if isinstance(module, ILAMultiframeIntegration):
                module.block_config._attn_implementation = self.config._attn_implementation

    def set_mask_jitter_epoch(self, epoch: int) -> None:
        """Set the jitter scale s of the masks for an epoch, counted from 0.

        s is 1 before `mask_jitter_decay_epoch` and halves at that epoch and at every later one. It is a buffer:
        saving, loading and resuming keep it.
        """
        for module in self.modules():
            if isinstance(module, ILAMask):
                module.set_epoch(epoch)


class ILATextModel(ILAPreTrainedModel, CLIPTextModel):
    """CLIP's text tower."""

    config: ILATextConfig  # type: ignore[assignment]
    base_model_prefix = "text_model"
    main_input_name = "input_ids"
    input_modalities = ("text",)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """As CLIP's, for token ids (K, S) of at least one text."""
        if input_ids is not None and 0 in input_ids.shape:
            raise ValueError(f"`input_ids` must hold at least one text, (K, S), got shape {tuple(input_ids.shape)}.")
        return cast("BaseModelOutputWithPooling", super().forward(input_ids, attention_mask, position_ids, **kwargs))


class ILAVisionModel(ILAPreTrainedModel, CLIPVisionModel):
    """The visual trunk: CLIP's vision transformer with implicit alignment in every layer.

    A plain CLIP checkpoint loads into it; only the alignment is then new.

    Example:

    ```python
    >>> import torch
    >>> from ila_hf import ILAVisionConfig, ILAVisionModel

    >>> config = ILAVisionConfig(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2)
    >>> outputs = ILAVisionModel(config)(torch.zeros(1, 8, 3, 224, 224), output_alignments=True)
    >>> outputs.last_hidden_state.shape, outputs.interactive_points[0].shape
    (torch.Size([1, 8, 50, 64]), torch.Size([1, 7, 2, 2]))
    ```
    """

    config: ILAVisionConfig  # type: ignore[assignment]
    # With it, the key conversion of transformers, which knows CLIP's classes by name, is not needed
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ("video",)
    _keys_to_ignore_on_load_unexpected = [
        r"^(text_model|text_projection|visual_projection|integration|prompt|class_texts|norm|classifier)\.",
        r"^logit_scale$",
    ]

    def __init__(self, config: ILAVisionConfig):
        # CLIPVisionModel.__init__ would build and initialise CLIP's encoder first
        super(CLIPVisionModel, self).__init__(config)
        config.validate()  # fields may have been set since it was made
        self.embeddings = CLIPVisionEmbeddings(config)
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = ILAEncoder(config)  # type: ignore[assignment]
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def _patch_grid(self, pixel_values: torch.Tensor) -> tuple[int, int]:
        """Check the clips and return (h, w)."""
        expected = f"(B, T, {self.config.num_channels}, H, W)"
        shape = tuple(pixel_values.shape)
        if len(shape) != 5:
            raise ValueError(f"`pixel_values` must have five dimensions, {expected}, got shape {shape}.")
        if shape[2] != self.config.num_channels:
            raise ValueError(f"`pixel_values` must have {self.config.num_channels} channels, {expected}, got {shape}.")
        if 0 in shape:
            raise ValueError(f"`pixel_values` must hold at least one clip and one frame, {expected}, got {shape}.")
        if not pixel_values.is_floating_point():
            raise ValueError(
                f"`pixel_values` must be floating point, got {pixel_values.dtype}: ILAVideoProcessor makes normalised "
                "clips from uint8 frames."
            )
        patch_size = self.config.patch_size
        grid = (shape[3] // patch_size, shape[4] // patch_size)
        if min(grid) < MIN_GRID_SIZE and self.config.alignment_layers != []:
            size = MIN_GRID_SIZE * patch_size
            raise ValueError(
                f"Frames of {shape[3]}×{shape[4]} give {grid[0]}×{grid[1]} patches of {patch_size} pixels; the two "
                f"poolings of the alignment need {MIN_GRID_SIZE}×{MIN_GRID_SIZE}, i.e. at least {size}×{size} pixels."
            )
        return grid

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_alignments: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ILAVisionModelOutput:
        """Run the trunk on clips of any number of frames.

        Args:
            pixel_values (B, T, 3, H, W): Normalised clips, as [`ILAVideoProcessor`] makes them.
            interpolate_pos_encoding: Interpolate CLIP's positions to frames of another size than the config's.
            output_alignments: Also return points, masks, tokens and losses of every layer.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Raises:
            ValueError: For clips of another rank, channel count or data type, without frames, or too small.
        """
        if pixel_values is None:
            raise ValueError("`pixel_values` is missing: pass clips of shape (B, T, 3, H, W).")
        grid = self._patch_grid(pixel_values)
        hidden_states = self.embeddings(pixel_values.flatten(0, 1), interpolate_pos_encoding=interpolate_pos_encoding)
        hidden_states = self.pre_layrnorm(hidden_states).unflatten(0, pixel_values.shape[:2])  # (B, T, L, D)
        encoded = self.encoder(hidden_states, grid, **kwargs)
        output = ILAVisionModelOutput(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=self.post_layernorm(encoded.last_hidden_state[:, :, 0]),
            alignment_loss=sum(
                (a.loss.to(hidden_states.device) for a in encoded.alignments),
                hidden_states.new_zeros((), dtype=torch.float),
            ),
        )
        if output_alignments:
            output.alignment_losses = tuple(a.loss for a in encoded.alignments)
            for name in ("interactive_points", "alignment_masks", "mutual_information_tokens"):
                output[name] = tuple(a[name] for a in encoded.alignments)
        return output


class ILAModel(ILAPreTrainedModel, CLIPModel):
    """Video and text features and their similarity: the trunk, the text tower, integration and prompt."""

    config: ILAConfig
    main_input_name = "input_ids"

    def __init__(self, config: ILAConfig):
        # CLIPModel.__init__ would build and initialise CLIP's towers first
        super(CLIPModel, self).__init__(config)
        self.projection_dim = config.projection_dim
        self.text_embed_dim = config.text_config.hidden_size
        self.vision_embed_dim = config.vision_config.hidden_size
        self.text_model = ILATextModel._from_config(config.text_config)
        self.vision_model = ILAVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(self.vision_embed_dim, self.projection_dim, bias=False)
        self.text_projection = nn.Linear(self.text_embed_dim, self.projection_dim, bias=False)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.integration = ILAMultiframeIntegration(config)
        self.prompt = ILAVideoPrompt(config) if config.prompt_num_hidden_layers > 0 else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Those of the text tower, as CLIP's."""
        return cast("nn.Module", self.text_model.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace those of the text tower."""
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_video_features(self, pixel_values: torch.Tensor | None, **kwargs: Any) -> ILAVisionModelOutput:
        """Output of the trunk with the integrated video features (B, E), not normalised, as `pooler_output`.

        Args:
            pixel_values (B, T, 3, H, W): Normalised clips.
            kwargs: See [`ILAVisionModel.forward`].
        """
        outputs: ILAVisionModelOutput = self.vision_model(pixel_values, return_dict=True, **kwargs)
        outputs.pooler_output = self.integration(self.visual_projection(outputs.pooler_output))
        return outputs

    def video_text_logits(
        self, vision_outputs: ILAVisionModelOutput, text_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Similarity of every clip to every text, in float32.

        Args:
            vision_outputs: Of [`get_video_features`].
            text_features (K, E): Not normalised.

        Returns:
            Logits (B, K), normalised video features (B, E) and normalised, prompted text features (B, K, E).
        """
        video = nn.functional.normalize(vision_outputs["pooler_output"].float(), dim=-1)
        text = text_features[None]
        if self.prompt is not None:
            patches = vision_outputs["last_hidden_state"][:, :, 1:]
            text = self.prompt(text_features.to(patches.device), patches)
        text = nn.functional.normalize(text.float(), dim=-1).expand(video.shape[0], -1, -1)
        video = video.to(text.device)
        # Not a matrix product: autocast would run it in half precision
        logits = self.logit_scale.float().exp().to(text.device) * (text * video[:, None]).sum(-1)
        return logits, video, text

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        return_loss: bool = False,
        interpolate_pos_encoding: bool = False,
        output_alignments: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ILAOutput:
        """Compare clips with texts.

        Args:
            input_ids (K, S), attention_mask (K, S): Tokenised texts.
            pixel_values (B, T, 3, H, W): Normalised clips.
            return_loss: Also return the contrastive loss, text i being that of clip i (so K = B).
            interpolate_pos_encoding, output_alignments, kwargs: See [`ILAVisionModel.forward`].
        """
        vision_outputs = self.get_video_features(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_alignments=output_alignments,
            **{**kwargs, "return_dict": True},
        )
        text_outputs = self.get_text_features(
            input_ids, attention_mask=attention_mask, **{**kwargs, "return_dict": True}
        )
        logits, video, text = self.video_text_logits(vision_outputs, text_outputs.pooler_output)
        loss = None
        if return_loss:
            if logits.shape[0] != logits.shape[1]:
                raise ValueError(
                    f"`return_loss=True` needs one text per clip, got {tuple(logits.shape)} clips × texts."
                )
            loss = image_text_contrastive_loss(logits)
            loss = loss + self.config.alignment_loss_weight * vision_outputs["alignment_loss"]
        return ILAOutput(
            loss=loss,
            logits_per_video=logits,
            logits_per_text=logits.t(),
            video_embeds=video,
            text_embeds=text,
            alignment_loss=vision_outputs.alignment_loss,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )


def classification_loss(logits: torch.Tensor, labels: torch.Tensor, problem_type: str | None) -> torch.Tensor:
    """Cross-entropy against class ids or soft targets, or binary cross-entropy for several labels per clip.

    Args:
        logits (B, K): float32.
        labels: Class ids (B,), or targets (B, K) as mixup and label smoothing make them. A clip of id -100, such as
            one that could not be read, does not count; without others the loss is 0.
        problem_type: "multi_label_classification" or None.

    Raises:
        ValueError: For labels of another shape and for class ids outside [0, K).
    """
    batch, num_classes = logits.shape
    if problem_type == "multi_label_classification" or labels.is_floating_point():
        if labels.shape != logits.shape:
            shape = tuple(labels.shape)
            raise ValueError(f"Soft `labels` must be (B, K) = {(batch, num_classes)} like the logits, got {shape}.")
        if problem_type == "multi_label_classification":
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
        return nn.functional.cross_entropy(logits, labels.float())
    if labels.shape != (batch,):
        raise ValueError(f"`labels` must hold one class id per clip, ({batch},), got shape {tuple(labels.shape)}.")
    counts = labels != -100
    # A graph cannot branch on values; there an id out of range fails inside the kernel
    is_wrong = counts & ((labels < 0) | (labels >= num_classes))
    if not torch.compiler.is_compiling() and is_wrong.any():
        wrong = labels[is_wrong].tolist()
        raise ValueError(f"`labels` must be in [0, {num_classes - 1}] for {num_classes} classes, got {wrong}.")
    return nn.functional.cross_entropy(logits, labels.long(), reduction="sum") / counts.sum().clamp(min=1)


def classifier_output(
    logits: torch.Tensor, labels: torch.Tensor | None, vision_outputs: ILAVisionModelOutput, config: ILAConfig
) -> ILAClassifierOutput:
    """Assemble logits, losses and the diagnostics of the trunk."""
    names = ILAClassifierOutput.__dataclass_fields__.keys() & vision_outputs.keys()
    losses = {}
    if labels is not None:
        classification = classification_loss(logits, labels, config.problem_type)
        total = classification + config.alignment_loss_weight * vision_outputs["alignment_loss"].to(logits.device)
        losses = {"loss": total, "classification_loss": classification}
    # In one go: the order of the outputs as a tuple is that of their assignment, and the loss comes first
    return ILAClassifierOutput(logits=logits, **losses, **{name: vision_outputs[name] for name in names})


class ILAClassTexts(nn.Module):
    """The tokenised class texts (K, S), as a buffer: they are saved, loaded and moved with the model."""

    UNSET = -1

    def __init__(self, config: ILAConfig):
        super().__init__()
        self.config = config.text_config
        shape = (config.num_labels, self.config.max_position_embeddings)
        self.input_ids = nn.Buffer(torch.full(shape, self.UNSET))

    def forward(self) -> torch.Tensor:
        """The token ids (K, S). accelerate brings what it has offloaded when a module is called, not before."""
        return self.input_ids

    def set(self, input_ids: torch.Tensor) -> None:
        """Replace the texts by token ids (K, S), each row with its end-of-text token, after checking them."""
        if self.input_ids.is_meta:
            raise ValueError("The class texts are offloaded: set them before, or without `offload_buffers`.")
        config, shape = self.config, tuple(input_ids.shape)
        length = config.max_position_embeddings
        if len(shape) != 2 or not 0 < shape[1] <= length:
            raise ValueError(f"Token ids of class texts must be (K, S) with S up to {length}, got shape {shape}.")
        lowest, highest = int(input_ids.min()), int(input_ids.max())
        if lowest < 0 or highest >= config.vocab_size:
            raise ValueError(
                f"Token ids must be in [0, {config.vocab_size - 1}], got values from {lowest} to {highest}."
            )
        # eos_token_id 2 is the mark of OpenAI's first configs: there CLIP takes the highest id for the end of a text
        ends = (input_ids == config.eos_token_id).any(1)
        if config.eos_token_id != 2 and not ends.all():
            row = int((~ends).nonzero()[0])
            raise ValueError(f"Class text {row} has no end-of-text token (id {config.eos_token_id}).")
        # Nothing after the end of a text counts
        input_ids = nn.functional.pad(input_ids.long(), (0, length - shape[1]))
        self.input_ids = nn.Buffer(input_ids.to(self.input_ids.device))

    def tokenize(self, texts: list[str], tokenizer: Any | None) -> torch.Tensor:
        """Token ids (K, S) of texts, none of them cut off."""
        if tokenizer is None:
            raise ValueError(
                f"Class texts such as {texts[0]!r} need `tokenizer`: pass a tokenizer or an ILAProcessor."
            )
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        inputs = tokenizer(texts, padding=True, return_tensors="pt")["input_ids"]
        if inputs.shape[1] > self.config.max_position_embeddings:
            lengths = [len(ids) for ids in tokenizer(texts)["input_ids"]]
            text, length = texts[lengths.index(max(lengths))], self.config.max_position_embeddings
            raise ValueError(f"The class text {text!r} has {max(lengths)} tokens; the text tower takes {length}.")
        return cast("torch.Tensor", inputs)


class ILAForVideoTextClassification(ILAModel):
    """Video classification by the similarity to class texts (Kinetics-400 models).

    The tokenised class texts are part of the saved model, so that `model(pixel_values).logits` needs no tokenizer. To
    load it for another number of classes, pass `num_labels` or `id2label` and `ignore_mismatched_sizes=True` to
    `from_pretrained`, then set their texts.

    Example:

    ```python
    >>> from ila_hf import ILAForVideoTextClassification, ILAProcessor

    >>> model = ILAForVideoTextClassification.from_pretrained("path/to/model")
    >>> processor = ILAProcessor.from_pretrained("path/to/model")
    >>> model.set_class_texts(["juggling balls", "playing cello"], processor)
    >>> logits = model(**processor(videos="clip.mp4", return_tensors="pt")).logits
    ```
    """

    _auto_class = "AutoModelForVideoClassification"
    main_input_name = "pixel_values"

    def __init__(self, config: ILAConfig):
        super().__init__(config)
        self.class_texts = ILAClassTexts(config)
        self._class_features: tuple[list[Any], torch.Tensor, list[torch.Tensor]] | None = None
        self.post_init()

    def set_class_texts(
        self,
        texts: Sequence[str] | Sequence[Sequence[int]] | torch.Tensor,
        tokenizer: Any | None = None,
        labels: Sequence[str] | None = None,
    ) -> None:
        """Replace the classes.

        Args:
            texts: One text per class, or token ids (K, S), each row with its end-of-text token.
            tokenizer: A tokenizer or [`ILAProcessor`]; needed for strings.
            labels: Names for `config.id2label`. Default: the texts; for ids, the present names if K stays.

        Raises:
            ValueError: Without texts or tokenizer, for ids the text tower does not know, for texts too long for it,
                for classes of the same name.
        """
        if isinstance(texts, str):
            raise ValueError(f"`texts` must be a list with one text per class, got the string {texts!r}.")
        if len(texts) == 0:
            raise ValueError("`texts` is empty: pass at least one class text.")
        if not isinstance(texts[0], str):
            texts = torch.as_tensor(texts)
        if labels is not None and len(labels) != len(texts):
            raise ValueError(f"Got {len(labels)} `labels` for {len(texts)} class texts.")
        if isinstance(texts, torch.Tensor):
            input_ids = texts
            if labels is None and len(texts) != self.config.num_labels:
                labels = [f"LABEL_{i}" for i in range(len(texts))]
        else:
            names = [str(text) for text in texts]
            input_ids = self.class_texts.tokenize(names, tokenizer)
            labels = names if labels is None else labels
        if labels is not None and len(set(labels)) != len(labels):
            twice = sorted({label for label in labels if list(labels).count(label) > 1})
            raise ValueError(f"Classes must have different names, got {twice} more than once.")
        self.class_texts.set(input_ids)
        self._class_features = None
        if labels is not None:
            self.config.id2label = dict(enumerate(labels))
            self.config.label2id = {label: i for i, label in enumerate(labels)}

    def _class_text_ids(self) -> torch.Tensor:
        input_ids = self.class_texts.input_ids
        # Called only where they are offloaded: peft before 0.21 wraps no module without arguments
        return self.class_texts() if input_ids.is_meta else input_ids

    def _encode_class_texts(self) -> torch.Tensor:
        input_ids = self._class_text_ids()
        if not is_tracing() and (input_ids == ILAClassTexts.UNSET).any():
            raise ValueError("The model has no class texts: call `set_class_texts` or pass `input_ids`.")
        return cast("torch.Tensor", self.get_text_features(input_ids, return_dict=True).pooler_output)

    def _class_features_key(self, tensors: list[torch.Tensor]) -> list[Any]:
        """What the features depend on: loaded weights, a step, a move or cast, autocast, each changes it.

        Writing to `.data`, as peft does when it merges, leaves no trace but the values; adding them up costs little
        beside a clip. Offloaded, quantised and split weights have no plain values; see `train` for these.
        """
        device_type = self._class_text_ids().device.type
        autocast = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type)
        states = [(t.is_meta or id(t), t.dtype, t.device, not t.is_inference() and t._version) for t in tensors]
        plain = [t for t in tensors if type(t) is nn.Parameter and not t.is_meta]
        sums = [t.sum(dtype=torch.float32) for t in plain]
        values = torch.stack([each.to(sums[0].device) for each in sums]).tolist() if sums else []
        return [autocast, self.text_model.config._attn_implementation, states, values]

    def class_features(self) -> torch.Tensor:
        """Text features (K, E) of the class texts, computed once while the text tower does not train."""
        parameters = [*self.text_model.parameters(), *self.text_projection.parameters()]
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        is_random = self.text_model.training and bool(self.config.text_config.attention_dropout)
        is_replica = getattr(self, "_is_replica", False)  # of DataParallel: it has no parameters to look at
        if trains or is_random or is_replica or is_tracing():
            self._class_features = None
            return self._encode_class_texts()
        tensors = [self.class_texts.input_ids, *parameters]
        key = self._class_features_key(tensors)
        stored = self._class_features  # another thread may replace it
        if stored is not None and stored[0] == key:
            return stored[1]
        # Features made in inference mode could not be used in a later training step
        with torch.inference_mode(False), torch.no_grad():
            features = self._encode_class_texts()
        # Whether an adapter is in use cannot be seen from the weights; peft's layers have this attribute
        towers = (self.text_model, self.text_projection)
        if not any(hasattr(module, "merged_adapters") for tower in towers for module in tower.modules()):
            # The tensors are kept, so that no other can get their ids
            self._class_features = (key, features, tensors)
        return features

    def train(self, mode: bool = True) -> "ILAForVideoTextClassification":
        """Switch the mode; text features are computed anew after a change, whatever wrote to whatever weights."""
        if mode != self.training:  # Trainer calls this before every step
            self._class_features = None
        return cast("ILAForVideoTextClassification", super().train(mode))

    @can_return_tuple
    def forward(  # type: ignore[override]
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_alignments: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ILAClassifierOutput:
        """Classify clips.

        Args:
            pixel_values (B, T, 3, H, W): Normalised clips.
            input_ids (K, S), attention_mask (K, S): Class texts for this call, instead of the stored ones.
            labels: Class ids (B,) or soft targets (B, K).
            interpolate_pos_encoding, output_alignments, kwargs: See [`ILAVisionModel.forward`].
        """
        vision_outputs = self.get_video_features(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_alignments=output_alignments,
            **{**kwargs, "return_dict": True},
        )
        if input_ids is None:
            text_features = self.class_features()
        else:
            texts = self.get_text_features(input_ids, attention_mask=attention_mask, return_dict=True)
            text_features = texts.pooler_output
        logits, _, _ = self.video_text_logits(vision_outputs, text_features)
        return classifier_output(logits, labels, vision_outputs, self.config)


class ILAForVideoClassification(ILAPreTrainedModel):
    """Video classification with a linear head (Something-Something v2 models): no text tower.

    Original head: `mit.classify_head`.
    """

    _auto_class = "AutoModelForVideoClassification"
    input_modalities = ("video",)
    _keys_to_ignore_on_load_unexpected = [r"^(text_model|text_projection)\.", r"^logit_scale$"]

    def __init__(self, config: ILAConfig):
        super().__init__(config)
        width = config.projection_dim
        self.vision_model = ILAVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, width, bias=False)
        self.integration = ILAMultiframeIntegration(config)
        self.norm = nn.LayerNorm(width, eps=config.vision_config.layer_norm_eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return cast("nn.Module", self.vision_model.get_input_embeddings())

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.vision_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_alignments: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ILAClassifierOutput:
        """Classify clips.

        Args:
            pixel_values (B, T, 3, H, W): Normalised clips.
            labels: Class ids (B,) or soft targets (B, K).
            interpolate_pos_encoding, output_alignments, kwargs: See [`ILAVisionModel.forward`].
        """
        vision_outputs = self.vision_model(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_alignments=output_alignments,
            return_dict=True,
            **kwargs,
        )
        video = self.integration(self.visual_projection(vision_outputs.pooler_output))
        video = nn.functional.normalize(video.float(), dim=-1).to(self.norm.weight.dtype)
        logits = self.classifier(self.dropout(self.norm(video))).float()
        return classifier_output(logits, labels, vision_outputs, self.config)


__all__ = [
    "ILAForVideoClassification",
    "ILAForVideoTextClassification",
    "ILAModel",
    "ILAPreTrainedModel",
    "ILATextModel",
    "ILAVisionModel",
]
