"""Shows what a training gains from keeping freed memory, and what it holds more.

    python -m benchmarks.kept_memory [PAIRS]

`intruders finetune` trains a rank-8 adapter of SmolLM2-135M for 12 steps, in turns as it is and with the allocator as
glibc sets it (an empty ``GLIBC_TUNABLES`` is a user's own setting, which the command leaves alone, and torch is told
not to ask for large pages). One thread and processor time: a busy machine counts for little.
"""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from .machine import this_machine

_TRAINING = (
    *("finetune", "--base", "smollm2-135m", "--task", "word-problems", "--method", "lora", "--rank", "8"),
    *("--steps", "12", "--batch-size", "8", "--max-eval-samples", "8", "--precision", "bf16"),
)
_WAYS = {"as glibc does": {"GLIBC_TUNABLES": "", "THP_MEM_ALLOC_ENABLE": "0"}, "kept": dict[str, str]()}


@dataclass(frozen=True)
class Cost:
    """Of one process."""

    seconds: float  # of the processor
    faults: int  # pages that were not in memory when they were touched
    peak: float  # GiB


def trained(environment: dict[str, str]) -> Cost:
    """Train once in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "intruders", *_TRAINING, "--out", str(Path(folder) / "run")],
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"intruders finetune ended with status {os.waitstatus_to_exitcode(status)}")
    return Cost(usage.ru_utime + usage.ru_stime, usage.ru_minflt, usage.ru_maxrss / 2**20)


def main(pairs: int) -> None:
    costs: dict[str, list[Cost]] = {way: [] for way in _WAYS}
    for _ in range(pairs):
        for way, environment in _WAYS.items():
            costs[way].append(trained(environment))
    print(f"{this_machine()}; processor seconds of one thread, medians of {pairs}")
    for way, own in costs.items():
        faults, peak = (median(getattr(cost, name) for cost in own) for name in ("faults", "peak"))
        seconds = median(cost.seconds for cost in own)
        print(f"{way}: {seconds:.1f} s, {faults / 1e6:.2f} million page faults, peak {peak:.2f} GiB")
    before, after = (median(cost.seconds for cost in own) for own in costs.values())
    print(f"kept takes {after / before:.2f} of the time")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2)
