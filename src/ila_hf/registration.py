# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""ILA among the auto classes and pipelines of transformers, without importing them before they are used.

Importing transformers' auto classes brings torch and takes seconds. So what they must know of ILA is told to each of
their modules at the moment that it is imported, or at once if it has been.
"""

import importlib
import sys
from collections.abc import Callable
from types import ModuleType

from wrapt import register_post_import_hook


# transformers looks a class up by name, in the module `transformers.models.<name>` of its model type
MODULE_NAME = "ila"
CONFIGS = {"ila": "ILAConfig", "ila_text_model": "ILATextConfig", "ila_vision_model": "ILAVisionConfig"}
MODELS = {"ila": "ILAModel", "ila_text_model": "ILATextModel", "ila_vision_model": "ILAVisionModel"}
# Both heads share one configuration; a saved model's `architectures` tells which it is
VIDEO_CLASSIFIERS = {"ila": ("ILAForVideoTextClassification", "ILAForVideoClassification")}


def add_configs(configuration_auto: ModuleType) -> None:
    """Tell AutoConfig of the three configurations."""
    sys.modules[f"transformers.models.{MODULE_NAME}"] = sys.modules[__package__]
    configuration_auto.CONFIG_MAPPING_NAMES.update(CONFIGS)
    configuration_auto.SPECIAL_MODEL_TYPE_TO_MODULE_NAME.update(dict.fromkeys(CONFIGS, MODULE_NAME))


def add_models(modeling_auto: ModuleType) -> None:
    """Tell AutoModel and AutoModelForVideoClassification of the models, by name.

    Their own `register` takes classes. Importing these here would break the import of CLIP's, which imports the auto
    classes half-way.
    """
    names, mapping = modeling_auto.MODEL_MAPPING_NAMES, modeling_auto.MODEL_MAPPING
    classifier_names = modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING_NAMES
    classifier_mapping = modeling_auto.MODEL_FOR_VIDEO_CLASSIFICATION_MAPPING
    names.update(MODELS)
    classifier_names.update(VIDEO_CLASSIFIERS)
    for each in (mapping, classifier_mapping):
        # A mapping copies the names of the configurations when it is made, which may have been before `add_configs`
        each._reverse_config_mapping.update({config: model_type for model_type, config in CONFIGS.items()})


def add_video_processor(video_processing_auto: ModuleType) -> None:
    """Tell AutoVideoProcessor of ILAVideoProcessor."""
    from .configuration_ila import ILAConfig
    from .video_processing_ila import ILAVideoProcessor

    video_processing_auto.AutoVideoProcessor.register(ILAConfig, ILAVideoProcessor)


def add_processor(processing_auto: ModuleType) -> None:
    """Tell AutoProcessor of ILAProcessor."""
    from .configuration_ila import ILAConfig
    from .processing_ila import ILAProcessor

    processing_auto.AutoProcessor.register(ILAConfig, ILAProcessor)


def import_pipelines(pipelines: ModuleType) -> None:
    """Import ours, which adds them; unless it is they that have imported those of transformers."""
    importlib.import_module(f"{__package__}.pipeline_ila")


def add_pipelines(pipeline_ila: ModuleType) -> None:
    """Tell `transformers.pipeline` of ours. "video-classification" stays as it is for the models of others."""
    from transformers.pipelines import PIPELINE_REGISTRY

    for task, (impl, model, kind) in pipeline_ila.PIPELINES.items():
        PIPELINE_REGISTRY.supported_tasks.setdefault(task, {"pt": (model,), "type": kind})["impl"] = impl


_HOOKS: dict[str, Callable[[ModuleType], None]] = {
    "transformers.models.auto.configuration_auto": add_configs,
    "transformers.models.auto.modeling_auto": add_models,
    "transformers.models.auto.video_processing_auto": add_video_processor,
    "transformers.models.auto.processing_auto": add_processor,
    "transformers.pipelines": import_pipelines,
    f"{__package__}.pipeline_ila": add_pipelines,
}


def register() -> None:
    """Have ILA registered with each module of transformers when it, or ours, is imported, or now."""
    for module, hook in _HOOKS.items():
        register_post_import_hook(hook, module)
