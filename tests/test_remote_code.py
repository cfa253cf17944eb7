"""Saved folders load with `trust_remote_code=True` where ila_hf is not installed, and without where it is."""

import ast
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_model
from hub_server import HubServer
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from ila_hf import (
    ILAForVideoClassification,
    ILAForVideoTextClassification,
    ILAModel,
    ILAProcessor,
    ILATextModel,
    ILAVideoProcessor,
    ILAVisionModel,
)
from ila_hf.demo.tiny import save_tiny_clip, tiny_config, tiny_processor


CODE = {
    "alignment_ila.py",
    "cache_ila.py",
    "fusion_ila.py",
    "checks_ila.py",
    "class_texts_ila.py",
    "configuration_ila.py",
    "evl_decoder_ila.py",
    "integration_ila.py",
    "modeling_ila.py",
    "new_weights_ila.py",
    "outputs_ila.py",
    "pipeline_ila.py",
    "processing_ila.py",
    "remote_code_ila.py",
    "sampling.py",
    "temporal_baselines_ila.py",
    "temporal_ila.py",
    "video_images.py",
    "video_processing_ila.py",
    "video_reading.py",
    "video_seeking.py",
    "video_sources.py",
    "video_windows.py",
}
# What a model imports
MODEL_CODE = CODE - {"processing_ila.py"}
# Where transformers can make and run a video processor, the model and a pipeline, these are
PACKAGES = {"PIL", "av", "huggingface_hub", "numpy", "safetensors", "torch", "transformers"}
HEADS = (ILAForVideoTextClassification, ILAForVideoClassification)

HEAD_CLASSES = ["ILAProcessor", "ILAVideoProcessor", "ILAVideoProcessor"]
EXPECTED_CLASSES = [
    *("ILAConfig", "ILAForVideoTextClassification", *HEAD_CLASSES),
    *("ILAConfig", "ILAForVideoClassification", *HEAD_CLASSES),
    *("ILAModel", "ILAVisionModel", "ILAVisionConfig"),
    *("ILAVideoClassificationPipeline", "ILAZeroShotVideoClassificationPipeline"),
]

