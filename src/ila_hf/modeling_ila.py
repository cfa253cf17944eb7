# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0 (the "License"); you may not use
# this file except in compliance with the License. You may obtain a copy of the License at
# http://www.apache.org/licenses/LICENSE-2.0. Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND,
# either express or implied. See the License for the specific language governing permissions and limitations under the
# License.
"""ILA: Implicit Temporal Modeling with Learnable Alignment for Video Recognition (ICCV 2023).

Paper: Tu, Dai, Wu, Cheng, Hu, Jiang, https://arxiv.org/abs/2304.10465. "Eq.", "Table" and "section" are its own.

Notation, used in every shape:
    B clips · T frames · N = h·w patches · L = 1 + N tokens (class token first) · D vision width · E projection width
    K classes

One layer (IST block) of the *paper* architecture:

    z (B, T, L, D) ──┬──────────────────────────────────────────► CLIP's layer, which attends to [z, ẑ] ► z
                     └► pairs (t-1, t) ► points ► masks ► pooled: ẑ (B, T, 1, D) ▲

paper:     one mutual-information token ẑ per frame joins the self-attention (`ILAMutualInformation`, Eq. 3 and 4).
released:  what the published checkpoints hold; projections of the aligned maps and of the interaction are added to z
           before CLIP's layer (`ILAAlignedResidual`).

Where to find the equations: 5, 6 and 7 in alignment_ila.py; 3a and 9 in temporal_ila.py; 8 in integration_ila.py;
3b and 4 in `ILAEncoderLayer`, 10 in `ILAVisionModel` below.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import CLIPModel, CLIPPreTrainedModel, CLIPTextModel, CLIPVisionModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.clip.modeling_clip import (
    CLIPAttention,
    CLIPEncoderLayer,
    CLIPVisionEmbeddings,
    image_text_contrastive_loss,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .alignment_ila import ILAMask
from .cache_ila import ILACache
from .checks_ila import (
    check_clips,
    check_feature_layers,
    check_integrates_streams,
    check_kept,
    check_labels,
    check_labels_of_clips,
    check_no_cache,
    check_pairing,
    check_projections,
    check_stream,
    check_texts,
)
from .class_texts_ila import ILAClassTexts, ILAClassTextsMixin
from .configuration_ila import ILAConfig, ILATextConfig, ILAVisionConfig
from .evl_decoder_ila import ILAEVLDecoder, make_integration
from .fusion_ila import ILAFusionMixin
from .integration_ila import ILAMultiframeIntegration, ILAProjections, ILAVideoPrompt, attend
from .new_weights_ila import ILANewWeightsMixin
from .outputs_ila import ILAClassifierOutput, ILAOutput, ILATemporalOutput, ILAVisionModelOutput
from .remote_code_ila import ILARemoteCodeMixin
from .temporal_ila import ILAAligningModule, check_ila_only_fields, make_temporal_module, make_time_positions


class ILAAttention(CLIPAttention):
    """CLIP's attention; appended tokens are keys and values only (Eq. 3b), since what they would become is dropped.

    It has a name of its own because a temporal module may contain CLIP's, whose weights are not returned.
    """

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        key_value_transform: Callable[[torch.Tensor], torch.Tensor] | None = None,
        projections: ILAProjections | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(B·T, L, D) and (B·T, A, D) -> (B·T, L, D), and weights (B·T, heads, L, L + A) on request.

        `key_value_transform` is that of a temporal module, for keys and values; `projections` is given queries and
        keys, (B·T, L, D) each.
        """
        if tokens is None and key_value_transform is None and projections is None:
            return super().forward(hidden_states, attention_mask, **kwargs)
        context = hidden_states if tokens is None else torch.cat([hidden_states, tokens], dim=1)
        dropout = self.dropout if self.training else 0.0
        return attend(
            self, hidden_states, context, attention_mask, dropout, key_value_transform, projections, **kwargs
        )


class ILAQuickGELU(nn.Module):
    """CLIP's activation, x·σ(1.702·x), as torch's SiLU of 1.702·x: fewer copies of the widest tensor of a layer."""

    factor = 1.702

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        scaled = self.factor * input
        if input.dtype == torch.float16:  # where it may overflow, the sigmoid alone stays right
            return input * scaled.sigmoid()
        return nn.functional.silu(scaled, inplace=not torch.is_grad_enabled()).mul_(1 / self.factor)


