"""What the weights of a model need in memory and what there is, before they are loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch

from ..errors import NotEnoughMemoryError
from .loading_settings import Loading
from .stored_dtype import dtype_name, dtype_to_load

_FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}
_GIB = 2**30

# What a pass over one short window needs beside the weights, and torch for its own buffers.
_BESIDE = 2**28
# Bytes of a weight in 4 and 8 bits, with the scale of every block.
_QUANTIZED = {"4bit": 0.56, "8bit": 1.06}


@dataclass(frozen=True)
class MemoryPlan:
    """The memory of one model."""

    location: str
    weights: int  # numbers
    dtype: str  # "bfloat16", or "4bit"
    needed: int  # bytes, with what a short pass takes
    available: int  # bytes

    @property
    def fits(self) -> bool:
        return self.needed <= self.available

    def words(self) -> str:
        """Return the plan as a part of a line."""
        return (
            f"{self.weights / 1e6:,.0f} million weights in {self.dtype}: {self.needed / _GIB:.1f} GiB of "
            f"{self.available / _GIB:.1f} GiB available"
        )


def memory_plan(location: str, loading: Loading) -> MemoryPlan | None:
    """Return the plan for the model at ``location``; None if its files are not on this machine or not safetensors."""
    weights, others = _counted(location)
    if weights == 0:
        return None
    dtype = loading.load_in or dtype_name(dtype_to_load(location, loading))
    each = _QUANTIZED.get(dtype) or getattr(torch, dtype).itemsize
    return MemoryPlan(
        location,
        weights,
        dtype,
        int(weights * each) + others + _BESIDE,
        available_memory(loading.torch_device()),
    )


def require_memory(location: str, loading: Loading) -> None:
    """Refuse a model whose weights do not fit in memory, before any is loaded.

    Raises:
      NotEnoughMemoryError: the weights need more than there is.
    """
    if loading.device_map is not None:  # accelerate puts what does not fit elsewhere
        return
    plan = memory_plan(location, loading)
    if plan is None or plan.fits:
        return
    smaller = [
        f"{option} ({(plan.weights * each + _BESIDE) / _GIB:.1f} GiB)"
        for option, each in (("--dtype bfloat16", 2), ("--load-in 8bit", 1.06), ("--load-in 4bit", 0.56))
        if plan.weights * each + _BESIDE <= plan.available and plan.weights * each + _BESIDE < plan.needed
    ]
    way = (
        f"pass {' or '.join(smaller)}"
        if smaller
        else "pass --device-map auto, or use a machine with more memory"
    )
    raise NotEnoughMemoryError(f"'{location}' does not fit in memory: {plan.words()}; {way}")


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take: of a card, or of the machine, its cgroups and ``ulimit``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    rooms = [int(psutil.virtual_memory().available), *_rooms_of_cgroups(Path("/proc/self/cgroup"))]
    if hasattr(psutil.Process, "rlimit"):
        import resource

        own = psutil.Process().memory_info()
        for limit, taken in ((resource.RLIMIT_AS, own.vms), (resource.RLIMIT_DATA, getattr(own, "data", 0))):
            most = resource.getrlimit(limit)[0]
            if most != resource.RLIM_INFINITY:
                rooms.append(most - taken)
    return max(0, min(rooms))


def _rooms_of_cgroups(file: Path) -> Iterator[int]:
    """Yield what is left in every cgroup of this process that has a limit, of version 1 and 2."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers not in ("", "memory"):
            continue
        root = Path("/sys/fs/cgroup") / controllers
        own = root / path.lstrip("/")
        for folder in (own, *own.parents):
            room = room_of_cgroup(folder)
            if room is not None:
                yield room
            if folder == root:
                break


def room_of_cgroup(folder: Path) -> int | None:
    """Return the bytes that the processes of a cgroup may still take; None if it has no limit."""
    for limit, taken in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        numbers = _number(folder / limit), _number(folder / taken)
        if numbers[0] is not None and numbers[1] is not None:
            return numbers[0] - numbers[1] + _reclaimable(folder)
    return None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):  # no such file, or "max"
        return None


def _reclaimable(folder: Path) -> int:
    """Return the bytes of files that the kernel has read and drops first."""
    try:
        lines = (folder / "memory.stat").read_text().splitlines()
    except OSError:
        return 0
    counts = {name: int(value) for name, value in (line.split() for line in lines)}
    return counts.get("total_inactive_file", counts.get("inactive_file", 0))


def _counted(location: str) -> tuple[int, int]:
    """Return the number of weights in the safetensors files at ``location``, and the bytes of other tensors."""
    from safetensors import safe_open

    folder = _folder(location)
    weights, others = 0, 0
    for file in sorted(folder.glob("*.safetensors")) if folder is not None else []:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it is no mapping)
                part = opened.get_slice(name)
                if part.get_dtype() in _FLOATS:
                    weights += prod(part.get_shape())
                else:
                    others += prod(part.get_shape())
    return weights, others


def _folder(location: str) -> Path | None:
    if os.path.isdir(location):
        return Path(location)
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(location, local_files_only=True))
    except Exception:  # not downloaded yet: transformers says whatever there is to say
        return None
