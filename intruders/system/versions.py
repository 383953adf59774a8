"""Versions of what a result depends on, and the machine: its devices, and its cores that are busy.

Two threads of torch that share a core with another process wait for each other at every product.
"""

import os
import platform
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingError
from ..version import __version__

if TYPE_CHECKING:
    import torch

_OF_TRAINING = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "numpy")
_OF_AUDITS = ("torch", "numpy", "safetensors", "transformers", "peft")


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those that training rests on."""
    return {"python": platform.python_version(), "intruders": __version__, **_versions_of(_OF_TRAINING)}


def installed_versions() -> dict[str, str]:
    """Return the versions that a result depends on: this package, its numerical libraries, Python and the platform."""
    return {
        "intruders": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **_versions_of(_OF_AUDITS),
    }


def _versions_of(packages: Sequence[str]) -> dict[str, str]:
    return {package: number for package in packages if (number := _version_of(package)) is not None}


@cache
def _version_of(package: str) -> str | None:
    """Return the version, or None if it is not installed; a fleet asks for each adapter, and parses metadata once."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def available_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, str | int]:
    """Processor, cores available to this process, threads of torch, and the GPU if any."""
    import torch

    processor = platform.processor() or platform.machine()
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
    described: dict[str, str | int] = {
        "system": platform.system(),
        "processor": processor,
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def device_named(name: str) -> "torch.device":
    """Return the device of that name; SettingError if no tensor can be made there."""
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise SettingError(
            f"device '{name}' cannot be used here; expected 'auto', 'cpu'"
            + (" or 'cuda'" if torch.cuda.is_available() else " (no CUDA device was found)")
        ) from None
    return device


_OMP = "OMP_NUM_THREADS"
_MKL = "MKL_NUM_THREADS"
_LOOK = 0.3  # seconds in which the busy cores are counted


def leave_busy_cores() -> None:
    """Let torch, if it is not imported yet, take one thread per free core, and say so where some are busy.

    A number of threads that the user chose stays, with a note if it is too large. Where the system does not tell which
    cores are busy, nothing happens.
    """
    by_user = {_OMP: os.environ.get(_OMP), _MKL: os.environ.get(_MKL)}
    chosen = next((name for name, number in by_user.items() if number), None)
    wanted = str(by_user[chosen] if chosen else _physical_cores())
    if not wanted.isdecimal() or int(wanted) < 2:
        return
    busy = _busy_cores()
    free = max(1, int(available_cores() - busy + 0.5))  # one that is less than half busy counts as free
    if free >= int(wanted):
        return
    told = f"other processes keep {busy:.1f} of {available_cores()} cores busy"
    if chosen:
        how = f"and {chosen} is {wanted}: threads that share a core wait for each other; set it to {free}"
    else:
        os.environ[_OMP] = str(free)
        how = f"so this command computes in {free} of {wanted} threads; set {_OMP} to choose another number"
    warnings.warn(f"{told}, {how}", stacklevel=2)


def _busy_cores() -> float:
    """Return how many of the cores that this process may use are busy; 0 where the system does not tell."""
    try:
        import psutil  # which a training needs, and an audit does not

        percents = psutil.cpu_percent(_LOOK, percpu=True)
        return float(sum(percents[core] for core in os.sched_getaffinity(0))) / 100
    except (ImportError, AttributeError, IndexError, OSError):
        return 0.0


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
