"""Checkpoints: which ones count, what is resumed, what is deleted, and what a full disk leaves behind."""

import json
import subprocess
import sys
import warnings

import pytest
from safetensors import SafetensorError

from ila_hf.training.checkpoints import (
    CheckpointError,
    check_writable,
    checkpoint_folder,
    checkpoint_step,
    checkpoint_to_resume,
    find_last_checkpoint,
    keep_newest,
    mark_complete,
    unmark,
    what_is_missing,
    writing,
)


@pytest.fixture
def make(tmp_path):
    """Write the checkpoint after a step, of two files; returns its folder."""

    def write(step, complete=True):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "states").mkdir(parents=True)
        (folder / "model.bin").write_bytes(b"12345")
        (folder / "optimizer.pt").write_bytes(b"1")
        (folder / "states" / "rank_0.bin").write_bytes(b"123")
        if complete:
            mark_complete(folder)
        return folder

    return write


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_names_and_steps(tmp_path):
    assert checkpoint_folder("out", 120).as_posix() == "out/checkpoint-120"
    assert checkpoint_step("out/checkpoint-120") == 120
    assert checkpoint_step(checkpoint_folder(tmp_path, 7)) == 7
    for name in ("checkpoint-", "checkpoint-last", "checkpoint-12.old", "my-checkpoint-12"):
        with pytest.raises(
            CheckpointError, match=rf"'out/{name}' is no checkpoint: those are called checkpoint-<step>"
        ):
            checkpoint_step(f"out/{name}")


# --- Which ones count ---------------------------------------------------------------------------------------------


def test_a_mark_holds_the_sizes_of_all_files(make):
    folder = make(10, complete=False)
    assert what_is_missing(folder) == "it was never finished (complete.json is missing)"
    mark_complete(folder)
    assert what_is_missing(folder) is None
    sizes = json.loads((folder / "complete.json").read_text())["sizes"]
    assert sizes == {"model.bin": 5, "optimizer.pt": 1, "states/rank_0.bin": 3}
    assert names(folder) == ["complete.json", "model.bin", "optimizer.pt", "states"]
    mark_complete(folder)  # once more, with what has been added
    (folder / "more.bin").write_bytes(b"1")
    mark_complete(str(folder))
    assert what_is_missing(str(folder)) is None
    assert len(json.loads((folder / "complete.json").read_text())["sizes"]) == 4
    for _ in range(2):  # also where there is no mark
        unmark(folder)
        assert "never finished" in what_is_missing(folder)


def test_a_mark_that_a_kill_has_torn_does_not_spoil_the_next(make):
    folder = make(10, complete=False)
    (folder / "complete.json.1-2.part").write_text('{"model')
    mark_complete(folder)
    assert what_is_missing(folder) is None
    assert names(folder) == ["complete.json", "model.bin", "optimizer.pt", "states"]


def lose_a_file(folder):
    (folder / "states" / "rank_0.bin").unlink()


def lose_a_folder(folder):
    lose_a_file(folder)
    (folder / "states").rmdir()


def shorten(folder):
    (folder / "model.bin").write_bytes(b"1234")


def lengthen(folder):
    (folder / "model.bin").write_bytes(b"123456")


def tear_the_mark(folder):
    (folder / "complete.json").write_text('{"model.bin": 5, "sta')


def empty_the_mark(folder):
    (folder / "complete.json").write_text("")


def fill_the_mark(folder):  # as file systems do after a loss of power
    (folder / "complete.json").write_bytes(b"\0" * 50)


SPOILT = {
    unmark: r"it was never finished \(complete\.json is missing\)",
    lose_a_file: r"states/rank_0\.bin is missing",
    lose_a_folder: r"states/rank_0\.bin is missing",
    shorten: r"model\.bin has 4 bytes instead of 5",
    lengthen: r"model\.bin has 6 bytes instead of 5",
    tear_the_mark: r"complete\.json cannot be read: Unterminated string",
    empty_the_mark: r"complete\.json cannot be read: Expecting value",
    fill_the_mark: r"complete\.json cannot be read: Expecting value",
}


@pytest.mark.parametrize("spoil", SPOILT, ids=lambda function: function.__name__)
def test_what_is_not_complete_is_passed_over(make, tmp_path, spoil):
    kept, spoilt = make(9), make(10)
    spoil(spoilt)
    with pytest.warns(UserWarning, match=rf"'.*checkpoint-10' is left out: {SPOILT[spoil]}"):
        assert find_last_checkpoint(tmp_path) == str(kept)
    with pytest.warns(UserWarning, match="checkpoint-10"):
        assert checkpoint_to_resume(True, tmp_path) == str(kept)
    with pytest.raises(CheckpointError, match=rf"Cannot resume from '.*checkpoint-10': {SPOILT[spoil]}"):
        checkpoint_to_resume(str(spoilt), tmp_path)


