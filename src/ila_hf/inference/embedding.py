# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Features of a collection of videos, for retrieval and deduplication: `ila-hf embed`; see label_command.py."""

import argparse

from .label_command import add_common_arguments as add_arguments
from .label_command import run_with


__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf embed`; see [`ila_hf.inference.label_command.run`]."""
    run_with(arguments, embed=True)
