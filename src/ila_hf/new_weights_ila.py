# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is new in a model, because its checkpoint did not hold it: told in a line, and kept with an adapter of peft."""

from collections.abc import Iterable
from dataclasses import replace
from importlib import import_module
from typing import Any

from torch import nn
from transformers.utils import logging


logger = logging.get_logger(__name__)

# What ILA adds to CLIP, by the last names of modules. `norm`, before the linear classifier, is left out, because other
# names end in it: it begins as it would be loaded, and the classifier can learn all that its weights could.
NEW_PARTS = ("temporal", "time_positions", "integration", "prompt", "class_texts", "classifier")


class ILANewWeightsMixin:
    """Of a model: which of its parts are new since it was loaded."""

    config: Any
    parameter_origin: Any
    state_dict: Any
    # Names of `NEW_PARTS` of which a tensor was missing in the checkpoint, or had another shape
    _new_parts: tuple[str, ...] = ()

    def _adjust_missing_and_unexpected_keys(self, loading_info: Any) -> None:
        """As in every model. Where all of ILA is new, a line says so, and the report does not list its tensors.

        A checkpoint of ILA that lacks some of them is damaged, or another variant, and one that lacks all of CLIP's,
        too, is none: then all are listed. What `output_loading_info` gives is always complete.
        """
        parent: Any = super()
        parent._adjust_missing_and_unexpected_keys(loading_info)
        missing = loading_info.missing_keys
        self._new_parts = _parts(loading_info.missing_and_mismatched())
        keys = set(self.state_dict())
        added = {key for key in keys if self.parameter_origin(key) is None}
        if not added or not added <= missing or keys == missing:
            return
        logger.warning(
            f"Not in the checkpoint, and therefore new: {', '.join(_parts(added))} ({len(added)} tensors). "
            "They must be trained before use."
        )
        rest = replace(loading_info, missing_keys=missing - added)
        loading_info.create_loading_report = rest.create_loading_report

    def _keep_with_adapters(self, configs: Any) -> None:
        """Have adapters of peft train and save the parts that are new: no other model has them.

        peft has put its layers in and is about to assign the configurations of adapters to the model. Layers within
        the parts go: a part that trains in full needs none, and peft puts none there when the adapter is loaded. What
        `add_adapter` of peft's own model adds later does not come by here.
        """
        for name, adapter in configs.items() if isinstance(configs, dict) else ():
            if not hasattr(adapter, "modules_to_save"):  # a kind of adapter without such modules
                continue
            known = adapter.modules_to_save or []
            parts = [part for part in self._new_parts if part not in known]
            if not parts:
                continue
            if adapter.inference_mode:
                logger.warning(
                    f"The adapter {name!r} does not hold {', '.join(parts)}, new in this model: they are not those "
                    "that it was trained beside. Load it into the model that it was made of."
                )
                continue
            logger.warning(
                f"New in this model, trained in full and saved with the adapter: {', '.join(parts)}. "
                f"Adapters that are added later need `modules_to_save={parts}` in their configuration."
            )
            model: Any = self
            _take_out_adapters(model, parts)
            adapter.modules_to_save = [*known, *parts]
            # By an import statement transformers would ask for peft wherever the saved code is loaded
            utils: Any = import_module("peft.utils")
            utils.set_additional_trainable_modules(model, adapter, self.config.to_dict(), name)


def _parts(keys: Iterable[str]) -> tuple[str, ...]:
    names = {name for key in keys for name in key.split(".")}
    return tuple(part for part in NEW_PARTS if part in names)


def _take_out_adapters(model: nn.Module, parts: list[str]) -> None:
    for name, module in list(model.named_modules()):
        if hasattr(module, "get_base_layer") and set(parts) & set(name.split(".")):
            model.set_submodule(name, module.get_base_layer())
