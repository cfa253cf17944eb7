# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Files that are complete or not there, whatever happens while they are written."""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4


def replace_file(file: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write aside, to a file of its own that ends in .part; flush to the disk, and rename.

    A kill may leave the .part behind: see [`remove_parts`]. Of several writers the last one's file stays.

    Raises:
        OSError: If it cannot be written; then the file is as it was.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}-{uuid4().hex[:8]}.part")
    try:
        with part.open("wb") as content:
            write(content)
            content.flush()
            os.fsync(content.fileno())
        part.replace(file)
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
    if os.name == "posix":  # elsewhere a folder cannot be opened; here the new name must be on the disk, too
        folder = os.open(file.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_parts(folder: Path) -> None:
    """Remove what killed writers have left in a folder; for one that has it to itself."""
    for part in folder.glob("*.part"):
        part.unlink(missing_ok=True)


def replace_text(file: Path, text: str) -> None:
    """[`replace_file`] with a text, as UTF-8."""
    replace_file(file, lambda opened: opened.write(text.encode()))