def test_the_last_checkpoint_is_that_of_the_highest_step(make, tmp_path):
    for step in (9, 10, 100):
        make(step)
    (tmp_path / "checkpoint-999").write_text("a file")
    for name in ("checkpoint-200-old", "checkpoint-best", "runs"):
        (tmp_path / name).mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing newer is left out
        assert find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-100")
        assert find_last_checkpoint(str(tmp_path / "runs")) is None
        assert find_last_checkpoint(tmp_path / "missing") is None


# --- Resuming -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", [True, "True", "true"])
def test_resume_from_the_last(make, tmp_path, asked):
    assert checkpoint_to_resume(asked, tmp_path / "missing") is None  # a first run may be started so, too
    assert checkpoint_to_resume(asked, tmp_path) is None
    make(5)
    assert checkpoint_to_resume(asked, tmp_path) == str(tmp_path / "checkpoint-5")


@pytest.mark.parametrize("asked", [False, "False", "false"])
def test_begin_anew(make, tmp_path, asked):
    make(5)
    assert checkpoint_to_resume(asked, tmp_path) is None


def test_resume_from_a_folder(make, tmp_path):
    make(5)
    first = make(3)
    assert checkpoint_to_resume(str(first), tmp_path) == str(first)
    assert checkpoint_to_resume(str(first), tmp_path / "elsewhere") == str(first)
    with pytest.raises(CheckpointError, match=r"Cannot resume from '.*checkpoint-4': there is no such folder"):
        checkpoint_to_resume(str(tmp_path / "checkpoint-4"), tmp_path)
    with pytest.raises(CheckpointError, match="it is a run, not a checkpoint; its last is checkpoint-5"):
        checkpoint_to_resume(str(tmp_path), tmp_path)


def test_a_new_run_does_not_mix_with_another(make, tmp_path):
    assert checkpoint_to_resume(None, tmp_path / "missing") is None
    assert checkpoint_to_resume(None, tmp_path) is None
    (tmp_path / "README.md").write_text("")
    assert checkpoint_to_resume(None, tmp_path) is None
    make(1)
    make(2)
    message = "holds checkpoints, the last checkpoint-2: .*--resume_from_checkpoint True, or give another --output_dir"
    with pytest.raises(CheckpointError, match=message):
        checkpoint_to_resume(None, tmp_path)


def test_a_checkpoint_of_the_model_alone_is_not_resumed(make, tmp_path):
    (make(5) / "optimizer.pt").unlink()
    mark_complete(tmp_path / "checkpoint-5")
    for asked in (True, str(tmp_path / "checkpoint-5")):
        with pytest.raises(CheckpointError, match="it holds the model without the optimizer"):
            checkpoint_to_resume(asked, tmp_path)


def test_what_was_written_last_counts_not_the_highest_step(make, tmp_path):
    """A run that begins anew in the folder of another keeps its own checkpoints, and goes on from them."""
    for step in (9, 10, 1, 2):
        make(step)
    assert find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-2")
    keep_newest(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]


# --- Deleting -----------------------------------------------------------------------------------------------------


def test_keep_newest(make, tmp_path):
    for step in (1, 2, 10, 11):
        make(step)
    make(5, complete=False)
    make(12, complete=False)  # a kill has left it behind
    (tmp_path / "runs").mkdir()
    (tmp_path / "model.safetensors").write_text("")
    keep_newest(tmp_path, None)
    assert len(names(tmp_path)) == 8
    keep_newest(tmp_path, 2)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-11", "model.safetensors", "runs"]
    keep_newest(str(tmp_path), 1)
    assert names(tmp_path) == ["checkpoint-11", "model.safetensors", "runs"]


def test_keep_newest_keeps_the_best(make, tmp_path, monkeypatch):
    for step in (1, 2, 3, 4):
        make(step)
    keep_newest(tmp_path, 2, keep=tmp_path / "checkpoint-1")
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]
    monkeypatch.chdir(tmp_path)
    keep_newest(tmp_path, 1, keep="checkpoint-1")  # however it is written
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-4"]
    keep_newest(tmp_path, 1, keep="checkpoint-4")
    assert names(tmp_path) == ["checkpoint-4"]


# --- Writing ------------------------------------------------------------------------------------------------------

