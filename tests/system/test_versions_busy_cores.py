"""How many threads torch takes beside busy processes; every number of the machine is written by hand."""

import os
import warnings
from pathlib import Path

import pytest

from intruders.system import versions as module
from intruders.system.versions import busy_cores, leave_busy_cores

# user, nice, system, idle, waiting for a disk, interrupts, soft interrupts, stolen, guest (part of user)
BEFORE = "cpu0 1000 0 100 5000 20 0 0 0 0\ncpu1 2000 0 100 4000 20 0 0 0 0"
ALL_FREE = "cpu0 1001 0 100 5029 20 0 0 0 0\ncpu1 2000 0 100 4020 30 0 0 0 0"
ONE_BUSY = "cpu0 1029 0 101 5000 20 0 0 0 0\ncpu1 2000 0 100 4030 20 0 0 0 0"
ALL_BUSY = "cpu0 1015 5 105 5000 20 0 0 5 15\ncpu1 2030 0 100 4000 20 0 0 0 0"


@pytest.mark.parametrize(("after", "busy"), [(ALL_FREE, 1 / 30), (ONE_BUSY, 1), (ALL_BUSY, 2), (BEFORE, 0)])
def test_the_share_of_time_that_is_not_idle_is_counted_per_core(after: str, busy: float) -> None:
    assert busy_cores(BEFORE, after) == pytest.approx(busy)


def told(
    monkeypatch: pytest.MonkeyPatch, after: str, cores: int = 2, **environment: str
) -> tuple[str | None, list[str]]:
    """The threads that torch is left with, and the notes."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    readings = iter([BEFORE, after])
    monkeypatch.setattr(module, "_times_of_cores", lambda: next(readings))
    monkeypatch.setattr(module, "_physical_cores", lambda: cores)
    monkeypatch.setattr(module, "available_cores", lambda: 2)
    monkeypatch.setattr("time.sleep", lambda seconds: None)
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


@pytest.mark.parametrize(("after", "cores"), [(ALL_FREE, 2), (ALL_BUSY, 1), ("", 2)])
def test_where_enough_cores_are_free_or_nothing_is_known_torch_decides(
    monkeypatch: pytest.MonkeyPatch, after: str, cores: int
) -> None:
    assert told(monkeypatch, after, cores) == (None, [])


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "MKL_NUM_THREADS"])
def test_a_number_that_the_user_chose_stays_with_a_note(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    threads, [note] = told(monkeypatch, ONE_BUSY, 2, **{name: "2"})
    assert threads == ("2" if name == "OMP_NUM_THREADS" else None)
    assert f"and {name} is 2: threads that share a core wait for each other; set it to 1" in note


@pytest.mark.parametrize("chosen", ["1", "4,2"])
def test_one_thread_never_waits_and_lists_are_not_read(monkeypatch: pytest.MonkeyPatch, chosen: str) -> None:
    assert told(monkeypatch, ALL_BUSY, OMP_NUM_THREADS=chosen) == (chosen, [])


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not say which cores are busy")
def test_the_cores_of_this_process_are_found() -> None:
    names = {line.split()[0] for line in module._times_of_cores().splitlines()}
    assert names == {f"cpu{core}" for core in os.sched_getaffinity(0)}
    assert 1 <= module._physical_cores() <= len(names)
