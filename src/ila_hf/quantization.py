# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Saving models that torchao has quantised."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .modeling_ila import ILAPreTrainedModel


def save_quantized(model: ILAPreTrainedModel, folder: str | Path, **kwargs: Any) -> None:
    """`model.save_pretrained(folder)`, so that `from_pretrained` can load a model that torchao has quantised.

    torchao (0.18) lists the names of all tensors in the files and takes each for a module and its parameter when they
    are loaded. A parameter of the model itself, CLIP's logit scale, has one part only, and loading fails. It is not
    quantised and loads without being listed, so this takes it off the list.

    Args:
        model: Loaded with a `TorchAoConfig` as its `quantization_config`.
        folder: Where to save it.
        kwargs: Of `save_pretrained`. Upload the folder afterwards instead of with `push_to_hub=True`.

    Raises:
        ValueError: If the model has not been quantised when it was loaded, and for `push_to_hub`.
    """
    if getattr(model, "hf_quantizer", None) is None:
        raise ValueError("The model is not quantised: load it with `quantization_config=TorchAoConfig(...)`.")
    if kwargs.get("push_to_hub"):
        raise ValueError("`push_to_hub` would upload files that cannot be loaded: save the model, then upload it.")
    model.save_pretrained(folder, **kwargs)
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        names = json.loads((metadata or {}).get("tensor_names", "[]"))  # of torchao; other files may lie there
        if all("." in name for name in names):
            continue
        metadata["tensor_names"] = json.dumps([name for name in names if "." in name])
        mended = file.with_suffix(".new")
        save_file(load_file(file), mended, metadata)
        mended.replace(file)


__all__ = ["save_quantized"]
