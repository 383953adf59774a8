"""``python -m benchmarks.goals ROW...``: one goal of the coordinates at a time, each against two SVDs in this process.

Rows: smollm2 (a strong random adapter), 1024, 2048 and 4096 (squares with intruders), 7b (Llama-2-7B's shapes, with
intruders and without), scales (the critical scales of SmolLM2 under the strong adapter, against those without a
prepared base) and mix (two 4096 squares and two matrices of TinyLlama-1.1B, half with intruders), whose goals are those
of an audit without a decomposed base. Counts must agree, or the run stops. One thread and processor time: a busy
machine counts for little.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

import intruders
from intruders.audits.audit_settings import Compute
from intruders.engine.decide import decide
from intruders.engine.known_base import KnownBase
from intruders.models.quiet import hush_imports

from .inputs import HOT, MILD, Lora, llm_like, lora, lora_update
from .layers import LLAMA_2_7B
from .machine import this_machine
from .measure import EPSILON, REPEATS, K, require_equal
from .reference import reference_count
from .small_model import RANDOM_ADAPTERS, base_of, random_model, reference_of

Result = TypeVar("Result")
# Times that two SVDs take, over those with the base decomposed.
GOALS = {"smollm2": 40, "1024": 60, "2048": 150, "4096": 500, "7b": 500, "scales": 10}
# Of the mix, those over a cold audit's and over one with base cache; and its matrices, with the updates' strengths.
COLD, CACHED = 30, 60
MIX = ((4096, 4096, MILD), (4096, 4096, HOT), (5632, 2048, MILD), (2048, 5632, HOT))


@dataclass(frozen=True)
class Seconds:
    """Processor seconds of one thread."""

    reference: float  # two SVDs a matrix
    cold: float
    cached: float
    whole: float  # with the base decomposed
    decomposing: float  # the base, once
    intruders: int

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(
            self.reference + other.reference,
            self.cold + other.cold,
            self.cached + other.cached,
            self.whole + other.whole,
            self.decomposing + other.decomposing,
            self.intruders + other.intruders,
        )


def processor_seconds(work: Callable[[], Result], repeats: int = 1) -> tuple[float, Result]:
    """The median of several runs, and the result of the last."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        result = work()
        times.append(time.process_time() - started)
    return median(times), result


def of_matrix(item: Lora) -> Seconds:
    """Judges one matrix in every way."""
    base = item.stack().base

    def judge(known: KnownBase | None) -> Callable[[], tuple[int, KnownBase | None]]:
        def work() -> tuple[int, KnownBase | None]:
            detection = decide(item.stack(), K, EPSILON, known=known)
            return int(detection.intruder.sum()), detection.known

        return work

    cold, (count, known) = processor_seconds(judge(None), REPEATS)
    cached, (again, _) = processor_seconds(judge(known), REPEATS)
    decomposing, whole_base = processor_seconds(lambda: KnownBase.decomposed(base))
    whole, (in_coordinates, _) = processor_seconds(judge(whole_base), REPEATS)
    reference, expected = processor_seconds(lambda: reference_count(item.base, item.tuned(), K, EPSILON))
    counts = {"reference": expected, "cold": count, "cached": again, "decomposed": in_coordinates}
    require_equal(f"{item.base.shape}", counts)
    return Seconds(reference, cold, cached, whole, decomposing, count)


def of_shapes() -> Seconds:
    """Llama-2-7B's three shapes, each with intruders and without."""
    total = Seconds(0, 0, 0, 0, 0, 0)
    for m, n in LLAMA_2_7B:
        base = llm_like(m, n, seed=0)
        for strength in (MILD, HOT):
            total += of_matrix(Lora(base, *lora_update(m, n, strength, seed=1)))
    return total


def of_mix() -> Seconds:
    """Squares of a 7B model and matrices of a 1B model, half with intruders."""
    total = Seconds(0, 0, 0, 0, 0, 0)
    for m, n, strength in MIX:
        total += of_matrix(lora(m, n, strength))
    return total


