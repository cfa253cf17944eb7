"""Importing the package is cheap, and ILA is known to transformers whatever was imported first."""

import json
import os
import subprocess
import sys

import pytest

import ila_hf
from ila_hf import ILAForVideoClassification, ILAForVideoTextClassification
from ila_hf.demo.tiny import tiny_processor


OPTIONAL = ("decord", "onnx", "onnxruntime", "onnxscript", "peft", "torchao", "torchcodec")


def run_python(code, *arguments):
    """Run code in a fresh process and return what it prints, as JSON."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_import_brings_nothing_heavy():
    code = """
import json, sys, transformers
before = set(sys.modules)
import ila_hf
print(json.dumps(sorted({name.split(".")[0] for name in set(sys.modules) - before})))
"""
    # transformers.models.ila is an alias of the package
    assert set(run_python(code)) <= {"ila_hf", "lazy_loader", "wrapt", "transformers"}


def test_optional_dependencies_are_not_needed():
    code = f"""
import sys
sys.modules.update(dict.fromkeys({OPTIONAL}))  # None: not installed
import importlib, json, pkgutil, ila_hf
names = [type(getattr(ila_hf, name)).__name__ for name in ila_hf.__all__]
for_training = [name for name in ("datasets", "evaluate", "matplotlib") if name in sys.modules]
modules = [module.name for module in pkgutil.walk_packages(ila_hf.__path__, "ila_hf.")]
modules.remove("ila_hf.__main__")
for module in modules:
    importlib.import_module(module)
print(json.dumps([len(modules), len(names), for_training]))
"""
    modules, names, for_training = run_python(code)
    assert modules > 20
    assert names == len(ila_hf.__all__)
    assert for_training == []


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    from conftest import make_model

    folders = []
    for model_class in (ILAForVideoTextClassification, ILAForVideoClassification):
        folder = tmp_path_factory.mktemp(model_class.__name__)
        model = make_model(model_class)
        model.save_pretrained(folder)
        tiny_processor(model.config).save_pretrained(folder)
        folders.append(folder)
    return folders


@pytest.mark.parametrize(
    "first",
    [
        "from transformers import AutoModelForVideoClassification, AutoProcessor, pipeline; import ila_hf",
        # These import the auto classes half-way
        "import ila_hf; from transformers import CLIPModel",
        "import ila_hf; from transformers.modeling_layers import GradientCheckpointingLayer",
        "import ila_hf; from transformers import pipeline",
    ],
)
def test_order_of_imports(first, folders):
    code = """
import json, sys
exec(sys.argv[1])
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoProcessor, AutoVideoProcessor
from transformers import pipeline
config = AutoConfig.from_pretrained(sys.argv[2])
print(json.dumps([
    type(config).__name__,
    *(type(AutoModel.from_config(c)).__name__ for c in (config, config.vision_config, config.text_config)),
    *(type(AutoModelForVideoClassification.from_pretrained(folder)).__name__ for folder in sys.argv[2:]),
    type(AutoVideoProcessor.from_pretrained(sys.argv[2])).__name__,
    type(AutoProcessor.from_pretrained(sys.argv[2])).__name__,
    type(AutoProcessor.from_pretrained(sys.argv[2]).video_processor).__name__,
    type(pipeline("video-classification", model=sys.argv[2])).__name__,
    type(pipeline("zero-shot-video-classification", model=sys.argv[2])).__name__,
]))
"""
    assert run_python(code, first, *folders) == [
        "ILAConfig",
        "ILAModel",
        "ILAVisionModel",
        "ILATextModel",
        "ILAForVideoTextClassification",
        "ILAForVideoClassification",
        "ILAVideoProcessor",
        "ILAProcessor",
        "ILAVideoProcessor",
        "ILAVideoClassificationPipeline",
        "ILAZeroShotVideoClassificationPipeline",
    ]


def test_public_names():
    assert set(ila_hf.__all__) <= set(dir(ila_hf))
    assert all(getattr(ila_hf, name) is not None for name in ila_hf.__all__)
    with pytest.raises(AttributeError, match="attribute ILAConfiguration"):
        _ = ila_hf.ILAConfiguration
