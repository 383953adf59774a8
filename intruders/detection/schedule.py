"""Who works on what: reading ahead in one thread, small stacks side by side in several, large ones one by one."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

# Seconds that the last item may take to read, once nobody waits for it.
_LAST_ITEM = 10.0

Item = TypeVar("Item")
Result = TypeVar("Result")


def prefetched(items: Iterable[Item], ahead: int = 1) -> Iterator[Item]:
    """The same items in the same order, made in another thread up to ``ahead`` before they are asked for.

    An exception of the source is raised here, in its place. Leaving the loop early stops the other thread.
    """
    ready: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def offer(kind: str, value: Item | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def produce() -> None:
        try:
            for item in items:
                if not offer("item", item):
                    return
            offer("end", None)
        except BaseException as error:
            offer("error", error)

    reader = threading.Thread(target=produce, daemon=True, name="reader")
    reader.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error" and isinstance(value, BaseException):
                raise value
            yield value  # type: ignore[misc]
    finally:
        stopped.set()
        # A thread that is inside torch when the interpreter ends (Ctrl-C) takes the process down with it.
        reader.join(_LAST_ITEM)


def run_side_by_side(
    works: Iterable[Item], do: Callable[[Item], Result], is_small: Callable[[Item], bool], workers: int | None
) -> Iterator[Result]:
    """Yields ``do`` of every piece of work, in the order given.

    Small pieces go to a pool of ``workers`` threads (as many as torch uses, when None), each with one core: products of
    small matrices gain nothing from more. Others run here, on all cores, once the pool is idle.
    """
    threads = torch.get_num_threads()
    workers = threads if workers is None else workers
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        try:
            for work in works:
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