def of_model() -> Seconds:
    """SmolLM2-135M under the strong adapter, each audit with reading, hashing and the cache on disk."""
    model = random_model(RANDOM_ADAPTERS[1], None)
    with tempfile.TemporaryDirectory() as folder:
        cold, first = processor_seconds(lambda: _audited(model, folder))
        cached, again = processor_seconds(lambda: _audited(model, folder), REPEATS)
    with tempfile.TemporaryDirectory() as folder:
        base, names = base_of(model)
        decomposing, _ = processor_seconds(lambda: intruders.prepare(base, out=folder, include=names))
        whole, in_coordinates = processor_seconds(lambda: _audited(model, folder), REPEATS)
    # The decompositions alone: between two of them the collector of a process with a model takes longer than they do.
    reference, expected = reference_of(model, time.process_time)
    counts = {"reference": expected, "cold": first, "cached": again, "decomposed": in_coordinates}
    require_equal("smollm2", counts)
    return Seconds(reference, cold, cached, whole, decomposing, first)


def _audited(model: nn.Module, folder: str) -> int:
    return intruders.audit(model, cache=folder, device="cpu", workers=1).intruders


def of_scales() -> Seconds:
    """The critical scales of the same model; the reference is a search without a prepared base."""
    model = random_model(RANDOM_ADAPTERS[1], None)

    def search(folder: str) -> Callable[[], int]:
        compute = Compute("cpu", 1, folder)
        return lambda: intruders.critical_scales(model, None, compute=compute).intruders_at_largest

    with tempfile.TemporaryDirectory() as folder:
        cold, first = processor_seconds(search(folder))
        cached, again = processor_seconds(search(folder))
    with tempfile.TemporaryDirectory() as folder:
        base, names = base_of(model)
        decomposing, _ = processor_seconds(lambda: intruders.prepare(base, out=folder, include=names))
        whole, in_coordinates = processor_seconds(search(folder))
    require_equal("scales", {"cold": first, "cached": again, "decomposed": in_coordinates})
    return Seconds(cached, cold, cached, whole, decomposing, first)


def main(rows: list[str]) -> None:
    known = [*GOALS, "mix"]
    unknown = [row for row in rows if row not in known]
    if unknown or not rows:
        sys.exit(f"rows {unknown} are not known; pass some of {', '.join(known)}")
    hush_imports()
    torch.set_num_threads(1)
    of_matrix(lora(300, 300, MILD))  # libraries load
    print(f"{this_machine()}; processor seconds of one thread", flush=True)
    for row in rows:
        print(described(row, of_row(row)), flush=True)


def described(row: str, seconds: Seconds) -> str:
    """A line of what was measured, each way as a ratio, and whether the goal is met."""

    def times(own: float) -> str:
        return f"{own:.3g} s ({seconds.reference / own:.1f}x)"

    against = "base cached" if row == "scales" else "two SVDs"
    if row == "mix":
        is_met = seconds.reference >= max(COLD * seconds.cold, CACHED * seconds.cached)
        goal = f"goals {COLD}x cold and {CACHED}x base cached"
    else:
        is_met = seconds.reference >= GOALS[row] * seconds.whole
        goal = f"goal {GOALS[row]}x base decomposed"
    return (
        f"{row}: {seconds.intruders} intruders; {against} {seconds.reference:.3g} s, cold {times(seconds.cold)}, "
        f"base cached {times(seconds.cached)}, base decomposed {times(seconds.whole)}, "
        f"{goal}: {'met' if is_met else 'missed'}; decomposing {seconds.decomposing:.3g} s"
    )


def of_row(row: str) -> Seconds:
    """Measure one row."""
    if row == "smollm2":
        return of_model()
    if row == "scales":
        return of_scales()
    if row == "mix":
        return of_mix()
    return of_shapes() if row == "7b" else of_matrix(lora(int(row), int(row), HOT))


if __name__ == "__main__":
    main(sys.argv[1:])
