# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ILA (Implicit Learnable Alignment, ICCV 2023) for Hugging Face transformers.

Importing the package registers ILA with the auto classes and pipelines of transformers. Neither these nor the parts of
the package are imported before they are used.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .registration import register


if TYPE_CHECKING:
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

# module -> its public names; the imports above are for type checkers
_MODULES = {
    "configuration_ila": ("PRESET_NAMES", "ILAConfig", "ILATextConfig", "ILAVisionConfig"),
    "modeling_ila": (
        "ILAForVideoClassification",
        "ILAForVideoTextClassification",
        "ILAModel",
        "ILATextModel",
        "ILAVisionModel",
    ),
    "processing_ila": ("ILAProcessor",),
    "sampling": ("sample_frame_indices",),
    "video_processing_ila": ("ILAVideoProcessor",),
    "video_reading": ("read_video",),
    "video_sources": ("VideoLimits", "VideoReadError"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULE_OF})


register()