WRITE_ERRORS = [
    OSError(28, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 576 vs 534"),
    RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
]


@pytest.mark.parametrize("error", WRITE_ERRORS, ids=lambda error: type(error).__name__)
def test_half_a_checkpoint_is_removed(make, tmp_path, error):
    last, half = make(1), make(2, complete=False)
    with pytest.raises(CheckpointError) as raised, writing(half, tmp_path):
        raise error
    assert str(raised.value) == (
        f"Cannot write {str(half)!r}: {error}. Is the disk full? Go on from {str(last)!r} with "
        "--resume_from_checkpoint True."
    )
    assert raised.value.__cause__ is error
    assert names(tmp_path) == ["checkpoint-1"]
    assert what_is_missing(last) is None


def test_a_model_that_cannot_be_written_takes_nothing_along(make, tmp_path):
    """Model and checkpoints lie in one folder."""
    make(1)
    (tmp_path / "model.safetensors").write_text("half")
    with (
        pytest.raises(CheckpointError, match=r"No space left.*Go on from '.*checkpoint-1'"),
        writing(tmp_path, tmp_path, is_checkpoint=False),
    ):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == ["checkpoint-1", "model.safetensors"]


def test_the_first_checkpoint_cannot_be_written(make, tmp_path):
    half = make(1, complete=False)
    with pytest.raises(CheckpointError, match="There is no other checkpoint"), writing(half, tmp_path):
        raise OSError(28, "No space left on device")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error: out of memory"), ValueError("wrong"), KeyboardInterrupt()]
)
def test_other_errors_pass(make, tmp_path, error):
    folder = make(1, complete=False)
    with pytest.raises(type(error)) as raised, writing(folder, tmp_path):
        raise error
    assert raised.value is error
    assert names(folder) == ["model.bin", "optimizer.pt", "states"]


def test_nothing_goes_wrong(make, tmp_path):
    with writing(make(1), tmp_path):
        pass
    assert find_last_checkpoint(tmp_path) == str(tmp_path / "checkpoint-1")


# A file may grow to so many bytes, as if the disk were full then; run by itself, since the limit is that of a process
FULL_DISK = """
import resource, signal, sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from ila_hf.training.checkpoints import CheckpointError, checkpoint_folder, mark_complete, unmark, writing


def torch_save(folder):
    torch.save({"weight": weights}, folder / "optimizer.pt")


def torch_save_many(folder):
    torch.save({str(i): weights[:64].clone() for i in range(500)}, folder / "optimizer.pt")


def safetensors(folder):
    save_file({"weight": weights}, folder / "model.safetensors")


def text(folder):
    (folder / "trainer_state.json").write_text("x" * 200_000)


def mark(folder):
    for i in range(300):
        (folder / f"{i:0200}").touch()


output = Path(sys.argv[1])
for job in (torch_save, torch_save_many, safetensors, text, mark):
    weights = torch.zeros(10_000)
    for step in (1, 2):
        folder = checkpoint_folder(output / job.__name__, step)
        folder.mkdir(parents=True)
        if step == 2:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
            weights = torch.zeros(100_000)
        try:
            with writing(folder, folder.parent):
                unmark(folder)
                torch.save({"weight": weights[:10]}, folder / "small.pt")
                if step == 2:
                    job(folder)
                mark_complete(folder)
        except CheckpointError as error:
            print(job.__name__, step, error)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
"""


def test_a_full_disk(tmp_path):
    """torch.save, safetensors, plain files, the mark itself: each leaves the checkpoint before, and a clear word."""
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    jobs = ["torch_save", "torch_save_many", "safetensors", "text", "mark"]
    assert [line.split()[:2] for line in lines] == [[job, "2"] for job in jobs]
    for line, job in zip(lines, jobs, strict=True):
        assert f"Cannot write '{tmp_path / job}/checkpoint-2': " in line
        last = f"{tmp_path / job}/checkpoint-1"
        assert line.endswith(f"Is the disk full? Go on from '{last}' with --resume_from_checkpoint True.")
        assert names(tmp_path / job) == ["checkpoint-1"]
        assert find_last_checkpoint(tmp_path / job) == last


def test_check_writable(tmp_path):
    check_writable(tmp_path / "some" / "folder")
    assert (tmp_path / "some" / "folder").is_dir()
    (tmp_path / "kept.txt").write_text("kept")
    check_writable(str(tmp_path))
    assert names(tmp_path) == ["kept.txt", "some"]  # the probe is gone
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(CheckpointError, match=rf"Cannot write to the output folder '{place}': .*file"):
            check_writable(place)
    assert issubclass(CheckpointError, OSError)
