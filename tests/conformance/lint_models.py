"""Check the model files by the rules of transformers' maintainers, transformers-mlinter: part of `make quality`.

The linter chooses files by name: modeling_*, configuration_* and so on. The parts of the model in other files are
linted as modeling files. Left out are:

- TRF057, which asks for `@auto_docstring`. It fills docstrings from tables of transformers' own tree; those of another
  package are written by hand, with shapes, errors and sources.
- TRF028 in the other files: they name the licence, and the file in which it stands, in one line.
- Files that define no part of a model: pipelines, and how code is saved beside weights.
"""

import sys
from pathlib import Path

from mlinter import DEFAULT_ENABLED_TRF_RULES, analyze_file, format_violation, iter_modeling_files


RULES = DEFAULT_ENABLED_TRF_RULES - {"TRF057"}
SOURCES = Path(__file__).parents[2] / "src" / "ila_hf"
NO_PARTS = {"pipeline_ila.py", "remote_code_ila.py"}


def main() -> int:
    """Print what breaks a rule, a line each; returns how many there are."""
    files = list(iter_modeling_files(search_paths=[SOURCES]))
    parts = [file for file in sorted(SOURCES.glob("*_ila.py")) if file not in files and file.name not in NO_PARTS]
    found = [violation for file in files for violation in analyze_file(file, file.read_text(), RULES)]
    for part in parts:
        found += analyze_file(part.with_name(f"modeling_{part.name}"), part.read_text(), RULES - {"TRF028"})
    for violation in found:
        print(format_violation(violation))
    print(f"transformers-mlinter: {len(files + parts)} files, {len(RULES)} rules, {len(found)} violations")
    return len(found)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
