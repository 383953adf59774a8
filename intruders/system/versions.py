"""Versions of what a result depends on, and the machine that it was computed on."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..version import __version__

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
    """Return the versions of those that are installed."""
    installed = {package: _version_of(package) for package in packages}
    return {package: name for package, name in installed.items() if name is not None}


@cache
def _version_of(package: str) -> str | None:
    """Return the version, or None if it is not installed; a fleet asks for each adapter, and parses metadata once."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> dict[str, str | int]:
    """Processor, cores available to this process, threads of torch, and the GPU if any."""
    import torch

    described: dict[str, str | int] = {
        "system": platform.system(),
        "processor": _processor(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
