"""The wheel of the package, and an environment that holds it and what it needs."""

import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

from packaging.requirements import Requirement


ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]


def build_wheel(folder):
    """Build it from a copy: building leaves files, which would be in the next wheel."""
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("src", "examples"):
        shutil.copytree(ROOT / name, folder / "clone" / name, ignore=ignored)
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "clone" / name)
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder / "clone")]
    subprocess.run([*PIP, *build], check=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def needed(name):
    """The distributions that one needs where it is installed, and those that they need, with the extras asked for."""
    found, todo = {}, [Requirement(name)]
    while todo:
        asked = todo.pop()
        key = (asked.name.lower(), frozenset(asked.extras))
        if key in found:
            continue
        found[key] = distribution(asked.name)
        for requirement in map(Requirement, found[key].requires or []):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *asked.extras)):
                todo.append(requirement)
    return {name: package for (name, _), package in found.items()}


def make_environment(folder):
    """A virtual environment with links to what `ila-hf` needs, and without `ila-hf`; returns its programs' folder.

    It takes a second, and no download, and lacks all tools of the developers.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    packages = needed("ila-hf")
    del packages["ila-hf"]
    for package in packages.values():
        for top in {file.parts[0] for file in package.files if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
        for entry in package.entry_points.select(group="console_scripts"):
            program = folder / "bin" / entry.name
            program.write_text(f"#!{folder}/bin/python\nfrom {entry.module} import {entry.attr}\n{entry.attr}()\n")
            program.chmod(0o755)
    return folder / "bin"