# What every process begins with: no ila_hf, if the first argument says so, and what was loaded from where
PREAMBLE = """
import importlib, json, sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "ila_hf":
            raise ModuleNotFoundError("No module named " + name, name=name)

if sys.argv[1] == "remote":
    sys.meta_path.insert(0, Blocker())
    try:
        importlib.import_module("ila_hf")
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("ila_hf can be imported")
else:
    import ila_hf
import torch
from transformers import AutoConfig, AutoModel, AutoModelForVideoClassification, AutoProcessor, AutoVideoProcessor
from transformers import pipeline
from safetensors.torch import load_file, save_file

trust = {"trust_remote_code": True} if sys.argv[1] == "remote" else {}

def name(thing):
    return type(thing).__module__.split(".")[0] + " " + type(thing).__name__

def logits(model, inputs):
    with torch.no_grad():
        output = model.eval()(**inputs)
    return (output.logits if "logits" in output else output.last_hidden_state).contiguous()
"""
NO_TRUST = """
try:
    AutoModelForVideoClassification.from_pretrained(sys.argv[2])
except ValueError as error:
    refused = str(error)
assert not any(module.startswith("transformers_modules") for module in sys.modules)
"""
# argv: mode, folders of both heads and of the trunk, a video, a folder for results
LOAD = """
_, mode, text, linear, trunk, video, results = sys.argv
classes, outputs = [], {}
for key, folder in {"text": text, "linear": linear}.items():
    processor = AutoProcessor.from_pretrained(folder, **trust)
    model = AutoModelForVideoClassification.from_pretrained(folder, **trust)
    classes += [name(thing) for thing in (
        AutoConfig.from_pretrained(folder, **trust), model, processor, processor.video_processor,
        AutoVideoProcessor.from_pretrained(folder, **trust),
    )]
    inputs = processor(videos=video, return_tensors="pt")
    outputs[key] = logits(model, inputs)
whole = AutoModel.from_pretrained(text, **trust)
vision = AutoModel.from_pretrained(trunk, **trust)
classes += [name(whole), name(vision), name(AutoConfig.from_pretrained(trunk, **trust))]
outputs["trunk"] = logits(vision, inputs)
save_file(outputs, results + "/" + mode + ".safetensors")

classify = pipeline("video-classification", model=text, **trust)
zero_shot = pipeline("zero-shot-video-classification", model=text, **trust)
answers = [
    classify(video, top_k=3),
    classify([video, video], top_k=1, window_seconds=0.5, batch_size=2),
    pipeline("video-classification", model=linear, **trust)(video),
    zero_shot(video, candidate_labels="a cat, a dog"),
]
classes += [name(classify), name(zero_shot)]
modules = [module for module in sys.modules if module.startswith("transformers_modules")]
"""
# What was loaded as remote code is saved and loaded again, and a plain CLIP checkpoint is loaded by its classes
AGAIN = """
import inspect, os
again = results + "/again"
classify.model.config.save_pretrained(results + "/config")
zero_shot.save_pretrained(again)
model = AutoModelForVideoClassification.from_pretrained(text, **trust)
model.save_pretrained(again)
AutoProcessor.from_pretrained(text, **trust).save_pretrained(again)
files = sorted(file for file in os.listdir(again) if file.endswith(".py"))
same = torch.equal(
    logits(model, classify.video_processor(video, return_tensors="pt")),
    logits(
        AutoModelForVideoClassification.from_pretrained(again, **trust),
        AutoProcessor.from_pretrained(again, **trust)(videos=video, return_tensors="pt"),
    ),
)
with open(again + "/config.json") as file:
    saved = {key: json.load(file)[key] for key in ["auto_map"]}

config = AutoConfig.from_pretrained(text, **trust)
torch.manual_seed(0)
model = type(model).from_pretrained(os.environ["CLIP"], config=config)
weights = {name: (float(p.mean()), float(p.std())) for name, p in model.named_parameters()
           if name.startswith(("integration", "prompt"))}
"""
REPORT = (
    "print(); print(json.dumps({key: globals().get(key) for key in "
    + repr(["refused", "classes", "answers", "modules", "files", "same", "saved", "weights"])
    + "}))"
)


def run(code, *arguments, cwd, environment):
    """Run code in a process of its own, where nobody answers questions; what it reports last."""
    finished = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code + REPORT, *map(str, arguments)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**environment, "HF_MODULES_CACHE": str(cwd / "modules"), "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        timeout=300,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads(finished.stdout.splitlines()[-1])


