# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What is written of models that torchao has quantised, so that it can be loaded."""

import json
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file


def mend_quantized_files(folder: str | Path) -> None:
    """Rewrite the weights in a folder where torchao (0.18) has listed a parameter of the model itself.

    It lists the names of all tensors in the files and takes each for a module and its parameter when they are loaded.
    CLIP's logit scale has one part only, and loading fails. It is not quantised and loads without being listed, so
    this takes it off the list.

    Args:
        folder: Where `save_pretrained` has written a model.
    """
    for file in Path(folder).glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            metadata: dict[str, Any] = opened.metadata() or {}
        names = json.loads(metadata.get("tensor_names", "[]"))  # of torchao; other files may lie there
        if all("." in name for name in names):
            continue
        metadata["tensor_names"] = json.dumps([name for name in names if "." in name])
        mended = file.with_suffix(".new")
        save_file(load_file(file), mended, metadata)
        mended.replace(file)


__all__ = ["mend_quantized_files"]