class ILAEncoderLayer(CLIPEncoderLayer):
    """An IST block: CLIP's layer, and the temporal module that feeds it.

    The encoder calls `temporal` outside of `forward`: activation checkpointing runs `forward` twice, and BatchNorm
    must see every batch once.
    """

    num_prefix_tokens = 1  # P: CLIP's class token

    def __init__(self, config: ILAVisionConfig, layer_index: int):
        super().__init__(config)
        self.self_attn.__class__ = ILAAttention
        if config.hidden_act == "quick_gelu":
            self.mlp.activation_fn = ILAQuickGELU()
        self.temporal = make_temporal_module(config, layer_index)

    @torch.no_grad()
    def fuse(self) -> None:
        """See `fuse` of the models: SiLU of inputs that are larger, times outputs that are smaller."""
        activation = self.mlp.activation_fn
        if isinstance(activation, ILAQuickGELU) and self.mlp.fc1.weight.dtype != torch.float16:
            self.mlp.fc1.weight.mul_(activation.factor)
            self.mlp.fc1.bias.mul_(activation.factor)
            self.mlp.fc2.weight.div_(activation.factor)
            self.mlp.activation_fn = nn.SiLU(inplace=True)

    def forward(
        self,
        hidden_states: torch.Tensor,
        residual: torch.Tensor | None = None,
        tokens: torch.Tensor | None = None,
        with_projections: bool = False,
        **kwargs: Any,
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, T, L, D), what is added to it, and the appended tokens (B, T, A, D) -> (B, T, L, D).

        `with_projections`: -> the same, queries and keys of the attention, (B, T, L, D) each.
        """
        inputs = hidden_states if residual is None else hidden_states + residual
        if tokens is not None:
            kwargs["tokens"] = self.layer_norm1(tokens.flatten(0, 1))
        if with_projections:
            kwargs["projections"] = ILAProjections()
        # CODEPATH: the temporal modules of some other systems change the layer itself
        if hasattr(self.temporal, "run_layer"):
            output = self.temporal.run_layer(self, inputs, **kwargs)
        else:
            output = super().forward(inputs.flatten(0, 1), None, **kwargs).unflatten(0, inputs.shape[:2])
        # CODEPATH: EVL's decoder sees how a layer compares patches, the integration of the published models does not
        if not with_projections:
            return output
        queries, keys = check_projections(kwargs["projections"], self.temporal)
        return output, queries.reshape(inputs.shape), keys.reshape(inputs.shape)

    def split(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The tokens before the patches, and the patches: (B, T, P + N, D) -> (B, T, P, D), (B, T, N, D)."""
        return hidden_states[:, :, : self.num_prefix_tokens], hidden_states[:, :, self.num_prefix_tokens :]

    def attended(self, hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """For temporal modules: attention within frames, without the residual, (B, T, L, D) -> (B, T, L, D)."""
        attended, _ = self.self_attn(self.layer_norm1(hidden_states).flatten(0, 1), **kwargs)
        return attended.unflatten(0, hidden_states.shape[:2])

    def add_mlp(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """For temporal modules: the second half of the layer."""
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class ILAEncoder(nn.Module):
    """The layers of the visual trunk."""

    def __init__(self, config: ILAVisionConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(ILAEncoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        grid: tuple[int, int],
        with_loss: bool = True,
        cache: ILACache | None = None,
        num_feature_layers: int = 0,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, list[ILATemporalOutput], list[tuple[torch.Tensor, ...]]]:
        """Tokens (B, T, L, D) to those of the last layer, and what the temporal modules tell beside their tokens.

        Also, of the last `num_feature_layers` layers, the features of [`ILAVisionModelOutput`].
        """
        outputs, last_frames = [], {}
        features: list[tuple[torch.Tensor, ...]] = []
        for index, layer in enumerate(self.layers):
            with_features = index >= len(self.layers) - num_feature_layers
            if with_features:
                kwargs["with_projections"] = True
            if layer.temporal is None:
                hidden_states = layer(hidden_states, **kwargs)
            else:
                prefix, patches = layer.split(hidden_states)
                previous = ()
                if cache is not None:
                    name = f"layers.{index}"
                    previous = (cache.previous(name, hidden_states),)
                    last_frames[name] = hidden_states[:, -1:].detach().clone()  # a view would keep all frames
                temporal = layer.temporal(patches, prefix, grid, with_loss, *previous)
                hidden_states = layer(hidden_states, temporal.residual, temporal.tokens, **kwargs)
                # What the layer has used is not kept until the end of the trunk
                kept = {name: temporal[name] for name in temporal.keys() - {"residual", "tokens"}}
                outputs.append(ILATemporalOutput(**kept))
            if with_features:
                features.append(hidden_states)
                hidden_states = hidden_states[0]
        if cache is not None:
            cache.advance(hidden_states.shape[0], hidden_states.shape[1], last_frames)
        return hidden_states, outputs, features


class ILAPreTrainedModel(ILAFusionMixin, ILARemoteCodeMixin, ILANewWeightsMixin, CLIPPreTrainedModel):
    """Initial weights, freezing, and the state of the mask jitter."""

    config: ILAConfig
    base_model_prefix = "ila"
    main_input_name = "pixel_values"
    input_modalities: Any = ("video", "text")
    # Keyword arguments of `forward` go to the towers, not to the loss: Trainer must average over accumulated steps
    accepts_loss_kwargs = False

    peft_wraps = 0

    def __setattr__(self, name: str, value: Any) -> None:
        """As in every module. peft sets `peft_config` when it wraps a model; what follows may be an unseen merge."""
        if name == "peft_config":
            self._check_not_fused("have an adapter", "merge it into the model that it was made of, and fuse that")
            self.peft_wraps += 1
            self._keep_with_adapters(value)
        super().__setattr__(name, value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # The layers of torch; CLIP's method of transformers 5.11 passes over them
        PreTrainedModel._init_weights(self, module)
        super()._init_weights(module)
        if isinstance(module, ILAModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)
        elif isinstance(module, ILAForVideoClassification):
            init.normal_(module.visual_projection.weight, std=module.visual_projection.in_features**-0.5)
        elif hasattr(module, "init_weights") and not isinstance(module, PreTrainedModel):
            module.init_weights()  # temporal modules, and others of ours
        elif isinstance(module, ILAEncoderLayer) and hasattr(module.temporal, "init_from"):
            module.temporal.init_from(module)

    def parameter_origin(self, name: str) -> str | None:
        """Where a parameter is from: "text" or "vision" (CLIP's towers), "clip" (logit scale) or None (new).

        What LoRA adds to a tower belongs to the tower.
        """
        name = name.removeprefix("base_model.model.")  # of a model that peft has wrapped
        if name.startswith(("text_model.", "text_projection.")) or isinstance(self, ILATextModel):
            return "text"
        if ".temporal." in name or "time_positions." in name:
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

    def set_attn_implementation(self, attn_implementation: str | dict[str, Any], *args: Any, **kwargs: Any) -> None:
        """As in every model; the integration transformer follows, whose configuration is no part of the model's."""
        if isinstance(attn_implementation, str) and isinstance(self, ILAForVideoClassification):
            # Its configuration has a text tower, the model has none; transformers would warn
            attn_implementation = {"": attn_implementation, "vision_config": attn_implementation}
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        if isinstance(self, ILAForVideoClassification):
            self.config.text_config._attn_implementation = self.config._attn_implementation
        for module in self.modules():
            if isinstance(module, ILAMultiframeIntegration | ILAEVLDecoder):
                module.block_config._attn_implementation = self.config._attn_implementation

    # The configuration follows; a frame is paired with itself or not where it is computed
    # trf-ignore: TRF033
    def set_first_frame(self, first_frame: str) -> None:
        """Change `first_frame` of the configuration and of all layers; weights do not depend on it.

        A model that was trained with "next" takes part in streaming once it is set to "self".

        Raises:
            StrictDataclassError: As the configuration does, for another value and where there is no such choice.
            ValueError: With a temporal module of another system, to which it means nothing.
        """
        for module in self.modules():
            if isinstance(module, ILAVisionModel):
                # Refuses what the present configuration could not hold
                check_ila_only_fields(
                    ILAVisionConfig.from_dict({**module.config.to_dict(), "first_frame": first_frame})
                )
                module.config.first_frame = first_frame
            if isinstance(module, ILAAligningModule):
                module.pair_with_itself = first_frame == "self"

    # It sets no hyperparameter but a state, which is saved and loaded, as the epoch of a learning rate is
    # trf-ignore: TRF033
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

    config: ILATextConfig
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
        check_texts(input_ids)
        return super().forward(input_ids, attention_mask, position_ids, **kwargs)


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

    config: ILAVisionConfig
    # With it, the key conversion of transformers, which knows CLIP's classes by name, is not needed
    base_model_prefix = "vision_model"
    _no_split_modules = ["CLIPVisionEmbeddings", "ILAEncoderLayer"]
    _can_record_outputs = {"hidden_states": ILAEncoderLayer, "attentions": ILAAttention}
    # accelerate would move the caller's cache from device to device
    _skip_keys_device_placement = ["cache"]
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
        self.encoder = ILAEncoder(config)
        self.time_positions = make_time_positions(config, (layer.temporal for layer in self.encoder.layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_alignments: bool = False,
        output_alignment_loss: bool = False,
        cache: ILACache | None = None,
        num_feature_layers: int = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ILAVisionModelOutput:
        """Run the trunk on clips of any number of frames, or on the next frames of streams.

        Args:
            pixel_values (B, T, 3, H, W): Normalised clips, as [`ILAVideoProcessor`] makes them.
            interpolate_pos_encoding: Interpolate CLIP's positions to frames of another size than the config's.
            output_alignments: Also return the loss, and points, masks, tokens and losses of every layer.
            output_alignment_loss: Also return the alignment loss, as in training. It needs masks and pooled features
                that the layers do not.
            cache: Of the streams that these frames continue. Diagnostics then have a pair for every frame.
            num_feature_layers: Also return `layer_features` of the last so many layers, as EVL's decoder needs them.
            kwargs: `output_hidden_states`, `output_attentions`, `return_dict`.

        Raises:
            ValueError: For clips of another rank, channel count or data type, without frames, or too small. For a
                cache of other streams, in training, and for a trunk that is not causal. For features of more layers
                than there are.
        """
        grid = check_clips(pixel_values, self.config)
        check_feature_layers(num_feature_layers, self.config)
        if cache is not None:
            check_stream(self)
            cache.check_batch(pixel_values.shape[0])
        hidden_states = self.embeddings(pixel_values.flatten(0, 1), interpolate_pos_encoding=interpolate_pos_encoding)
        if self.time_positions is not None:
            hidden_states = hidden_states.unflatten(0, pixel_values.shape[:2])
            prefix, patches = self.encoder.layers[0].split(hidden_states)
            hidden_states = self.time_positions(prefix, patches).flatten(0, 1)
        # Normed as frames: a view of them, as after every layer, so that code compiled for one layer serves the first
        hidden_states = self.pre_layrnorm(hidden_states).unflatten(0, pixel_values.shape[:2])  # (B, T, L, D)
        with_loss = self.training or output_alignments or output_alignment_loss
        hidden_states, temporal, features = self.encoder(
            hidden_states, grid, with_loss, cache, num_feature_layers, **kwargs
        )
        output = ILAVisionModelOutput(
            last_hidden_state=hidden_states, pooler_output=self.post_layernorm(hidden_states[:, :, 0]), cache=cache
        )
        losses = tuple(each.loss for each in temporal if each.loss is not None)
        if with_loss:
            no_loss = hidden_states.new_zeros((), dtype=torch.float)
            output.alignment_loss = sum((loss.to(hidden_states.device) for loss in losses), no_loss)  # Eq. 10
        if output_alignments:
            output.alignment_losses = losses
            for name in ("interactive_points", "alignment_masks", "mutual_information_tokens"):
                output[name] = tuple(each[name] for each in temporal if name in each)
        if features:
            output.layer_features = tuple(features)
        return output

    def patches_of(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Without the tokens before them: (B, T, L, D) -> (B, T, N, D)."""
        return self.encoder.layers[0].split(hidden_states)[1]


class ILAVideoFeaturesMixin:
    """Of a model with a trunk: the features of whole clips, or of what streams have come to."""

    config: Any
    vision_model: ILAVisionModel
    visual_projection: nn.Linear
    integration: Any  # what `make_integration` makes; peft may wrap it
    _no_split_modules: Any = ["CLIPEncoderLayer", "ILAEVLDecoderLayer"]  # beside those of the towers
    prompt: ILAVideoPrompt | None

    @can_return_tuple
    def get_video_features(
        self,
        pixel_values: torch.Tensor | None,
        cache: ILACache | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Any,
    ) -> ILAVisionModelOutput:
        """Output of the trunk with the integrated video features (B, E), not normalised, as `pooler_output`.

        Args:
            pixel_values (B, T, 3, H, W): Normalised clips, or the next frames of streams.
            cache: Of the streams; `pooler_output` is then (B, P, E).
            logits_to_keep: Which P of the frames of streams are of interest: the last so many, all (0), or those at
                the places in a tensor.
            kwargs: See [`ILAVisionModel.forward`].
        """
        check_kept(logits_to_keep, cache, pixel_values)
        # CODEPATH: EVL, of Tables 1 to 3; the published models integrate frames
        if self.config.integration_module == "evl":
            return self._decoded_features(pixel_values, cache, **kwargs)
        begun = None if cache is None else cache.begin()
        outputs: ILAVisionModelOutput = self.vision_model(pixel_values, cache=begun, return_dict=True, **kwargs)
        frame_features = self.visual_projection(outputs.pooler_output)
        outputs.pooler_output = self.integration.of_clips_or_streams(frame_features, begun, logits_to_keep)
        if cache is not None:
            if self.prompt is not None:
                patches = self.vision_model.patches_of(outputs["last_hidden_state"])
                outputs.patch_features = self.prompt.of_streams(patches, begun, logits_to_keep)
            outputs.cache = cache.finish(begun)
        return outputs

    def _decoded_features(
        self, pixel_values: torch.Tensor | None, cache: ILACache | None, **kwargs: Any
    ) -> ILAVisionModelOutput:
        if cache is not None:
            check_integrates_streams(self.config)
        count = len(self.integration.layers)
        outputs = self.vision_model(pixel_values, num_feature_layers=count, return_dict=True, **kwargs)
        video = self.integration(outputs["layer_features"], check_clips(pixel_values, self.config.vision_config))
        outputs["pooler_output"] = self.visual_projection(self.vision_model.post_layernorm(video))
        # Without the features, which are many, and used
        return ILAVisionModelOutput(**{name: value for name, value in outputs.items() if name != "layer_features"})


class ILAModel(ILAVideoFeaturesMixin, ILAPreTrainedModel, CLIPModel):
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
        self.integration = make_integration(config)
        # CODEPATH: the published Kinetics-400 models have a prompt; the rows without in Table 11 have none
        self.prompt = ILAVideoPrompt(config) if config.prompt_num_hidden_layers > 0 else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Those of the text tower, as CLIP's."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace those of the text tower."""
        self.text_model.set_input_embeddings(value)

    def video_text_logits(
        self, vision_outputs: ILAVisionModelOutput, text_features: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Similarity of every clip to every text, in float32.

        Args:
            vision_outputs: Of [`ILAVideoFeaturesMixin.get_video_features`].
            text_features (K, E): Not normalised.

        Returns:
            Logits (B, K), normalised video features (B, E) and normalised, prompted text features (B, K, E). Of
            streams, (B, P, K) and so on.
        """
        video = nn.functional.normalize(vision_outputs["pooler_output"].float(), dim=-1)  # (B, E) or (B, P, E)
        text = text_features
        if self.prompt is not None:
            features: Any = vision_outputs.get("patch_features")
            if features is None:
                patches = self.vision_model.patches_of(vision_outputs["last_hidden_state"])
                features = self.prompt.patch_features(patches).mean(dim=1)
            clips = features.flatten(0, -3)
            text = self.prompt(text.to(clips.device), clips).unflatten(0, features.shape[:-2])
        text = nn.functional.normalize(text.float(), dim=-1).expand(*video.shape[:-1], -1, -1)
        video = video.to(text.device)
        # Not a matrix product: autocast would run it in half precision
        logits = self.logit_scale.float().exp().to(text.device) * (text * video[..., None, :]).sum(-1)
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
        output_alignment_loss: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ILAOutput:
        """Compare clips with texts.

        Args:
            input_ids (K, S), attention_mask (K, S): Tokenised texts.
            pixel_values (B, T, 3, H, W): Normalised clips.
            return_loss: Also return the contrastive loss, text i being that of clip i (so K = B).
            interpolate_pos_encoding, output_alignments, output_alignment_loss, kwargs: See
                [`ILAVisionModel.forward`].
        """
        check_no_cache(kwargs)
        vision_outputs = self.get_video_features(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_alignments=output_alignments,
            output_alignment_loss=output_alignment_loss or return_loss,
            **{**kwargs, "return_dict": True},
        )
        text_outputs = self.get_text_features(
            input_ids, attention_mask=attention_mask, **{**kwargs, "return_dict": True}
        )
        logits, video, text = self.video_text_logits(vision_outputs, text_outputs.pooler_output)
        loss = None
        if return_loss:
            check_pairing(logits)
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
    is_multi_label = problem_type == "multi_label_classification"
    is_soft = is_multi_label or labels.is_floating_point()
    check_labels(labels, logits, is_soft)
    if is_multi_label:
        return nn.functional.binary_cross_entropy_with_logits(logits, labels.float())
    if is_soft:
        return nn.functional.cross_entropy(logits, labels.float())
    count = (labels != -100).sum().clamp(min=1)
    return nn.functional.cross_entropy(logits, labels.long(), reduction="sum") / count


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


class ILAForVideoTextClassification(ILAClassTextsMixin, ILAModel):
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
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_alignments: bool = False,
        output_alignment_loss: bool = False,
        cache: ILACache | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ILAClassifierOutput:
        """Classify clips, or streams after each of their next frames.

        Args:
            pixel_values (B, T, 3, H, W): Normalised clips, or the next frames of streams.
            input_ids (K, S), attention_mask (K, S): Class texts for this call, instead of the stored ones.
            labels: Class ids (B,) or soft targets (B, K); not with a cache.
            cache, logits_to_keep: See [`ILAVideoFeaturesMixin.get_video_features`].
            interpolate_pos_encoding, output_alignments, output_alignment_loss, kwargs: See
                [`ILAVisionModel.forward`].
        """
        check_labels_of_clips(labels, cache)
        begun = None if cache is None else cache.begin()
        vision_outputs = self.get_video_features(
            pixel_values,
            begun,
            logits_to_keep,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_alignments=output_alignments,
            output_alignment_loss=output_alignment_loss or labels is not None,
            **{**kwargs, "return_dict": True},
        )
        if input_ids is None:
            text_features = self.class_features()
        else:
            texts = self.get_text_features(input_ids, attention_mask=attention_mask, return_dict=True)
            text_features = texts.pooler_output
        logits, _, _ = self.video_text_logits(vision_outputs, text_features)
        if cache is not None:
            vision_outputs.cache = cache.finish(begun)
        return classifier_output(logits, labels, vision_outputs, self.config)


class ILAForVideoClassification(ILAVideoFeaturesMixin, ILAPreTrainedModel):
    """Video classification with a linear head (Something-Something v2 models): no text tower.

    Original head: `mit.classify_head`.
    """

    _auto_class = "AutoModelForVideoClassification"
    input_modalities = ("video",)
    prompt = None
    _keys_to_ignore_on_load_unexpected = [r"^(text_model|text_projection)\.", r"^logit_scale$"]

    def __init__(self, config: ILAConfig):
        super().__init__(config)
        width = config.projection_dim
        self.vision_model = ILAVisionModel._from_config(config.vision_config)
        self.visual_projection = nn.Linear(config.vision_config.hidden_size, width, bias=False)
        self.integration = make_integration(config)
        self.norm = nn.LayerNorm(width, eps=config.vision_config.layer_norm_eps)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(width, config.num_labels)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.vision_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.vision_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_alignments: bool = False,
        output_alignment_loss: bool = False,
        cache: ILACache | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **kwargs: Unpack[TransformersKwargs],
    ) -> ILAClassifierOutput:
        """Classify clips, or streams after each of their next frames.

        Args:
            pixel_values (B, T, 3, H, W): Normalised clips, or the next frames of streams.
            labels: Class ids (B,) or soft targets (B, K); not with a cache.
            cache, logits_to_keep: See [`ILAVideoFeaturesMixin.get_video_features`].
            interpolate_pos_encoding, output_alignments, output_alignment_loss, kwargs: See
                [`ILAVisionModel.forward`].
        """
        check_labels_of_clips(labels, cache)
        begun = None if cache is None else cache.begin()
        vision_outputs = self.get_video_features(
            pixel_values,
            begun,
            logits_to_keep,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_alignments=output_alignments,
            output_alignment_loss=output_alignment_loss or labels is not None,
            **{**kwargs, "return_dict": True},
        )
        video = nn.functional.normalize(vision_outputs["pooler_output"].float(), dim=-1).to(self.norm.weight.dtype)
        logits = self.classifier(self.dropout(self.norm(video))).float()
        if cache is not None:
            vision_outputs.cache = cache.finish(begun)
        return classifier_output(logits, labels, vision_outputs, self.config)


__all__ = [
    "ILAForVideoClassification",
    "ILAForVideoTextClassification",
    "ILAModel",
    "ILAPreTrainedModel",
    "ILATextModel",
    "ILAVisionModel",
]
