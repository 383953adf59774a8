"""What the weights of a model need in memory and what there is, before they are loaded."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

import torch

from ..checkpoints.formats.safetensors import read_header
from ..checkpoints.opening.named_base import known_here
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

    weights: int  # numbers
    dtype: str  # "bfloat16", or "4bit"
    needed: int  # bytes, with what a short pass takes
    available: int  # bytes
    limit: str | None = None  # of the shell, where that is the tightest: "ulimit -v"

    @property
    def fits(self) -> bool:
        return self.needed <= self.available

    def words(self) -> str:
        """Return the plan as a part of a line."""
        return (
            f"{self.weights / 1e6:,.0f} million weights in {self.dtype}: {self.needed / _GIB:.1f} GiB of "
            f"{self.available / _GIB:.1f} GiB {f'left by {self.limit}' if self.limit else 'available'}"
        )


def memory_plan(location: str, loading: Loading) -> MemoryPlan | None:
    """Return the plan for the model at ``location``; None if its files are not on this machine or not safetensors."""
    files = sorted(Path(known_here(location) or location).glob("*.safetensors"))
    # Without maps, which need memory.
    entries = [entry for file in files for entry in read_header(file, mapped=False).values()]
    floats = [entry for entry in entries if entry.dtype in _FLOATS]
    weights = sum(prod(entry.shape) for entry in floats)
    if weights == 0:
        return None
    stored = sum(entry.end - entry.begin for entry in floats)
    others = sum(entry.end - entry.begin for entry in entries) - stored
    dtype = loading.load_in or dtype_name(dtype_to_load(location, loading))
    written = int(weights * (_QUANTIZED.get(dtype) or getattr(torch, dtype).itemsize))
    device = loading.torch_device()
    needed = written + others + _BESIDE
    plans = [MemoryPlan(weights, dtype, needed, available_memory(device))]
    # All files stay mapped until the last weight is read. Weights in the type of the file stay in its map, and others
    # are written beside it.
    mapped = [file.stat().st_size for file in files]
    beside = 0 if written == stored else written
    for limit, opening, room in _rooms_of_shell() if device.type == "cpu" else ():
        needed = sum(mapped) + max(beside, max(mapped) if opening else 0) + _BESIDE
        plans.append(MemoryPlan(weights, dtype, needed, room, limit))
    return min(plans, key=lambda plan: plan.available - plan.needed)


def require_memory(location: str, loading: Loading) -> None:
    """Refuse a model whose weights do not fit in memory, before any is loaded, by a NotEnoughMemoryError."""
    if loading.device_map is not None:  # accelerate puts what does not fit elsewhere
        return
    plan = memory_plan(location, loading)
    if plan is None or plan.fits:
        return
    others = {
        "--dtype bfloat16": replace(loading, dtype="bfloat16", load_in=None),
        "where the command has it --load-in 8bit": replace(loading, load_in="8bit"),
        "where the command has it --load-in 4bit": replace(loading, load_in="4bit"),
    }
    smaller = [
        f"{option} ({less.needed / _GIB:.1f} GiB)"
        for option, other in others.items()
        if (less := memory_plan(location, other)) and less.fits and less.needed < plan.needed
    ]
    if smaller:
        way = f"pass {' or '.join(smaller)}"
    elif plan.limit is not None:
        way = f"raise {plan.limit}, or use a smaller model"
    else:
        way = "pass --device-map auto, or use a machine with more memory"
    raise NotEnoughMemoryError(f"'{location}' does not fit in memory: {plan.words()}; {way}")


def available_memory(device: torch.device) -> int:
    """Return the bytes that this process may still take: of a card, or of the machine and its cgroups."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    rooms = [int(psutil.virtual_memory().available), *_rooms_of_cgroups()]
    return max(0, min(rooms))


def _rooms_of_shell() -> Iterator[tuple[str, bool, int]]:
    # Limits that are set, whether each counts maps for reading, and the bytes that it leaves. They count addresses and
    # not memory. safetensors maps a file to read its header, and torch maps it again for its weights before the first
    # map ends. The second is private and writable, so that the limit of data counts it too.
    import psutil

    if not hasattr(psutil.Process, "rlimit"):
        return
    process = psutil.Process()
    own = process.memory_info()
    for name, opening, limit, taken in (
        ("ulimit -v", True, psutil.RLIMIT_AS, own.vms),
        ("ulimit -d", False, psutil.RLIMIT_DATA, own.data),
    ):
        most = process.rlimit(limit)[0]
        if most != psutil.RLIM_INFINITY:
            yield name, opening, max(0, most - taken)


def _rooms_of_cgroups() -> Iterator[int]:
    # What is left in every cgroup of this process that has a limit, of version 1 and 2.
    file = Path("/proc/self/cgroup")
    for line in file.read_text().splitlines() if file.exists() else ():
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
        with suppress(OSError, ValueError):  # no such file, or "max"
            room = int((folder / limit).read_text()) - int((folder / taken).read_text())
            with suppress(OSError):  # the kernel drops files first that it has read
                lines = (folder / "memory.stat").read_text().splitlines()
                counts = {name: int(value) for name, value in (line.split() for line in lines)}
                room += counts.get("total_inactive_file", counts.get("inactive_file", 0))
            return room
    return None
