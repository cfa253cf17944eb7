# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Saving models: with the code that loads them with `trust_remote_code=True` where this package is not installed.

transformers copies the file of a class that has `_auto_class`, and every file of the same folder that it imports with
`from .name import`, directly or not.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


_CLASSIFIERS = ("ILAForVideoTextClassification", "ILAForVideoClassification")


class ILARemoteCodeMixin:
    """For models: what is saved is complete, and being a copy of the code changes nothing."""

    config: Any
    _auto_class: str | None = "AutoModel"

    def _initialize_weights(self, module: nn.Module, *is_custom_code: bool) -> None:
        """For custom code, modules without parameters of their own are passed over when weights are initialised.

        CLIP initialises the projections of such modules (attention, MLP) from the module, and so does ILA. The
        argument has several names in transformers, and is true for copies and for classes of other packages.
        """
        parent: Any = super()
        parent._initialize_weights(module)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in every model, with the names of the classes in the configuration.

        A class made from ours, by `fully_shard` or by you, saves the code of ours and none of its own, unless it has
        been registered: `register_for_auto_class`.
        """
        # Imported here: models do without pipelines. By this line the file is copied
        from .pipeline_ila import CUSTOM_PIPELINES

        parent: Any = super()
        code = self._saved_class()
        self.config.auto_map = self._auto_map(code)
        if _is_ours(code) and self.config.model_type == "ila":
            self.config.custom_pipelines = CUSTOM_PIPELINES
        # transformers copies the file of the model's module, and enters its class into the `auto_map` under its
        # `_auto_class`. The entry, which would name torch's or your class, is replaced by that of the configuration
        vars(self).update(__module__=code.__module__, _auto_class="AutoConfig")
        try:
            with _loadable(getattr(self, "hf_quantizer", None)):
                parent.save_pretrained(*args, **kwargs)
        finally:
            for name in ("__module__", "_auto_class"):
                del vars(self)[name]
            # Where it stays, transformers makes no pipeline without `trust_remote_code`
            vars(self.config).pop("custom_pipelines", None)

    def _saved_class(self) -> Any:
        """The class whose code is saved: the nearest that is ours or registered."""
        return next(base for base in type(self).__mro__ if _is_ours(base) or vars(base).get("_auto_class"))

    def _auto_map(self, code: Any) -> dict[str, str]:
        """Which class of the saved code each auto class loads; as it is where the package is installed."""
        auto_map = {"AutoConfig": f"configuration_ila.{type(self.config).__name__}"}
        name = f"{code.__module__.rpartition('.')[2]}.{code.__name__}"
        if not _is_ours(code) or self.config.model_type != "ila":
            return {**auto_map, code._auto_class: name}
        classifier = code.__name__ if code.__name__ in _CLASSIFIERS else _CLASSIFIERS[0]
        return {
            **auto_map,
            "AutoModel": "modeling_ila.ILAModel",
            "AutoModelForVideoClassification": f"modeling_ila.{classifier}",
        }


def _is_ours(model_class: type) -> bool:
    return model_class.__module__.rpartition(".")[2] == "modeling_ila"


@contextmanager
def _loadable(quantizer: Any) -> Iterator[None]:
    """Have a quantiser write what can be loaded.

    torchao (0.18) lists the names of all tensors, and takes each for a module and its parameter when they are loaded.
    CLIP's logit scale has one part only, and loading fails. It is not quantised, and loads without being listed.
    """
    if quantizer is None:
        yield
        return

    def get_state_dict_and_metadata(model: Any) -> tuple[Any, dict[str, str]]:
        state_dict, metadata = type(quantizer).get_state_dict_and_metadata(quantizer, model)
        names = json.loads(metadata.get("tensor_names", "[]"))
        return state_dict, {**metadata, "tensor_names": json.dumps([name for name in names if "." in name])}

    quantizer.get_state_dict_and_metadata = get_state_dict_and_metadata
    try:
        yield
    finally:
        del quantizer.get_state_dict_and_metadata
