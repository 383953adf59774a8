"""What a time depends on: the machine, its libraries, and how fast it reads a matrix in a thin product."""

import os
import platform
import statistics
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch

from intruders.linalg.operators import Dense

from .measure import timed

# Rows of the block whose product is timed: those of the engine's Krylov method.
ROWS = 4


@dataclass(frozen=True)
class Machine:
    processor: str
    cores: int  # that this process may use
    threads: int  # that torch uses
    memory_bytes: int
    python: str
    torch: str
    peft: str
    intruders: str

    def __str__(self) -> str:
        return (
            f"{self.processor}, {self.cores} cores ({self.threads} torch threads), "
            f"{self.memory_bytes / 2**30:.0f} GiB of memory, Python {self.python}, torch {self.torch}, "
            f"PEFT {self.peft}, intruders {self.intruders}"
        )


def this_machine() -> Machine:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(
        processor=_processor(),
        cores=cores,
        threads=torch.get_num_threads(),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=platform.python_version(),
        torch=torch.__version__,
        peft=version("peft"),
        intruders=version("intruders"),
    )


def read_rate(m: int, n: int) -> float:
    """Bytes of an m x n matrix read in a second by products with thin blocks, one from either side."""
    operator = Dense(torch.randn(m, n))
    left, right = torch.randn(ROWS, m), torch.randn(ROWS, n)
    operator.apply(right), operator.apply_transpose(left)
    seconds = [
        timed(lambda: operator.apply(right))[0] + timed(lambda: operator.apply_transpose(left))[0]
        for _ in range(5)
    ]
    return 2 * operator.matrix.nbytes / statistics.median(seconds)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
