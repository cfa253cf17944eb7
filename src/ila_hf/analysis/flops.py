# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""What a model costs, counted by `torch.utils.flop_counter` on the meta device: nothing is computed."""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModel

from ..configuration_ila import ILAConfig, ILAVisionConfig
from ..modeling_ila import ILAVisionModel


def trunk_flops(config: ILAConfig) -> float:
    """Multiply-adds, in 1e9, of the visual trunk for one view of `num_frames` frames."""
    return _count(ILAVisionModel, config.vision_config, 1, config.num_frames)


def clip_flops(config: ILAConfig) -> float:
    """The same of CLIP's vision transformer, which sees as many frames, each by itself."""
    return _count(CLIPVisionModel, clip_config(config.vision_config), config.num_frames)


def clip_config(config: ILAVisionConfig) -> CLIPVisionConfig:
    """Configuration of CLIP's vision transformer of the same size."""
    own = CLIPVisionConfig().to_dict().keys() - {"model_type", "architectures"}
    return CLIPVisionConfig(**{name: value for name, value in config.to_dict().items() if name in own})


def _count(model_class: type[torch.nn.Module], config: Any, *batch: int) -> float:
    with torch.device("meta"):
        model = model_class(config).eval()
        frames = torch.empty(*batch, config.num_channels, config.image_size, config.image_size)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model(frames)
    return float(counter.get_total_flops()) / 2e9  # it counts a multiplication and an addition as two
