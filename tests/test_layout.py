"""The rule of the layout: the top level is the code that travels with saved models, folders hold the rest."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from zipfile import ZipFile

import pytest
from transformers.dynamic_module_utils import get_relative_import_files
from wheels import PIP, build_wheel

import ila_hf
from ila_hf import ILAConfig, ILAModel, ILAProcessor, ILAVideoProcessor


PACKAGE = Path(ila_hf.__file__).parent
FOLDERS = sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))
NOT_SAVED = {"__init__.py", "__main__.py", "registration.py"}


def test_top_level_is_what_travels():
    """What transformers copies beside a saved model, processor or configuration, by its own rule."""
    files = {inspect.getfile(auto_class) for auto_class in (ILAConfig, ILAModel, ILAProcessor, ILAVideoProcessor)}
    files |= {file for start in files for file in get_relative_import_files(start)}
    assert {Path(file).resolve() for file in files} == {
        path.resolve() for path in PACKAGE.glob("*.py") if path.name not in NOT_SAVED
    }


def imported_modules(path):
    """The modules of the package that a file imports, also within functions, by their names."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = parts[: len(parts) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            yield from (".".join([*base, *name.split(".")]) for name in names)


def test_there_are_no_circles_and_nothing_travels_with_a_folder():
    graph = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): set(imported_modules(path))
        for path in PACKAGE.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    order = list(TopologicalSorter(graph).static_order())  # an error where there is a circle
    assert len(order) > 40
    for module, imported in graph.items():
        if "." not in module:
            assert not any("." in name for name in imported), module


def test_the_wheel_has_all_packages_and_their_data(tmp_path):
    """It is installed by itself, far from the clone, and trains with a recipe of its own."""
    wheel, root = build_wheel(tmp_path), tmp_path / "clone"
    files = {name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name}
    own = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".pyi", ".md", ".typed")]
    examples = [*(root / "examples").glob("run_*.py"), *(root / "examples").glob("configs/*.json")]
    expected = {f"ila_hf/{path.relative_to(PACKAGE)}" for path in own}
    expected |= {f"ila_hf/{path.relative_to(root)}" for path in examples}
    assert expected <= files
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(tmp_path / "site"), str(wheel)], check=True)
    code = "import ila_hf.__main__ as main; print(main.__file__); main.main(['train', '--config', 'demo'])"
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout.strip() == str(tmp_path / "site" / "ila_hf" / "__main__.py")
    assert run.returncode == 2
    assert "ila-hf train: " in run.stderr
    assert "outputs/demo" in run.stderr  # where the recipe of the demo looks for its model


def test_folders():
    assert FOLDERS == ["analysis", "conversion", "data", "demo", "evaluation", "inference", "training"]
    assert {path.parent.name for path in PACKAGE.glob("*/*.py")} == set(FOLDERS)


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_says_what_belongs_there_and_offers_its_names(name):
    folder = importlib.import_module(f"ila_hf.{name}")
    assert folder.__doc__
    assert folder.__all__
    for public in folder.__all__:
        value = getattr(folder, public)
        assert value.__module__.startswith(f"ila_hf.{name}."), public
        assert value.__doc__, public


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_imports_nothing_before_it_is_used(name):
    code = f"""
import sys, ila_hf.{name}
print([module for module in sys.modules if module.startswith("ila_hf.{name}.")], "torch" in sys.modules)
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[] False"
