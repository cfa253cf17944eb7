"""Shared fixtures: tiny models through the public interface, and short video files."""

import copy
import importlib.util
import os


os.environ.setdefault("HF_HUB_OFFLINE", "1")

import datasets
import numpy as np
import pytest
import torch

from ila_hf import ILAForVideoTextClassification
from ila_hf.demo.drawing import write_video
from ila_hf.demo.motion_clips import MOTIONS, draw_clip
from ila_hf.demo.tiny import tiny_config, tiny_processor


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _torchcodec_that_loads():
    """datasets imports torchcodec wherever it is installed; older ones need libraries of FFmpeg's that may lack."""
    if importlib.util.find_spec("torchcodec") is None:
        return
    try:
        importlib.import_module("torchcodec")
    except RuntimeError:
        datasets.config.TORCHCODEC_AVAILABLE = False


def make_model(model_class=ILAForVideoTextClassification, vision=None, training=False, **fields):
    """A tiny model whose BatchNorm statistics and zero-initialised layers are not trivial, so that nothing hides."""
    torch.manual_seed(0)
    config = tiny_config(vision, **fields)
    sub_configs = {"vision_config": config.vision_config, "text_config": config.text_config}
    model = model_class(sub_configs.get(model_class.config_class.base_config_key, config))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(std=0.1, generator=generator)
            elif name.endswith("running_var"):
                buffer.uniform_(0.8, 1.2, generator=generator)
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1, generator=generator)
    if isinstance(model, ILAForVideoTextClassification):
        model.set_class_texts(MOTIONS, tiny_processor(config))
    return model.train(training)


def save_model(folder, *args, **arguments):
    """Save a tiny model of [`make_model`] with its processor; returns the folder as a string."""
    model = make_model(*args, **arguments)
    model.save_pretrained(folder)
    tiny_processor(model.config).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def _models():
    return {}


@pytest.fixture
def tiny_model(_models):
    """A fresh copy of a tiny model: `tiny_model(model_class, vision={...}, training=False, **fields)`."""

    def get(model_class=ILAForVideoTextClassification, **arguments):
        key = (model_class, repr(sorted(arguments.items())))
        if key not in _models:
            _models[key] = make_model(model_class, **arguments)
        return copy.deepcopy(_models[key])

    return get


@pytest.fixture
def clips():
    """Two clips of eight frames, (2, 8, 3, 32, 32)."""
    return torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def video_file(tmp_path_factory):
    """An mp4 file of a drawn clip."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    frames, _, fps = draw_clip(0)
    write_video(path, frames, fps)
    return path


@pytest.fixture(scope="session")
def numbered_video(tmp_path_factory):
    """An mp4 of 40 frames whose grey value tells the frame: frame i is 6·i."""
    path = tmp_path_factory.mktemp("video") / "numbered.mp4"
    frames = np.broadcast_to(6 * np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 48, 64, 3))
    write_video(path, frames, 10)
    return path
