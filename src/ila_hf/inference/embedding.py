# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Features of a collection of videos, for retrieval and deduplication: the command `ila-hf embed`; see labeling.py."""

import argparse

from .labeling import add_common_arguments as add_arguments
from .labeling import run_with


__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf embed`; see [`ila_hf.inference.labeling.run`]."""
    run_with(arguments, embed=True)
