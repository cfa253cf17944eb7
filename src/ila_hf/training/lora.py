# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""LoRA (arXiv 2106.09685) of CLIP's towers with peft, beside an alignment that trains in full."""

from typing import TYPE_CHECKING, Any

from ..modeling_ila import ILAPreTrainedModel, ILATextModel
from ..new_weights_ila import NEW_PARTS


if TYPE_CHECKING:
    from peft import LoraConfig

_ATTENTION = r"self_attn\.(q|k|v|out)_proj"
_MLP = r"mlp\.fc[12]"


def load_adapter_weights(model: ILAPreTrainedModel, folder: str) -> None:
    """Load what an adapter in a folder has learnt into the active adapter of a model with `add_adapter`."""
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    weights: dict[str, Any] = load_peft_weights(folder, device="cpu")
    weights = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    set_peft_model_state_dict(model, weights, adapter_name=model.active_adapters()[0])


def lora_config(
    model: ILAPreTrainedModel, rank: int = 16, mlp: bool = False, text: bool = False, **options: Any
) -> "LoraConfig":
    """What `peft.get_peft_model` and `model.add_adapter` need to fine-tune ILA.

    The attention of the vision tower gets adapters; temporal modules, integration, text prompt and linear classifier
    train in full. They are saved with the adapter, and so are their state (BatchNorm statistics, mask jitter) and the
    class texts. All else is frozen, the logit scale, too.

    Args:
        model: Any model of this package.
        rank: r, of the added matrices.
        mlp: Also adapt the MLPs of the towers.
        text: Also adapt the text tower.
        options: Further fields of `peft.LoraConfig`, which replace these. `lora_alpha` is the rank unless given, so
            that the adapters are neither scaled up nor down.

    Raises:
        ValueError: For a rank below 1, and if `text` does not fit the towers that the model has.
        ImportError: If peft is not installed.
    """
    from peft import LoraConfig

    if rank < 1:
        raise ValueError(f"`rank` must be at least 1, got {rank}.")
    if text and not hasattr(model, "text_model") and not isinstance(model, ILATextModel):
        raise ValueError(f"{type(model).__name__} has no text tower: `text` must be False.")
    if not text and isinstance(model, ILATextModel):
        raise ValueError("ILATextModel is a text tower: `text` must be True.")
    # One of the towers on its own has no such prefix
    prefix = r"((vision|text)_model\.)?" if text else r"(vision_model\.)?"
    linears = f"({_ATTENTION}|{_MLP})" if mlp else _ATTENTION
    last_names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    fields: dict[str, Any] = {
        "r": rank,
        "lora_alpha": rank,
        "target_modules": rf"{prefix}encoder\.layers\.\d+\.{linears}",
        "modules_to_save": [name for name in NEW_PARTS if name in last_names],
    }
    return LoraConfig(**{**fields, **options})
