"""Who works on what changes nothing but the time: order, answers, errors and interrupts are those of one thread."""

import itertools
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from intruders.system.threads import prefetched, run_side_by_side


def side_by_side(*arguments: Any, **named: Any) -> list[Any]:
    with run_side_by_side(*arguments, **named) as results:
        return list(results)


def reader_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("reader")}


@pytest.fixture(autouse=True)
def _no_reader_is_left() -> Iterator[None]:
    before = reader_threads()
    yield
    deadline = time.monotonic() + 5
    while reader_threads() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert reader_threads() - before == set()


@pytest.mark.parametrize("error", [ValueError("bad"), MemoryError("full"), KeyboardInterrupt()])
def test_an_error_of_the_source_comes_in_its_place(error: BaseException) -> None:
    def items() -> Iterator[int | None]:
        yield from (1, None)
        raise error

    seen: list[int | None] = []
    with pytest.raises(type(error)) as raised:
        seen.extend(prefetched(items()))
    assert raised.value is error
    assert seen == [1, None]


def test_leaving_early_stops_the_reader() -> None:
    before, made, ended = reader_threads(), [], []

    def endless() -> Iterator[int]:
        try:
            for number in itertools.count():
                made.append(number)
                yield number
        finally:
            ended.append(True)

    source = endless()
    stream = prefetched(source)
    assert next(stream) == 0
    assert len(reader_threads() - before) == 1
    stream.close()
    assert reader_threads() - before == set()
    assert made in ([0], [0, 1])  # one in hand, and at most one in the making
    assert ended == []  # the source is its owner's, who may go on with it
    assert next(source) == len(made) - 1


def test_none_is_left_of_a_pool_that_was_interrupted_in_a_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C may come. The pool does not know that thread, and nothing would wait for it when the process ends."""
    before = set(threading.enumerate())
    start, done = threading.Thread.start, []

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.startswith("worker"):
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        side_by_side(range(9), lambda work: (time.sleep(0.2), done.append(work)), lambda _: True, 2)
    assert set(threading.enumerate()) == before
    assert len(done) <= 1


def test_an_interpreter_that_ends_while_the_reader_reads_is_not_aborted() -> None:
    """As after Ctrl-C, where the traceback keeps the audit's frames; torch aborts a process with threads in it."""
    script = """
import torch
from intruders import audit

class Base(dict):
    def __getitem__(self, name):
        for _ in range(300):
            torch.linalg.svd(torch.randn(60, 60))
        return super().__getitem__(name)

def interrupt(*_):
    raise KeyboardInterrupt

base = {f"{number}.weight": torch.randn(40, 40) for number in range(9)}
tuned = {name: matrix + 0.1 * torch.randn(40, 40) for name, matrix in base.items()}
audit(Base(base), tuned, progress=interrupt)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=120)
    said = ended.stderr.decode()
    assert ended.returncode == -signal.SIGINT, said
    assert said.splitlines()[-1] == "KeyboardInterrupt"


@pytest.mark.parametrize("workers", [None, 1, 2, 5])
def test_results_come_in_the_order_of_the_work(workers: int | None) -> None:
    def slow_first(work: int) -> int:
        time.sleep(0.01 * (work % 3 == 0))
        return work * work

    done = side_by_side(range(20), slow_first, lambda work: work % 4 != 1, workers)
    assert done == [work * work for work in range(20)]


def test_small_work_runs_side_by_side_on_one_core_each_and_large_work_alone() -> None:
    before = torch.get_num_threads()
    running: list[int] = []
    seen: dict[int, tuple[bool, int, list[int]]] = {}
    together = threading.Barrier(2, timeout=20)

    def do(work: int) -> int:
        running.append(work)
        if work in (0, 1):
            together.wait()  # only passes when two are at work at once
        seen[work] = (threading.current_thread() is main, torch.get_num_threads(), list(running))
        running.remove(work)
        return work

    main = threading.current_thread()
    assert side_by_side([0, 1, 2, 3, 4], do, lambda work: work != 2, workers=2) == [0, 1, 2, 3, 4]
    assert seen[2] == (True, before, [2])
    assert [seen[work][:2] for work in (0, 1, 3, 4)] == [(False, 1)] * 4
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("is_small", [True, False])
def test_an_error_of_the_work_is_raised_and_threads_are_given_back(is_small: bool) -> None:
    before, alive = torch.get_num_threads(), threading.active_count()

    def do(work: int) -> int:
        if work == 3:
            raise ValueError("third")
        return work

    with pytest.raises(ValueError, match="third"):
        side_by_side(range(100), do, lambda _: is_small, workers=2)
    assert torch.get_num_threads() == before
    assert threading.active_count() == alive
