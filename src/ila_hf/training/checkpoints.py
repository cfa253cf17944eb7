# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Checkpoints that a kill or a full disk cannot spoil: one counts only when it has been marked as complete."""

import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..data.whole_files import remove_parts, replace_text


MARKER = "complete.json"  # written last; tells when, and holds the size of every other file
_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


class CheckpointError(OSError):
    """A checkpoint that cannot be written or read."""


def checkpoint_folder(output_dir: str | Path, step: int) -> Path:
    """Where the checkpoint after an optimizer step lies."""
    return Path(output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def checkpoint_step(folder: str | Path) -> int:
    """The optimizer step of a checkpoint, from its name.

    Raises:
        CheckpointError: If the folder is not called so.
    """
    match = _NAME.fullmatch(Path(folder).name)
    if match is None:
        raise CheckpointError(f"{str(folder)!r} is no checkpoint: those are called {PREFIX_CHECKPOINT_DIR}-<step>.")
    return int(match[1])


def _checkpoints(output_dir: str | Path) -> list[Path]:
    """The checkpoints of a run, complete or not, by their steps."""
    folders = [f for f in Path(output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _NAME.fullmatch(f.name)]
    return sorted((f for f in folders if f.is_dir()), key=checkpoint_step)


def mark_complete(folder: str | Path) -> None:
    """Say that all of a checkpoint has been written, by every process."""
    folder = Path(folder)
    remove_parts(folder)
    files = (f for f in sorted(folder.rglob("*")) if f.is_file() and not f.name.startswith(MARKER))
    sizes = {str(f.relative_to(folder)): f.stat().st_size for f in files}
    text = json.dumps({"time": time.time_ns(), "sizes": sizes}, indent=2)
    replace_text(folder / MARKER, text)


def unmark(folder: str | Path) -> None:
    """Say that a checkpoint is about to be written (again)."""
    (Path(folder) / MARKER).unlink(missing_ok=True)


def what_is_missing(folder: str | Path) -> str | None:
    """Why a checkpoint cannot be used; None if it can."""
    folder = Path(folder)
    try:
        sizes = json.loads((folder / MARKER).read_text())["sizes"]
    except FileNotFoundError:
        return f"it was never finished ({MARKER} is missing)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MARKER} cannot be read: {error}"
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes instead of {size}"
    return None


def _complete(output_dir: str | Path) -> list[Path]:
    """The complete checkpoints of a run in the order in which they were written.

    Not in that of their steps: a run that began anew in the same folder, or from an earlier checkpoint, has fewer.
    """
    folders = [folder for folder in _checkpoints(output_dir) if what_is_missing(folder) is None]
    return sorted(folders, key=lambda folder: json.loads((folder / MARKER).read_text())["time"])


def find_last_checkpoint(output_dir: str | Path) -> str | None:
    """The newest complete checkpoint of a run; None if there is none. Later steps that are not are a warning."""
    complete = _complete(output_dir)
    step = checkpoint_step(complete[-1]) if complete else -1
    for folder in _checkpoints(output_dir):
        problem = what_is_missing(folder)
        if problem is not None and checkpoint_step(folder) > step:
            warnings.warn(f"The checkpoint {str(folder)!r} is left out: {problem}.", stacklevel=2)
    return str(complete[-1]) if complete else None


def check_checkpoint(folder: str | Path) -> None:
    """Whether a run can go on from a checkpoint.

    Raises:
        CheckpointError: If it is not complete, or holds the model only.
    """
    problem = what_is_missing(folder)
    if not Path(folder).is_dir():
        problem = "there is no such folder"
    elif _NAME.fullmatch(Path(folder).name) is None and _checkpoints(folder):
        problem = f"it is a run, not a checkpoint; its last is {_checkpoints(folder)[-1].name}"
    if problem is None and not any(Path(folder).glob("optimizer*")):
        problem = "it holds the model without the optimizer (--save_only_model)"
    if problem is not None:
        raise CheckpointError(f"Cannot resume from {str(folder)!r}: {problem}.")


def checkpoint_to_resume(resume_from: str | bool | None, output_dir: str | Path) -> str | None:
    """What `--resume_from_checkpoint` asks for.

    Args:
        resume_from: A checkpoint; True or "True" for the last complete one; None or False to begin anew.
        output_dir: Of the run.

    Raises:
        CheckpointError: If the checkpoint is not complete, or none is asked for where there are some: a run that
            begins anew would mix its own with them.
    """
    if isinstance(resume_from, str) and resume_from.lower() in ("true", "false"):
        resume_from = resume_from.lower() == "true"
    if isinstance(resume_from, str):
        check_checkpoint(resume_from)
        return resume_from
    last = find_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
    if resume_from:
        if last is not None:
            check_checkpoint(last)
        return last
    if resume_from is None and last is not None:
        raise CheckpointError(
            f"{str(output_dir)!r} holds checkpoints, the last {Path(last).name}: continue it with "
            "--resume_from_checkpoint True, or give another --output_dir."
        )
    return None


def keep_newest(output_dir: str | Path, limit: int | None, keep: str | Path | None = None) -> None:
    """Delete all complete checkpoints but the newest ones, and all that a kill has left behind.

    Args:
        output_dir: Of the run.
        limit: How many to keep; None or 0 for all.
        keep: The best one; it is kept, and counts. The newest one is kept in any case.
    """
    if limit is None or limit <= 0:
        return
    newest_first = [folder.resolve() for folder in reversed(_complete(output_dir))]
    kept = {*newest_first[:1], *([Path(keep).resolve()] if keep else [])}
    for folder in newest_first:
        if len(kept) < limit:
            kept.add(folder)
    for folder in _checkpoints(output_dir):
        if folder.resolve() not in kept:
            unmark(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _is_write_error(error: Exception) -> bool:
    # torch.save reports a disk that is full as a RuntimeError of its file writer
    return isinstance(error, OSError | SafetensorError) or any(
        word in str(error) for word in ("inline_container", "PytorchStreamWriter")
    )


@contextmanager
def writing(folder: str | Path, output_dir: str | Path, is_checkpoint: bool = True) -> Iterator[None]:
    """Turn what goes wrong while a checkpoint or a model is written into a clear error; half a checkpoint is removed.

    Raises:
        CheckpointError: Naming the cause and the last complete checkpoint.
    """
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not _is_write_error(error):
            raise
        if is_checkpoint:
            shutil.rmtree(folder, ignore_errors=True)
        last = find_last_checkpoint(output_dir)
        advice = f"Go on from {last!r} with --resume_from_checkpoint True" if last else "There is no other checkpoint"
        raise CheckpointError(f"Cannot write {str(folder)!r}: {error}. Is the disk full? {advice}.") from error


def check_writable(folder: str | Path) -> None:
    """Create a folder, and a file in it for a moment.

    Raises:
        CheckpointError: If that is not possible.
    """
    probe = Path(folder) / f".writable.{os.getpid()}"
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        probe.write_text("")
        probe.unlink()
    except OSError as error:
        raise CheckpointError(f"Cannot write to the output folder {str(folder)!r}: {error}.") from error
