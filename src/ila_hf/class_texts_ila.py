# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Class texts of a model: tokenised, saved with it, and encoded once. Letters in shapes: see modeling_ila.py."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.utils import is_tracing, logging

from .checks_ila import check_class_texts, check_names, check_text_length, check_token_ids
from .configuration_ila import ILAConfig, saved_settings


logger = logging.get_logger(__name__)


class ILAClassTexts(nn.Module):
    """The tokenised class texts (K, S), as a buffer: they are saved, loaded and moved with the model."""

    UNSET = -1

    def __init__(self, config: ILAConfig):
        super().__init__()
        self.config = config.text_config
        shape = (config.num_labels, self.config.max_position_embeddings)
        self.input_ids = nn.Buffer(torch.full(shape, self.UNSET))

    def init_weights(self) -> None:
        """No texts."""
        init.constant_(self.input_ids, self.UNSET)

    def forward(self) -> torch.Tensor:
        """The token ids (K, S). accelerate brings what it has offloaded when a module is called, not before."""
        return self.input_ids

    def set(self, input_ids: torch.Tensor) -> None:
        """Replace the texts by token ids (K, S), each row with its end-of-text token, after checking them."""
        if self.input_ids.is_meta:
            raise ValueError("The class texts are offloaded: set them before, or without `offload_buffers`.")
        check_token_ids(input_ids, self.config)
        # Nothing after the end of a text counts
        padding = (0, self.config.max_position_embeddings - input_ids.shape[1])
        input_ids = nn.functional.pad(input_ids.long(), padding)
        self.input_ids = nn.Buffer(input_ids.to(self.input_ids.device))

    def tokenize(self, texts: list[str], tokenizer: Any | None) -> torch.Tensor:
        """Token ids (K, S) of texts, none of them cut off."""
        if tokenizer is None:
            raise ValueError(
                f"Class texts such as {texts[0]!r} need `tokenizer`: pass a tokenizer or an ILAProcessor."
            )
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        rows = [torch.as_tensor(row) for row in tokenizer(texts)["input_ids"]]
        check_text_length(texts, list(map(len, rows)), self.config.max_position_embeddings)
        return nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.pad_token_id or 0)


class ILAClassTextsMixin:
    """Of a model with class texts: setting them, and their features, which are computed once while they cannot change.

    What may change them is seen by identity, version, type and device of the tensors that they are made of. Writing to
    the `.data` of a weight leaves no trace there: whoever does so calls `reset_class_features`. peft merges adapters
    that way; that it has wrapped the model, or its text tower as a whole, is seen. So is casting the whole model.
    """

    config: Any
    class_texts: ILAClassTexts
    text_model: Any
    text_projection: nn.Linear
    peft_wraps: int
    training: bool
    # The key of the features, the features, and what they are made of
    _class_features: tuple[list[Any], torch.Tensor, list[torch.Tensor]] | None = None
    # Of the loaded texts, where the model was loaded with others
    _names_of_texts: list[str] | None = None

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As every model. Class texts that are loaded under other names than they were saved with are told."""
        parent: Any = super()
        loaded = parent.from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        saved = saved_settings(pretrained_model_name_or_path, kwargs)
        names = saved.get("id2label") or {}
        if saved.get("model_type") == ILAConfig.model_type and len(names) == model.config.num_labels:
            model._names_of_texts = [names[i] for i in sorted(names, key=int)]
        return loaded

    # No hyperparameter: what the user has the model tell apart
    # trf-ignore: TRF033
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
        check_class_texts(texts, labels)
        if not isinstance(texts[0], str):
            texts = torch.as_tensor(texts)
        if isinstance(texts, torch.Tensor):
            input_ids = texts
            if labels is None and len(texts) != self.config.num_labels:
                labels = [f"LABEL_{i}" for i in range(len(texts))]
        else:
            names = [str(text) for text in texts]
            input_ids = self.class_texts.tokenize(names, tokenizer)
            labels = names if labels is None else labels
        check_names(labels or [], "The names of classes")
        self.class_texts.set(input_ids)
        self._names_of_texts = None
        self.reset_class_features()
        if labels is not None:
            self.config.id2label = dict(enumerate(labels))
            self.config.label2id = {label: i for i, label in enumerate(labels)}

    def reset_class_features(self) -> None:
        """Have the text features computed anew, after weights of the text tower were written to through `.data`."""
        self._class_features = None

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        """As in every module. Casting and moving write to `.data`."""
        self.reset_class_features()
        parent: Any = super()
        return parent._apply(*args, **kwargs)

    def train(self, mode: bool = True) -> Any:
        """Switch the mode; text features are computed anew after a change, whatever wrote to whatever weights."""
        if mode != self.training:  # Trainer calls this before every step
            self.reset_class_features()
        parent: Any = super()
        return parent.train(mode)

    def class_features(self) -> torch.Tensor:
        """Text features (K, E) of the class texts, computed once while the text tower does not train."""
        parameters = [*self.text_model.parameters(), *self.text_projection.parameters()]
        trains = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        is_random = self.text_model.training and bool(self.config.text_config.attention_dropout)
        is_replica = getattr(self, "_is_replica", False)  # of DataParallel: it has no parameters to look at
        if trains or is_random or is_replica or is_tracing():
            self.reset_class_features()
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
        is_adapted = any(hasattr(module, "merged_adapters") for tower in towers for module in tower.modules())
        # The tensors are kept, so that no other can get their ids
        self._class_features = None if is_adapted else (key, features, tensors)
        return features

    def _class_features_key(self, tensors: list[torch.Tensor]) -> list[Any]:
        """Loaded weights, a step, a move or cast, autocast: each changes it. Nothing runs on the device for it."""
        device_type = self.class_texts().device.type
        autocast = torch.is_autocast_enabled(device_type) and torch.get_autocast_dtype(device_type)
        states = [(t.is_meta or id(t), t.dtype, t.device, not t.is_inference() and t._version) for t in tensors]
        wraps = (self.peft_wraps, getattr(self.text_model, "peft_wraps", 0))  # a text tower may be CLIP's own
        return [autocast, self.text_model.config._attn_implementation, wraps, states]

    def _encode_class_texts(self) -> torch.Tensor:
        input_ids = self.class_texts()
        if not is_tracing():
            self._check_texts(input_ids)
        model: Any = self
        return model.get_text_features(input_ids, return_dict=True).pooler_output

    def _check_texts(self, input_ids: torch.Tensor) -> None:
        if (input_ids == ILAClassTexts.UNSET).any():
            raise ValueError("The model has no class texts: call `set_class_texts` or pass `input_ids`.")
        if self._names_of_texts is not None:
            names = self.config.id2label
            pairs = [(old, names[i]) for i, old in enumerate(self._names_of_texts) if old != names[i]]
            if pairs:
                logger.warning_once(
                    f"The class texts are those that the model was saved with, under new names: {pairs[0][0]!r} is "
                    f"now called {pairs[0][1]!r}. For texts of the new names call `set_class_texts`."
                )
