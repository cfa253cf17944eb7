"""Processes that work on files: they end with whoever has asked, however that ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import psutil

from ila_hf.data.worker_processes import map_in_processes, start_fork_server


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
