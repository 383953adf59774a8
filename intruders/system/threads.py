"""Who works on what: reading ahead in one thread, small stacks side by side in several, large ones one by one."""

import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from itertools import count
from typing import TypeVar, cast

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()
_numbers = count()


def prefetched(items: Iterable[Item]) -> Generator[Item, None, None]:
    """The same items in the same order, each made in another thread before it is asked for.

    An exception of the source is raised here, in its place. When the generator is closed, it waits for the item that is
    being made.
    """
    source = iter(items)
    with _pool(1, "reader") as reader:
        made = reader.submit(next, source, _END)
        while (item := made.result()) is not _END:
            made = reader.submit(next, source, _END)
            yield cast(Item, item)


@contextmanager
def run_side_by_side(
    works: Iterable[Item], do: Callable[[Item], Result], is_small: Callable[[Item], bool], workers: int | None
) -> Iterator[Iterator[Result]]:
    """Return an iterator over ``do`` of every piece of work, in the order given; the next piece is read meanwhile.

    Small pieces go to a pool of ``workers`` threads (as many as torch uses, when None), each with one core: products of
    small matrices gain nothing from more. Others run here, on all cores, once the pool is idle. No thread is left when
    the block ends, however it ends: the traceback of an interrupt would otherwise keep them alive.
    """
    with closing(_results(works, do, is_small, workers)) as results:
        yield results


def _results(
    works: Iterable[Item], do: Callable[[Item], Result], is_small: Callable[[Item], bool], workers: int | None
) -> Generator[Result, None, None]:
    threads = torch.get_num_threads()
    workers = threads if workers is None else workers
    running: deque[Future[Result]] = deque()
    with closing(prefetched(works)) as read, _pool(workers, "worker") as pool:
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
            torch.set_num_threads(threads)


@contextmanager
def _pool(threads: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """Threads with one core each; at the end, what they have not begun is dropped, and none is left.

    The interpreter waits for a pool when it ends, as after Ctrl-C, but not for a thread that was being started when the
    interrupt came. Such a thread would still be inside torch, which then aborts the process.
    """
    prefix = f"{name} of pool {next(_numbers)}"
    pool = ThreadPoolExecutor(threads, prefix, initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        while any(thread.name.startswith(f"{prefix}_") for thread in threading.enumerate()):
            time.sleep(0.01)
