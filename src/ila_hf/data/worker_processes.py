# Copyright 2026 The ila_hf authors. Licensed under the Apache License, Version 2.0; see the file LICENSE.
"""Work on files in processes, where a file that kills or stops its process costs no other file anything."""

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any


# Seconds that a worker gets to start, and beyond the limit of an item to notice it
_START, _GRACE = 300.0, 60.0
# How often one that has to be replaced may fail to start, one after the other
_STARTS = 3
# Seconds to wait for the end of one that is killed: what hangs in the system does not end
_LAST = 10.0


class WorkerError(Exception):
    """What became of an item whose process died, or was stopped because it took too long."""


def map_in_processes(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    num_workers: int,
    seconds: float | None = None,
    ended: threading.Event | None = None,
) -> Iterator[tuple[int, Any]]:
    """Call a function for every item, one at a time in each process.

    Args:
        function: Can be pickled, and so can its results, sooner than tensors: arrays. It raises nothing.
        items: Given to the processes one by one, in their order.
        num_workers: Processes, at least 1.
        seconds: What an item may take before its process is stopped, and a minute beyond. None: any time.
        ended: Once it is set, by another thread, the processes are stopped within a second, whatever they work on.

    Returns:
        The number of each item and its result, as they are done; of one that cost its process, a [`WorkerError`].

    Raises:
        ValueError: For fewer than one process.
        RuntimeError: If processes do not start: the first, or four in the place of one that is gone.
    """
    if num_workers < 1:
        raise ValueError(f"`num_workers` must be at least 1, got {num_workers}.")
    return _map(function, items, num_workers, seconds, ended or threading.Event())


def _map(
    function: Callable[[Any], Any],
    items: Sequence[Any],
    num_workers: int,
    seconds: float | None,
    ended: threading.Event,
) -> Iterator[tuple[int, Any]]:
    todo = deque(enumerate(items))
    workers = [_Worker(function, seconds) for _ in range(min(num_workers, len(todo)))]
    has_begun, failed_starts = False, 0
    try:
        while workers and not ended.is_set():
            wait([worker.connection for worker in workers], timeout=1)
            for worker in list(workers):
                result: tuple[int, Any] | None = None
                try:
                    if not worker.connection.poll():
                        if not worker.is_late():
                            continue
                        raise TimeoutError
                    found = worker.connection.recv()
                    has_begun, failed_starts = True, 0
                    if worker.index is not None:
                        result = worker.index, found
                except (EOFError, OSError, TimeoutError) as failure:
                    workers.remove(worker)
                    worker.stop()
                    if worker.index is None:
                        failed_starts += 1
                        if has_begun and (not todo or failed_starts <= _STARTS):  # memory was short, or the like
                            workers += [_Worker(function, seconds)] if todo else []
                            continue
                        raise RuntimeError(
                            "The worker processes do not start. They import the main script: what it does must stand "
                            'under `if __name__ == "__main__":`.'
                            if not has_begun
                            else f"A worker process was replaced {failed_starts} times and did not start: is there "
                            "enough memory?"
                        ) from failure
                    is_late = isinstance(failure, TimeoutError)
                    result = worker.index, WorkerError("it takes too long" if is_late else "its decoder crashes")
                    if todo:
                        workers.append(_Worker(function, seconds))
                else:
                    if todo:
                        worker.give(*todo.popleft())
                    else:
                        workers.remove(worker)
                        worker.stop()
                if result is not None:
                    yield result
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A process that works on one item at a time."""

    def __init__(self, function: Callable[[Any], Any], seconds: float | None):
        self.seconds, self.since = seconds, time.monotonic()
        self.index: int | None = None  # of the item in work
        context = _context(function)
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_work, args=(other, function), daemon=True)
        self.process.start()
        other.close()

    def give(self, index: int, item: Any) -> None:
        self.index, self.since = index, time.monotonic()
        with suppress(OSError):  # that it has died meanwhile shows where its answer is read
            self.connection.send(item)

    def is_late(self) -> bool:
        limit = _START if self.index is None else None if self.seconds is None else self.seconds + _GRACE
        return limit is not None and time.monotonic() - self.since > limit

    def stop(self) -> None:
        self.process.kill()
        self.process.join(_LAST)
        self.connection.close()


def _context(function: Callable[[Any], Any]) -> Any:
    """How processes start: not as copies of this one, whose threads and decoders must not be forked.

    Where there are fork servers, all are copies of a process that has only imported what the function needs.
    """
    while isinstance(function, partial):
        function = function.func
    return _context_with(getattr(function, "__module__", type(function).__module__))


def _context_with(module: str) -> Any:
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def start_fork_server(module: str) -> None:
    """Have the process begin to import, of which later ones are copies, while this one imports and loads, too.

    Args:
        module: Where the function is that [`map_in_processes`] will get.
    """
    if _context_with(module).get_start_method() == "forkserver":
        from multiprocessing import forkserver  # not on all systems

        forkserver.ensure_running()


def _end_with_parent() -> None:
    """Whoever asked may be killed while an item hangs, and then nobody is left to stop it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(connection: Connection, function: Callable[[Any], Any]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asked decides what ends
    import torch  # not above, so that who asks for workers need not wait for it

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # there are other workers, and a model
    connection.send(None)  # ready
    with suppress(EOFError, OSError):  # whoever asked is gone
        while True:
            connection.send(function(connection.recv()))
