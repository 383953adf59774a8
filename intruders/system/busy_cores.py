"""Cores that other processes keep busy: two threads of torch that share one wait for each other at every product."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path

from .versions import available_cores

_OMP = "OMP_NUM_THREADS"
_MKL = "MKL_NUM_THREADS"
_WATCHED_SECONDS = 0.3
_IDLE = (3, 4)  # of the times of a core in /proc/stat: idle, and waiting for a disk
_COUNTED = 8  # the times after these are part of the first ones


def leave_busy_cores() -> None:
    """Let torch, if it is not imported yet, take one thread per free core, and say so where some are busy.

    A number of threads that the user chose stays, with a note if it is too large. Where the system does not tell which
    cores are busy, nothing happens.
    """
    by_user = {_OMP: os.environ.get(_OMP), _MKL: os.environ.get(_MKL)}
    chosen, wanted = next(
        ((name, number) for name, number in by_user.items() if number), (None, str(_physical_cores()))
    )
    if not wanted.isdecimal() or int(wanted) < 2:
        return
    before = _times_of_cores()
    time.sleep(_WATCHED_SECONDS)
    busy = busy_cores(before, _times_of_cores())
    free = free_cores(available_cores(), busy)
    if free >= int(wanted):
        return
    told = f"other processes keep {busy:.1f} of {available_cores()} cores busy"
    if chosen:
        warnings.warn(
            f"{told}, and {chosen} is {wanted}: threads that share a core wait for each other; set it to {free}",
            stacklevel=2,
        )
        return
    os.environ[_OMP] = str(free)
    warnings.warn(
        f"{told}, so this command computes in {free} of {wanted} threads; set {_OMP} to choose another number",
        stacklevel=2,
    )


def busy_cores(before: str, after: str) -> float:
    """Return how many cores were busy between two readings of the same lines of ``/proc/stat``.

    >>> busy_cores("cpu0 0 0 0 100 0 0 0 0", "cpu0 6 0 0 102 0 0 0 0")
    0.75
    """
    busy = 0.0
    for earlier, later in zip(before.splitlines(), after.splitlines(), strict=False):
        times = zip(earlier.split()[1 : 1 + _COUNTED], later.split()[1 : 1 + _COUNTED], strict=True)
        passed = [int(end) - int(start) for start, end in times]
        if sum(passed) > 0:
            busy += 1 - sum(passed[index] for index in _IDLE) / sum(passed)
    return busy


def free_cores(cores: int, busy: float) -> int:
    """Return how many cores are free, at least one; a core that is less than half busy counts as free.

    >>> free_cores(2, 0.4), free_cores(2, 0.9), free_cores(2, 2.0), free_cores(64, 20.2)
    (2, 1, 1, 44)
    """
    return max(1, int(cores - busy + 0.5))


def _times_of_cores() -> str:
    """Return the lines of ``/proc/stat`` of the cores that this process may use; nothing where there are none."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
        names = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    except (AttributeError, OSError):
        return ""
    return "\n".join(line for line in lines if line.split(" ", 1)[0] in names)


def _physical_cores() -> int:
    """Return how many threads torch takes by itself: it leaves the second thread of a core alone."""
    try:
        siblings = {
            Path(f"/sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list").read_text()
            for core in os.sched_getaffinity(0)
        }
    except (AttributeError, OSError):
        return available_cores()
    return len(siblings)
