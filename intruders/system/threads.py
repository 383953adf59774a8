"""Who works on what: reading ahead in one thread, small stacks side by side in several, large ones one by one."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import torch

# Seconds that the last item may take to read, once nobody waits for it.
_LAST_ITEM = 10.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(items: Iterable[Item], ahead: int = 1) -> Generator[Item, None, None]:
    """The same items in the same order, made in another thread up to ``ahead`` before they are asked for.

    An exception of the source is raised here, in its place. The other thread stops when the generator is closed.
    """
    ready: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue()
    # Taken before an item is made, not once it is there: nothing waits in memory beyond what was asked for.
    room = threading.Semaphore(ahead)
    stopped = threading.Event()

    def wait_for_room() -> bool:
        while not stopped.is_set():
            if room.acquire(timeout=0.1):
                return True
        return False

    def produce() -> None:
        # With more, each of its calls would wait for cores that are computing, and spin on them meanwhile.
        torch.set_num_threads(1)
        try:
            source = iter(items)
            while wait_for_room():
                ready.put(("item", next(source)))
        except StopIteration:
            ready.put(("end", None))
        except BaseException as error:
            ready.put(("error", error))

    reader = threading.Thread(target=produce, daemon=True, name="reader")
    reader.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error" and isinstance(value, BaseException):
                raise value
            room.release()
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        # A thread that is inside torch when the interpreter ends (Ctrl-C) takes the process down with it.
        reader.join(_LAST_ITEM)


def run_side_by_side(
    works: Iterable[Item], do: Callable[[Item], Result], is_small: Callable[[Item], bool], workers: int | None
) -> Iterator[Result]:
    """Yields ``do`` of every piece of work, in the order given; the next piece is read meanwhile.

    Small pieces go to a pool of ``workers`` threads (as many as torch uses, when None), each with one core: products of
    small matrices gain nothing from more. Others run here, on all cores, once the pool is idle.
    """
    threads = torch.get_num_threads()
    workers = threads if workers is None else workers
    running: deque[Future[Result]] = deque()
    # Closed in any case: the traceback of an interrupt would keep the reader alive.
    with (
        closing(prefetched(works)) as read,
        ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        try:
            for work in read:
                if is_small(work):
                    running.append(pool.submit(do, work))
                    if len(running) >= 2 * workers:
                        yield running.popleft().result()
                    continue
                while running:
                    yield running.popleft().result()
                torch.set_num_threads(threads)  # a thread of the pool may have changed what this one inherits
                yield do(work)
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
            torch.set_num_threads(threads)
