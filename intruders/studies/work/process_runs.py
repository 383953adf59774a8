"""Runs side by side on one machine: processes that take one run after another, and are replaced when killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

import torch

from ...errors import DiskFullError
from ...models.quiet import hush_imports
from ..describe.runs import Run
from .run_record import RunRecord
from .workplace import Workplace

_DONE, _DISK_FULL = "done", "disk full"
_PATIENCE = 10  # seconds for a process to end by itself


def side_by_side(
    runs: Sequence[Run], place: Workplace, jobs: int, on_start: Callable[[Run], None]
) -> Iterator[Run]:
    """Yields every run when it is over, in any order; what kills a process costs its run alone.

    ``on_start`` hears of every run that begins. The cores are shared out between the processes. Raises DiskFullError;
    processes that are at work then, or when the iterator is closed, are ended.
    """
    threads = max(1, torch.get_num_threads() // jobs)
    waiting = list(runs)
    workers: dict[Connection, _Worker] = {}
    try:
        while waiting or any(worker.run for worker in workers.values()):
            while waiting and len(workers) < min(jobs, len(runs)):
                new = _Worker(place, threads)
                workers[new.connection] = new
            for worker in list(workers.values()):
                if worker.run is None and waiting:
                    if not worker.start(waiting[0]):
                        del workers[worker.connection]  # killed while it had nothing to do
                        continue
                    on_start(waiting.pop(0))
            for ready in wait([connection for connection, worker in workers.items() if worker.run]):
                assert isinstance(ready, Connection)
                worker = workers[ready]
                run, worker.run = worker.run, None
                assert run is not None
                try:
                    answer = ready.recv()
                except (EOFError, OSError):
                    del workers[ready]
                    _note_end(worker.process, run, place)
                    answer = _DONE
                if answer == _DISK_FULL:
                    raise DiskFullError(
                        f"no room on the disk of '{place.folder.path}'; what is finished is kept: make room and give "
                        "the same command again"
                    )
                yield run
    finally:
        for worker in workers.values():
            worker.end()


class _Worker:
    """One process, and the run that it is at."""

    def __init__(self, place: Workplace, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_work, args=(theirs, place, threads), daemon=True)
        self.run: Run | None = None
        self.process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def start(self, run: Run) -> bool:
        """Give it a run; False where there is nobody to take it."""
        try:
            self.connection.send(run)
        except OSError:
            self.process.join()
            return False
        self.run = run
        return True

    def end(self) -> None:
        """Let an idle process end by itself; one that is at work is ended, and keeps what it has finished."""
        self.connection.close()
        if self.run is None:
            self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.terminate()
            self.process.join(_PATIENCE)
        if self.process.is_alive():
            self.process.kill()
        self.process.join()


def _work(connection: Any, place: Workplace, threads: int) -> None:
    hush_imports()
    torch.set_num_threads(threads)
    # An end that Python knows of, or semaphores of libraries are left over and warned of.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    try:
        while True:
            run = connection.recv()
            try:
                place.perform(run)
                connection.send(_DONE)
            except DiskFullError:
                connection.send(_DISK_FULL)
    except EOFError:
        return  # the driver is gone, or has no more runs
    except KeyboardInterrupt:
        sys.exit(130)  # the driver got the same Ctrl-C, and says so


def _end_with_the_driver() -> None:
    """A driver that was killed tells nobody; its next call must find the runs free."""
    driver = multiprocessing.parent_process()
    assert driver is not None
    driver.join()
    os._exit(1)


def _note_end(process: SpawnProcess, run: Run, place: Workplace) -> None:
    """Note the failure of a run whose process could not do it itself."""
    process.join()
    if RunRecord(place.folder.run(run.id)).read().get("status") in ("finished", "failed"):
        return
    code = process.exitcode or 0
    how = f"by signal {-code} (9 is often a lack of memory)" if code < 0 else f"with status {code}"
    place.fail(run, f"the process of the run ended {how}; the next call goes on with it")