def offline(home):
    return {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of both heads, with their processor, and of the trunk; the first has a dash and a dot in its name."""
    root = tmp_path_factory.mktemp("folders")
    folders = []
    for name, model_class in {"my-model-1.0": HEADS[0], "linear": HEADS[1], "trunk": ILAVisionModel}.items():
        model = make_model(model_class)
        model.save_pretrained(root / name)
        if model_class in HEADS:
            tiny_processor(model.config).save_pretrained(root / name)
        folders.append(root / name)
    return folders


@pytest.fixture(scope="module")
def installed(folders, video_file, tmp_path_factory):
    """What a process with ila_hf makes of the folders."""
    cwd = tmp_path_factory.mktemp("installed")
    report = run(LOAD, "local", *folders, video_file, cwd, cwd=cwd, environment=offline(cwd / "home"))
    return report, cwd


def test_where_ila_hf_is_installed_no_saved_code_runs(installed):
    report, cwd = installed
    assert report["classes"] == [f"ila_hf {name}" for name in EXPECTED_CLASSES]
    assert report["modules"] == []
    assert not (cwd / "modules").exists()


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    save_tiny_clip(folder)
    return folder


def test_where_it_is_not_the_saved_code_gives_the_same(installed, folders, video_file, clip_folder, tmp_path):
    environment = {**offline(tmp_path / "home"), "CLIP": str(clip_folder)}
    report = run(
        NO_TRUST + LOAD + AGAIN, "remote", *folders, video_file, tmp_path, cwd=tmp_path, environment=environment
    )
    expected, cwd = installed
    assert "pass the argument `trust_remote_code=True`" in report["refused"]
    assert report["classes"] == [f"transformers_modules {name}" for name in EXPECTED_CLASSES]
    outputs, expected_outputs = load_file(tmp_path / "remote.safetensors"), load_file(cwd / "local.safetensors")
    assert outputs.keys() == expected_outputs.keys() == {"text", "linear", "trunk"}
    for key, output in outputs.items():
        assert torch.equal(output, expected_outputs[key]), key
    flat, expected_flat = (json.dumps(answers, sort_keys=True) for answers in (report["answers"], expected["answers"]))
    assert flat == expected_flat

    assert set(report["files"]) == CODE
    assert report["same"]
    assert report["saved"]["auto_map"] == json.loads((folders[0] / "config.json").read_text())["auto_map"]

    torch.manual_seed(0)
    model = ILAForVideoTextClassification.from_pretrained(clip_folder, config=tiny_config())
    assert len(report["weights"]) > 20
    for name, numbers in report["weights"].items():
        parameter = model.get_parameter(name)
        assert numbers == pytest.approx((float(parameter.mean()), float(parameter.std())), abs=1e-6), name


def test_a_pushed_model_loads(installed, folders, video_file, tmp_path):
    push = """
model = ila_hf.ILAForVideoTextClassification.from_pretrained(sys.argv[2])
model.push_to_hub("tester/pushed")
ila_hf.ILAProcessor.from_pretrained(sys.argv[2]).push_to_hub("tester/pushed")
model.save_pretrained(sys.argv[3], push_to_hub=True, repo_id="tester/saved")
"""
    load = """
answers = []
for repo in ("tester/pushed", "tester/saved"):
    model = AutoModelForVideoClassification.from_pretrained(repo, **trust)
    processor = AutoVideoProcessor.from_pretrained("tester/pushed", **trust)
    answers.append(logits(model, processor(sys.argv[2], return_tensors="pt")).tolist())
    answers.append(name(model))
classify = pipeline("video-classification", model="tester/pushed", **trust)
zero_shot = pipeline("zero-shot-video-classification", model="tester/pushed", **trust)
answers += [name(classify), name(zero_shot), classify(sys.argv[2], top_k=3)]
model.save_pretrained(sys.argv[3])
saved = json.load(open(sys.argv[3] + "/config.json"))
"""
    with HubServer() as hub:
        environment = hub.environment(tmp_path / "pushing", hub.add_token())
        run(push, "local", folders[0], tmp_path / "saved", cwd=tmp_path, environment=environment)
        assert set(hub.files("tester/pushed")) >= CODE
        assert set(hub.files("tester/saved")) >= MODEL_CODE
        environment = hub.environment(tmp_path / "loading")
        report = run(load, "remote", video_file, tmp_path / "again", cwd=tmp_path, environment=environment)
    logits = load_file(installed[1] / "local.safetensors")["text"].tolist()
    model = "transformers_modules ILAForVideoTextClassification"
    pipelines = [f"transformers_modules {name}" for name in EXPECTED_CLASSES[-2:]]
    assert report["answers"] == [logits, model, logits, model, *pipelines, installed[0]["answers"][0]]
    assert report["saved"]["auto_map"] == json.loads((folders[0] / "config.json").read_text())["auto_map"]


def auto_map(classifier):
    return {
        "AutoConfig": "configuration_ila.ILAConfig",
        "AutoModel": "modeling_ila.ILAModel",
        "AutoModelForVideoClassification": f"modeling_ila.{classifier}",
    }


@pytest.mark.parametrize(
    ("model_class", "expected"),
    [
        (ILAModel, auto_map("ILAForVideoTextClassification")),
        (ILAForVideoTextClassification, auto_map("ILAForVideoTextClassification")),
        (ILAForVideoClassification, auto_map("ILAForVideoClassification")),
        (
            ILAVisionModel,
            {"AutoConfig": "configuration_ila.ILAVisionConfig", "AutoModel": "modeling_ila.ILAVisionModel"},
        ),
        (ILATextModel, {"AutoConfig": "configuration_ila.ILATextConfig", "AutoModel": "modeling_ila.ILATextModel"}),
    ],
)
def test_the_configuration_names_the_classes(tiny_model, tmp_path, model_class, expected):
    model = tiny_model(model_class)
    model.config.auto_map = {"AutoModelForVideoClassification": "elsewhere.Model"}
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["auto_map"] == expected
    pipelines = {"video-classification", "zero-shot-video-classification"}
    assert set(saved.get("custom_pipelines", ())) == (pipelines if model_class.base_model_prefix == "ila" else set())
    assert not hasattr(model.config, "custom_pipelines")
    assert not hasattr(type(model.config).from_pretrained(tmp_path), "custom_pipelines")
    assert {file.name for file in tmp_path.glob("*.py")} == MODEL_CODE


def test_a_sharded_model_saves_our_code(tiny_model, tmp_path):
    """`fully_shard` gives the model a class of its own, in a file of torch."""
    model = tiny_model(ILAForVideoClassification)
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
        model.save_pretrained(tmp_path, state_dict=weights)
    finally:
        torch.distributed.destroy_process_group()
    assert type(model).__name__ == "FSDPILAForVideoClassification"
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["architectures"] == ["ILAForVideoClassification"]
    assert saved["auto_map"] == auto_map("ILAForVideoClassification")
    assert {file.name for file in tmp_path.glob("*.py")} == MODEL_CODE


@pytest.mark.parametrize("module", ["mine", "__main__"])
@pytest.mark.parametrize("base", HEADS)
def test_a_subclass_saves_the_code_of_ours(tmp_path, base, module):
    model = type("Mine", (base,), {"__module__": module})(tiny_config())
    for _ in range(2):
        model.save_pretrained(tmp_path)
        assert json.loads((tmp_path / "config.json").read_text())["auto_map"] == auto_map(base.__name__)
    assert {file.name for file in tmp_path.glob("*.py")} == MODEL_CODE
    assert (type(model).__module__, model.__module__, model._auto_class) == (module, module, base._auto_class)


def test_a_registered_subclass_saves_its_own(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("from ila_hf import ILAModel\n\n\nclass Mine(ILAModel):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    mine = importlib.import_module("mine")
    mine.Mine.register_for_auto_class("AutoModel")
    mine.Mine(tiny_config()).save_pretrained(tmp_path / "saved")
    saved = json.loads((tmp_path / "saved/config.json").read_text())
    assert saved["auto_map"] == {"AutoConfig": "configuration_ila.ILAConfig", "AutoModel": "mine.Mine"}
    assert "custom_pipelines" not in saved
    assert {file.name for file in (tmp_path / "saved").glob("*.py")} == {"mine.py", "configuration_ila.py"}


def test_the_processors_name_their_classes(tmp_path):
    processor = tiny_processor(tiny_config())
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "processor_config.json").read_text())
    assert saved["auto_map"] == {"AutoProcessor": "processing_ila.ILAProcessor"}
    assert saved["video_processor"]["auto_map"]["AutoVideoProcessor"] == "video_processing_ila.ILAVideoProcessor"
    assert {file.name for file in tmp_path.glob("*.py")} >= {
        "processing_ila.py",
        "video_processing_ila.py",
        "sampling.py",
    }
    assert ILAProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()
    processor.video_processor.save_pretrained(tmp_path / "video")
    saved = json.loads((tmp_path / "video" / "video_preprocessor_config.json").read_text())
    assert saved["auto_map"]["AutoVideoProcessor"] == "video_processing_ila.ILAVideoProcessor"
    assert type(ILAVideoProcessor.from_pretrained(tmp_path / "video")) is ILAVideoProcessor


def test_the_code_needs_no_further_packages(folders):
    """transformers refuses files whose imports are missing, but for those in a `try`; names of files must be flat."""
    for path in sorted(folders[0].glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        tried = {id(node) for block in ast.walk(tree) if isinstance(block, ast.Try) for node in ast.walk(block)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1
                assert f"{node.module}.py" in CODE, f"{path.name} imports {node.module}"
            elif isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in tried:
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                packages = {name.split(".")[0] for name in names}
                assert packages <= PACKAGES | sys.stdlib_module_names, f"{path.name} imports {packages}"
    source = Path(sys.modules["ila_hf.modeling_ila"].__file__).parent
    assert all((folders[0] / name).read_bytes() == (source / name).read_bytes() for name in CODE)
