# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Pushing a run to the Hub: what may refuse it is asked before the work, and what fails afterwards loses nothing."""

import shlex
import warnings
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .checkpoints import CheckpointError


CHECKPOINTS = f"{PREFIX_CHECKPOINT_DIR}-*"
IGNORE_FILE = ".gitignore"
# Lists of files of this machine: of no use to others
IGNORED = ("/unreadable_videos.jsonl*", "/predictions.csv")

# What the client raises: errors of its HTTP library, whose name has changed, of the system, and of names and cards
_HUB_ERRORS = (*HfHubHTTPError.__bases__, ValueError)

_ADVICE = {
    401: "Log in with `hf auth login`, or set HF_TOKEN to a token with write permission.",
    403: "Take a token with write permission (`hf auth login`, HF_TOKEN) or a repository of yours (--hub_model_id).",
    404: "Is the name of the repository, or of its branch (--hub_revision), right, and may the token see it?",
    412: "Another push came first, and yours would be on top of a state it does not know. Push again if it shall win.",
}


class PushError(OSError):
    """What was to be pushed is not on the Hub."""


def open_repo(
    name: str, folder: str | Path, token: str | None = None, private: bool | None = None, revision: str | None = None
) -> str:
    """Create a model repository if there is none, and find out whether a push will be accepted. Nothing is uploaded.

    Args:
        name: Of the repository; without an owner, that of the token.
        folder: What will be pushed; it gets a `.gitignore`, if it has none, that leaves out lists of local files.
        token: Default: that of `hf auth login` or HF_TOKEN.
        private: Whether nobody else may see a repository that is created.
        revision: Branch to push to; default: main.

    Returns:
        The name with its owner.

    Raises:
        PushError: If the token may not write there, the Hub cannot be reached, or the repository exists and is public
            where a private one is asked for.
    """
    api = HfApi()
    with pushing(name):
        repo_id = api.create_repo(name, token=token, private=private, exist_ok=True).repo_id
        # An existing repository is no error above even for a token that may only read. The first step of an upload is
        # one for such a token, and uploads nothing of a small text
        probe = CommitOperationAdd("README.md", b"probe")
        api.preupload_lfs_files(repo_id, [probe], token=token, revision=revision)
        is_public = not api.model_info(repo_id, token=token).private
    if private and is_public:
        raise PushError(
            f"The repository {repo_id!r} exists and is public, but --hub_private_repo asks for a private one: make it "
            "private in its settings, or give another --hub_model_id."
        )
    leave_out_local_lists(folder)
    return str(repo_id)


def leave_out_local_lists(folder: str | Path) -> None:
    """Write a `.gitignore`, if there is none, so that lists of files of this machine are not pushed, by anybody."""
    ignore_file = Path(folder) / IGNORE_FILE
    if not ignore_file.exists():
        ignore_file.parent.mkdir(parents=True, exist_ok=True)
        ignore_file.write_text("\n".join(IGNORED) + "\n")


def push_folder(
    repo_id: str, folder: str | Path, message: str, token: str | None = None, revision: str | None = None
) -> None:
    """Upload a run without its checkpoints, in one commit.

    Args:
        repo_id: Of [`open_repo`].
        folder: To upload.
        message: Of the commit.
        token, revision: As in [`open_repo`].

    Raises:
        PushError: Telling how to push the folder later.
    """
    with pushing(repo_id, folder, revision):
        HfApi().upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            commit_message=message,
            token=token,
            revision=revision,
            ignore_patterns=[CHECKPOINTS, *(pattern.removeprefix("/") for pattern in IGNORED)],
        )


@contextmanager
def pushing(repo_id: str, folder: str | Path | None = None, revision: str | None = None) -> Iterator[None]:
    """Turn whatever goes wrong with the Hub into an error that names the repository and says what to do.

    Args:
        repo_id: The repository.
        folder: What is pushed and complete on the disk; None while nothing is.
        revision: Branch to push to.

    Raises:
        PushError: In place of the error of the client.
    """
    try:
        yield
    except (CheckpointError, PushError):  # of the disk, and of a push inside of this one
        raise
    except Exception as error:
        if not any(isinstance(each, _HUB_ERRORS) for each in (error, error.__cause__)):
            raise
        reason, advice = _explain(error)
        text = f"Cannot push to {repo_id!r}: {reason}. {advice}"
        if folder is not None:
            text += (
                f" All of the run is in {str(folder)!r}; to push it later: {push_command(repo_id, folder, revision)}"
            )
        raise PushError(text) from error


def push_command(repo_id: str, folder: str | Path, revision: str | None = None) -> str:
    """A command that pushes what lies in a folder as [`push_folder`] does."""
    words = ["hf", "upload", repo_id, str(folder), ".", "--exclude", CHECKPOINTS]
    return shlex.join(words + (["--revision", revision] if revision else []))


def warn_of_failures(jobs: list[Future[Any]], repo_id: str) -> None:
    """Warn if pushes in the background fail; nobody else would say so."""

    def check(job: Future[Any]) -> None:
        error = None if job.cancelled() else job.exception()
        if error is not None:
            reason, advice = _explain(error)
            warnings.warn(f"A checkpoint was not pushed to {repo_id!r}: {reason}. {advice}", stacklevel=2)

    for job in jobs:
        job.add_done_callback(check)


def _explain(error: BaseException) -> tuple[str, str]:
    """What the Hub said, and what can be done."""
    while error.__cause__ is not None and not hasattr(error, "response"):  # uploads say what they were about first
        error = error.__cause__
    status = getattr(getattr(error, "response", None), "status_code", None)
    said = getattr(error, "server_message", None) or str(error) or type(error).__name__
    reason = " ".join(said.split()).rstrip(".")
    if status is not None:
        reason = f"{status}, {reason}"
    if status in _ADVICE:
        return reason, _ADVICE[status]
    if isinstance(error, ValueError):  # of a card, or a name
        return reason, ""
    return reason, "The Hub, or the way to it, has a problem: try again later."
