"""What the scripts that measure several cases share: run them, keep their results in a json file, print tables."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ila_hf.analysis.benchmark import machine


def run_cases(
    description: str | None,
    cases: dict[str, Callable[[int], dict[str, Any]]],
    file: Path,
    tables: Callable[[dict[str, Any]], str],
    rounds: int,
) -> None:
    """The command line of a script.

    Args:
        description: Its help.
        cases: What is measured, by name; each takes the number of rounds.
        file: Where results are, if not told otherwise. Cases that are run again replace theirs.
        tables: Shows the content of the file.
        rounds: If not told otherwise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=list(cases), default=list(cases))
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--output_file", type=Path, default=file)
    parser.add_argument("--report", action="store_true", help="only print the tables of the file that is there")
    arguments = parser.parse_args()
    output: Path = arguments.output_file
    found: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    for case in [] if arguments.report else arguments.cases:
        found[case] = {**cases[case](arguments.rounds), "machine": machine()}
        output.write_text(json.dumps(found, indent=1) + "\n")
    print(tables(found))
