# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Features of a collection of videos, for retrieval and deduplication: the command `ila-hf embed`."""

import argparse

from . import labeling


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `ila-hf embed`: those of `ila-hf label`, but for classes."""
    labeling.add_arguments(parser)


def run(arguments: argparse.Namespace) -> None:
    """Run `ila-hf embed`; see [`ila_hf.inference.labeling.run`]."""
    labeling.run(arguments, embed=True)
