# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Compilation by layers: `torch.compile` of one layer, whose code serves all."""

from typing import Any

from ..modeling_ila import ILAEncoderLayer, ILAPreTrainedModel


def compile_layers(model: ILAPreTrainedModel, **options: Any) -> ILAPreTrainedModel:
    """Compile the layers of the trunk, in place. All layers are alike, so that only the first takes time.

    accelerate's regional compilation leaves out what aligns the frames, because it is called apart from its layer.

    Args:
        model: Any model with a trunk.
        options: Of `torch.compile`, such as `mode` and `dynamic`.

    Returns:
        The model itself. It saves as before.
    """
    for module in model.modules():
        if isinstance(module, ILAEncoderLayer):
            module.compile(**options)
            if module.temporal is not None:
                module.temporal.compile(**options)
    return model
