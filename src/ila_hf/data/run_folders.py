# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Folders that are bound to what their results depend on, and that one run has at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout


@contextmanager
def in_use(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, which is created if needed.

    Raises:
        ValueError: If there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout as error:
        raise ValueError(f"{str(folder)!r} is in use by another run.") from error


def check_bound(folder: Path, known: Any, given: Any) -> None:
    """Refuse to go on in a folder whose results depend on something else; both as json has them.

    Raises:
        ValueError: Naming the first differences.
    """
    found = list(_differences(known, given))
    if found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        raise ValueError(
            f"{str(folder)!r} has results of something else: {'; '.join(found[:3])}{more}. Take another folder."
        )


def _differences(known: Any, given: Any, name: str = "") -> Iterator[str]:
    """Such as "processor.num_frames was 8, is 16"."""
    if isinstance(known, dict) and isinstance(given, dict):
        for key in sorted(known.keys() | given.keys()):
            yield from _differences(known.get(key), given.get(key), f"{name}.{key}" if name else key)
    elif known != given:
        yield f"{name} was {known!r}, is {given!r}"
