"""Check the model files by the rules of transformers' maintainers, transformers-mlinter: part of `make quality`.

TRF057 is left out: it asks for `@auto_docstring`, which fills docstrings from tables of transformers' own tree. Those
of a package of its own are written by hand, with shapes, errors and sources.
"""

import sys
from pathlib import Path

from mlinter import DEFAULT_ENABLED_TRF_RULES, analyze_file, format_violation, iter_modeling_files


LEFT_OUT = {"TRF057"}
SOURCES = Path(__file__).parents[2] / "src" / "ila_hf"


def main() -> int:
    """Print what breaks a rule, a line each; returns how many there are."""
    rules = DEFAULT_ENABLED_TRF_RULES - LEFT_OUT
    files = list(iter_modeling_files(search_paths=[SOURCES]))
    found = [violation for file in files for violation in analyze_file(file, file.read_text(), rules)]
    for violation in found:
        print(format_violation(violation))
    print(f"transformers-mlinter: {len(files)} files, {len(rules)} rules, {len(found)} violations")
    return len(found)


if __name__ == "__main__":
    sys.exit(min(main(), 1))
