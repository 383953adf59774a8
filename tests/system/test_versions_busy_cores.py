"""How many threads torch takes beside busy processes; every number of the machine is written by hand."""

import os
import sys
import warnings
from types import SimpleNamespace

import pytest

from intruders.system import versions as module
from intruders.system.versions import leave_busy_cores

ALL_FREE, ONE_BUSY, ALL_BUSY = [3.3, 0.0], [100.0, 0.0], [100.0, 100.0]  # percents of two cores


def told(
    monkeypatch: pytest.MonkeyPatch, percents: list[float] | None, cores: int = 2, **environment: str
) -> tuple[str | None, list[str]]:
    """The threads that torch is left with, and the notes."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    psutil = None if percents is None else SimpleNamespace(cpu_percent=lambda interval, percpu: percents)
    monkeypatch.setitem(sys.modules, "psutil", psutil)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(module, "_physical_cores", lambda: cores)
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        leave_busy_cores()
    return os.environ.get("OMP_NUM_THREADS"), [str(note.message) for note in notes]


def test_beside_a_busy_process_the_free_cores_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, [note] = told(monkeypatch, ONE_BUSY)
    assert threads == "1"
    assert note == (
        "other processes keep 1.0 of 2 cores busy, so this command computes in 1 of 2 threads; "
        "set OMP_NUM_THREADS to choose another number"
    )


@pytest.mark.parametrize(("percents", "cores"), [(ALL_FREE, 2), (ALL_BUSY, 1), ([], 2), (None, 2)])
def test_where_enough_cores_are_free_or_nothing_is_known_torch_decides(
    monkeypatch: pytest.MonkeyPatch, percents: list[float] | None, cores: int
) -> None:
    assert told(monkeypatch, percents, cores) == (None, [])


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_that_the_user_chose_stays_with_a_note(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    threads, [note] = told(monkeypatch, ONE_BUSY, 2, **{name: "2"})
    assert threads == ("2" if name == "OMP_NUM_THREADS" else None)
    assert f"and {name} is 2: threads that share a core wait for each other; set it to 1" in note


@pytest.mark.parametrize("chosen", ["1", "4,2"])
def test_one_thread_never_waits_and_lists_are_not_read(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    assert told(monkeypatch, ALL_BUSY, OMP_NUM_THREADS=chosen) == (chosen, [])


@pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="the system does not say which cores are ours"
)
def test_the_cores_of_this_process_are_found() -> None:
    cores = len(os.sched_getaffinity(0))
    assert 0 <= module._busy_cores() <= cores
    assert 1 <= module._physical_cores() <= cores
