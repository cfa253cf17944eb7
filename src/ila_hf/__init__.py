# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ILA (Implicit Learnable Alignment, ICCV 2023) for Hugging Face transformers.

Importing the package registers ILA with the auto classes and with the video-classification pipeline.
"""

from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForVideoClassification,
    AutoProcessor,
    AutoVideoProcessor,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES

from .configuration_ila import PRESET_NAMES, ILAConfig, ILATextConfig, ILAVisionConfig
from .modeling_ila import (
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAModel,
    ILATextModel,
    ILAVisionModel,
)
from .processing_ila import ILAProcessor
from .sampling import sample_frame_indices
from .video_processing_ila import ILAVideoProcessor
from .video_reading import read_video
from .video_sources import VideoLimits, VideoReadError


__version__ = "0.1.0"

for _config in (ILAConfig, ILATextConfig, ILAVisionConfig):
    AutoConfig.register(_config.model_type, _config)
AutoModel.register(ILAConfig, ILAModel)
AutoModel.register(ILATextConfig, ILATextModel)
AutoModel.register(ILAVisionConfig, ILAVisionModel)
# Both heads share one configuration; a saved model's `architectures` tells which it is
AutoModelForVideoClassification.register(ILAConfig, (ILAForVideoTextClassification, ILAForVideoClassification))
AutoVideoProcessor.register(ILAConfig, ILAVideoProcessor)
AutoProcessor.register(ILAConfig, ILAProcessor)
# The pipeline looks class names up here, not in the mapping above
MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES[ILAConfig.model_type] = (
    ILAForVideoTextClassification.__name__,
    ILAForVideoClassification.__name__,
)

__all__ = [
    "PRESET_NAMES",
    "ILAConfig",
    "ILAForVideoClassification",
    "ILAForVideoTextClassification",
    "ILAModel",
    "ILAProcessor",
    "ILATextConfig",
    "ILATextModel",
    "ILAVideoProcessor",
    "ILAVisionConfig",
    "ILAVisionModel",
    "VideoLimits",
    "VideoReadError",
    "__version__",
    "read_video",
    "sample_frame_indices",
]
