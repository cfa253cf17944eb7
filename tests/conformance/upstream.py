"""Fetch transformers' test mixins and make them importable as the package `upstream_tests`."""

import functools
import importlib
import importlib.abc
import importlib.util
import os
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from unittest import mock

import transformers
from filelock import FileLock

import ila_hf
from ila_hf.pipeline_ila import ILAVideoClassificationPipeline


PACKAGE = "upstream_tests"
CACHE = Path(__file__).parent / ".transformers"
NO_DOWNLOAD = "ILA_HF_NO_DOWNLOAD"


class UpstreamUnavailableError(Exception):
    """The source distribution of transformers could not be fetched."""


def may_download() -> bool:
    return not os.environ.get(NO_DOWNLOAD)


def download_command(folder: Path) -> list[str]:
    """pip fetches the archive only; its metadata is built with the setuptools that is installed."""
    options = ["--quiet", "--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--dest", str(folder)]
    return [sys.executable, "-m", "pip", "download", *options, f"transformers=={transformers.__version__}"]


def fetch(cache: Path = CACHE) -> Path:
    """The folder that holds `tests/` of the installed transformers; downloads it the first time.

    Raises:
        UpstreamUnavailableError: If it is not there and pip cannot fetch it, or may not (`ILA_HF_NO_DOWNLOAD`).
    """
    folder = cache / transformers.__version__
    if folder.is_dir():
        return folder
    if not may_download():
        raise UpstreamUnavailableError(f"{NO_DOWNLOAD} is set and {folder} does not exist.")
    cache.mkdir(parents=True, exist_ok=True)
    (cache / ".gitignore").write_text("*\n")
    with FileLock(cache / "lock"):
        if not folder.is_dir():  # another process may have fetched it while this one waited
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                _unpack(_download(Path(scratch)), Path(scratch)).rename(folder)
    return folder


def _download(scratch: Path) -> Path:
    command = download_command(scratch)
    finished = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    archives = list(scratch.glob("transformers-*.tar.gz"))
    if finished.returncode or len(archives) != 1:
        raise UpstreamUnavailableError(
            f"transformers' test mixins could not be fetched. This command failed:\n{' '.join(command)}\n"
            f"{finished.stderr.strip()}\nSet {NO_DOWNLOAD}=1 to skip them."
        )
    return archives[0]


def _unpack(archive: Path, scratch: Path) -> Path:
    root = archive.name.removesuffix(".tar.gz")
    with tarfile.open(archive) as tar:
        members = [member for member in tar if member.isfile() and member.name.startswith(f"{root}/tests/")]
        tar.extractall(scratch, members, filter="data")
    # test_pipeline_mixin reads it when it is imported; the names of our tiny models are put in by conftest.py
    summary = scratch / root / "tests" / "utils" / "tiny_model_summary.json"
    summary.parent.mkdir(exist_ok=True)
    summary.write_text("{}")
    return scratch / root


def marks(folder: Path) -> list[str]:
    """Names of the pytest marks that the mixins and their helpers set; pytest refuses those it has not been told."""
    helpers = importlib.util.find_spec("transformers.testing_utils")
    files = [Path(str(helpers.origin)), *(folder / "tests").glob("*.py")]
    return sorted({name for file in files for name in re.findall(r"\bmark\.(\w+)", file.read_text("utf-8"))})


class VideoClassificationPipelineTests:
    """What `PipelineTesterMixin` asks of the tests of a pipeline; transformers' own file is not distributed."""

    videos: list[Path] = []

    def get_test_pipeline(self, model, tokenizer=None, processor=None, dtype="float32", **_):
        arguments = {"video_processor": processor.video_processor, "dtype": dtype, "top_k": 2}
        return ILAVideoClassificationPipeline(model, **arguments), [str(path) for path in self.videos]

    def run_pipeline_test(self, pipeline, examples):
        for example in examples:
            outputs = pipeline(example)
            assert [set(output) for output in outputs] == [{"score", "label"}] * 2
            assert outputs[0]["score"] >= outputs[1]["score"] > 0
            assert {output["label"] for output in outputs} <= set(pipeline.model.config.id2label.values())


# Every field that all configurations share, with a value that is no default
CONFIG_COMMON_KWARGS = {
    "return_dict": False,
    "output_hidden_states": True,
    "output_attentions": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["SomeModel"],
    "id2label": {0: "some", 1: "other"},
    "label2id": {"some": 0, "other": 1},
    "problem_type": "multi_label_classification",
}

STAND_INS = {
    f"{PACKAGE}.utils.test_configuration_utils": {"config_common_kwargs": CONFIG_COMMON_KWARGS},
    f"{PACKAGE}.pipelines.test_pipelines_video_classification": {
        "VideoClassificationPipelineTests": VideoClassificationPipelineTests
    },
    # Where the tests of FSDP would start their processes
    f"{PACKAGE}.distributed_testing_utils": {"_get_distributed_device_type": lambda: "cpu"},
    # The files named by URLs are not needed: our processors have no chat template
    "fetch_hub_objects_for_ci": {"url_to_local_path": str},
}


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Last in `sys.meta_path`: serves the test files that are not distributed, with empty classes for their names."""

    def find_spec(self, fullname, path=None, target=None):
        if not fullname.startswith(f"{PACKAGE}.") and fullname not in STAND_INS:
            return None
        return importlib.util.spec_from_loader(fullname, self, is_package=True)

    def exec_module(self, module):
        vars(module).update(STAND_INS.get(module.__name__, {}))
        # Import statements ask for `__path__` and the like, which a module has or has not
        module.__getattr__ = lambda name: type(name, (), {}) if not name.startswith("__") else _no_attribute(name)


def _no_attribute(name):
    raise AttributeError(name)


class _Transformers:
    """transformers as it would be with ILA in it."""

    def __getattr__(self, name):
        return getattr(ila_hf if name in ila_hf.__all__ else transformers, name)


@functools.cache
def load() -> SimpleNamespace:
    """Fetch and import the mixins, and leave `sys.path` and transformers as they were."""
    package = ModuleType(PACKAGE)
    package.__path__ = [str(fetch() / "tests")]
    sys.modules[PACKAGE] = package
    stand_ins = _StandIns()
    sys.meta_path.append(stand_ins)
    try:
        # It would execute transformers a second time, from a source tree that is not there
        with (
            mock.patch("transformers.utils.direct_transformers_import", return_value=_Transformers()),
            mock.patch.object(sys, "path", list(sys.path)),
        ):
            names = ["configuration_common", "modeling_common", "pipeline_mixin", "processing_common"]
            names += ["fsdp_mixin", "training_mixin", "video_processing_common"]
            return SimpleNamespace(**{name: importlib.import_module(f"{PACKAGE}.test_{name}") for name in names})
    finally:
        sys.meta_path.remove(stand_ins)
