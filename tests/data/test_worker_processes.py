"""Processes that work on files: they end with whoever has asked, however that ends."""

import itertools
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest

from ila_hf.data import worker_processes
from ila_hf.data.worker_processes import WorkerError, map_in_processes, start_fork_server


SCRIPT = """
import os, sys, time
from pathlib import Path
from ila_hf.data.worker_processes import map_in_processes

def hang(folder):
    Path(folder, "pid.part").write_text(str(os.getpid()))
    os.replace(Path(folder, "pid.part"), Path(folder, "pid"))
    while True:
        time.sleep(1)

if __name__ == "__main__":
    list(map_in_processes(hang, [sys.argv[1]], 1))
"""


def test_a_worker_that_hangs_ends_with_its_parent(tmp_path):
    """Killed, so that it cannot stop its workers."""
    (tmp_path / "script.py").write_text(SCRIPT)
    with subprocess.Popen([sys.executable, str(tmp_path / "script.py"), str(tmp_path)]) as process:
        limit = time.monotonic() + 120
        while not (tmp_path / "pid").exists():
            assert time.monotonic() < limit
            assert process.poll() is None
            time.sleep(0.05)
        worker = psutil.Process(int((tmp_path / "pid").read_text()))
        os.kill(process.pid, signal.SIGKILL)
    assert psutil.wait_procs([worker], timeout=30)[1] == []


def test_another_thread_ends_them(tmp_path):
    ended = threading.Event()
    threading.Timer(1, ended.set).start()
    started = time.monotonic()
    assert list(map_in_processes(time.sleep, [600], 1, ended=ended)) == []
    assert time.monotonic() - started < 300


def test_a_fork_server_that_has_begun(tmp_path):
    """What it has imported changes nothing."""
    start_fork_server("ila_hf.inference.clip_of_file")
    assert sorted(map_in_processes(len, ["a", "bcd"], 2)) == [(0, 1), (1, 3)]


@pytest.fixture
def die(monkeypatch):
    """Let some of the processes, by the order in which they are made, end before they have begun."""

    def choose(numbers, seconds=0.0):
        made = itertools.count()

        class Worker(worker_processes._Worker):
            def __init__(self, *arguments):
                super().__init__(*arguments)
                if next(made) in numbers:
                    self.process.kill()
                    self.connection, other = multiprocessing.Pipe()
                    threading.Timer(seconds, other.close).start()

        monkeypatch.setattr(worker_processes, "_Worker", Worker)

    return choose


def exit_or_sleep(item):
    if item == "exit":
        os._exit(1)
    time.sleep(1.5)
    return item


def test_nobody_is_replaced_where_nothing_is_left_to_do(die):
    """That of the first, which exits, does not start; meanwhile the second has taken what was left."""
    die(range(2, 100), seconds=2)
    found = dict(map_in_processes(exit_or_sleep, ["exit", "sleep", "sleep"], 2))
    assert isinstance(found.pop(0), WorkerError)
    assert found == {1: "sleep", 2: "sleep"}


@pytest.mark.parametrize("failures", [3, 4])
def test_one_that_is_replaced_may_fail_to_start(die, failures):
    """As where memory is short for a moment."""
    die(range(1, 1 + failures))
    found = map_in_processes(os._exit, [1, 1], 1)
    number, error = next(found)
    assert (number, type(error)) == (0, WorkerError)
    if failures == 3:
        assert [number for number, _ in found] == [1]
    else:
        with pytest.raises(RuntimeError, match="replaced 4 times and did not start: is there enough memory"):
            next(found)
