"""Run the conformance tests, then count their outcomes and the reasons of the skipped ones.

python tests/conformance/report.py [arguments of pytest]
"""

import re
import sys
from collections import Counter
from pathlib import Path

import pytest


class Counts:
    """A pytest plugin."""

    def __init__(self):
        self.outcomes = Counter()
        self.reasons = Counter()

    def pytest_runtest_logreport(self, report):
        is_subtest = hasattr(report, "context")  # pytest counts those that pass by themselves
        if report.outcome != "passed" or (report.when == "call" and not is_subtest):
            self.outcomes[report.outcome] += 1
            if report.skipped:
                self.reasons[reason(report.longrepr[2])] += 1


def reason(text: str) -> str:
    """The reason without the names of classes, so that those of different models are counted together."""
    text = text.removeprefix("Skipped: ")
    if match := re.search(r"test_pipeline_\w+ is skipped: `[\w-]+` (is not in .*) for", text):
        return f"The task {match[1]}"
    text = re.sub(r"<class '[\w.]*\.(ILA\w+)'>", r"\1", text)
    return re.sub(r"\bILA(For)?\w*(Model|Classification|Processor)\b", "<class>", text)


def main() -> int:
    counts = Counts()
    code = pytest.main([str(Path(__file__).parent), "-p", "no:cacheprovider", *sys.argv[1:]], plugins=[counts])
    print(", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.outcomes.items())))
    for text, number in counts.reasons.most_common():
        print(f"{number:5d}  {text}")
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
