"""Work side by side on one machine: processes that take one item after another, and are replaced when killed."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

import torch

from ..errors import IntrudersError
from .notes import show_warnings_as_notes
from .this_process import ExitStatus, keep_freed_memory

_PATIENCE = 10  # seconds for a process to end by itself

Item = TypeVar("Item")


def map_in_processes(
    items: Sequence[Item],
    do: Callable[[Item], object],
    processes: int,
    *,
    on_start: Callable[[Item], None] = lambda item: None,
    on_lost: Callable[[Item, str], None] = lambda item, how: None,
) -> Iterator[Item]:
    """Call ``do`` on every item in a number of processes; yield each item when it is over, in any order.

    What kills a process costs its item alone. The cores are shared out between the processes. Items and ``do`` must
    pickle. ``on_start`` is called here with every item that begins, and ``on_lost`` with an item whose process ended
    before it was over, and how ("by signal 9 ..."). An IntrudersError of ``do`` is raised here. Processes that are at
    work then, or when the iterator is closed, are ended.
    """
    threads = max(1, torch.get_num_threads() // processes)
    waiting = list(items)
    workers: dict[Connection, _Worker[Item]] = {}
    try:
        while waiting or any(worker.item is not None for worker in workers.values()):
            while waiting and len(workers) < min(processes, len(items)):
                new = _Worker(do, threads)
                workers[new.connection] = new
            for worker in list(workers.values()):
                if worker.item is None and waiting:
                    if not worker.start(waiting[0]):
                        del workers[worker.connection]  # killed while it had nothing to do
                        continue
                    on_start(waiting.pop(0))
            at_work = [connection for connection, worker in workers.items() if worker.item is not None]
            for ready in wait(at_work):
                worker = workers[ready]  # type: ignore[index]  # of pipes alone, wait gives connections
                item, worker.item = worker.item, None
                assert item is not None
                try:
                    error = worker.connection.recv()
                except (EOFError, OSError):
                    del workers[worker.connection]
                    on_lost(item, worker.how_it_ended())
                    error = None
                if error is not None:
                    raise error
                yield item
    finally:
        for worker in workers.values():
            worker.end()


class _Worker(Generic[Item]):
    """One process, and the item that it is at."""

    def __init__(self, do: Callable[[Item], object], threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
        self.connection, theirs = context.Pipe()
        self.item: Item | None = None
        self._process: SpawnProcess = context.Process(target=_work, args=(theirs, do, threads), daemon=True)
        self._process.start()
        theirs.close()  # so that the end of the process is the end of the pipe

    def start(self, item: Item) -> bool:
        """Give it an item; False where there is nobody to take it."""
        try:
            self.connection.send(item)
        except OSError:
            self._process.join()
            return False
        self.item = item
        return True

    def how_it_ended(self) -> str:
        """Return the signal or the status with which a process ended whose pipe is closed."""
        self._process.join()
        code = self._process.exitcode or 0
        return f"by signal {-code} (9 is often a lack of memory)" if code < 0 else f"with status {code}"

    def end(self) -> None:
        """Let an idle process end by itself; one that is at work is ended, and keeps what it has finished."""
        self.connection.close()
        if self.item is not None:
            self._process.terminate()
        self._process.join(_PATIENCE)
        self._process.kill()  # one that has not ended
        self._process.join()


def _work(connection: Any, do: Callable[[Any], object], threads: int) -> None:
    torch.set_num_threads(threads)
    keep_freed_memory()
    show_warnings_as_notes()
    # An end that Python knows of, or semaphores of libraries are left over and warned of.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    threading.Thread(target=_end_with_the_driver, daemon=True).start()
    try:
        while True:
            item = connection.recv()
            try:
                do(item)
                connection.send(None)
            except IntrudersError as error:
                connection.send(error)
    except EOFError:
        return  # the driver is gone, or has no more items
    except KeyboardInterrupt:
        sys.exit(ExitStatus.INTERRUPTED)  # the driver got the same Ctrl-C, and says so


def _end_with_the_driver() -> None:
    """A driver that was killed tells nobody; its next call must find the work free."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
    os._exit(1)
