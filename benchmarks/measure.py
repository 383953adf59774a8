"""One row of the table: the same matrices judged by the reference, by PEFT and by the engine, in one process."""

import gc
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from intruders.engine.decide import decide
from intruders.engine.decisions import Decisions
from intruders.engine.known_base import KnownBase

from .counting import counted_products
from .inputs import Lora
from .reference import peft_counts, peft_model_of, reference_count

Result = TypeVar("Result")

K, EPSILON = 10, 0.5
# The engine is run this often and the median taken; the others take long enough to be run once.
REPEATS = 3


class CountsDifferError(Exception):
    """Two ways to count intruders disagree on the same matrices: no time of such a run means anything."""


@dataclass(frozen=True)
class Cost:
    """What one run of the engine took."""

    seconds: float
    passes: float  # over the weights judged
    rows: float  # multiplied in these passes
    factorizations: int  # Cholesky, on top of the passes


@dataclass(frozen=True)
class Row:
    """One line of the table; a time is None where that was not run."""

    section: str
    label: str
    shape: tuple[int, int] | None  # of the one matrix judged; None for several
    elements: int  # of all matrices judged
    vectors: int
    intruders: int
    reference: float | None
    peft: float | None
    cold: Cost
    cached: Cost
    whole: Cost | None = None  # the engine, with the base decomposed
    decomposing: float | None = None  # the bases, once
    certificates: dict[str, int] = field(default_factory=dict)
    note: str = ""


def timed(work: Callable[[], Result], clock: Callable[[], float] = time.perf_counter) -> tuple[float, Result]:
    """Seconds of the clock, and what the work returned."""
    gc.collect()
    started = clock()
    result = work()
    return clock() - started, result


def costed(work: Callable[[], Result], elements: int, repeats: int) -> tuple[Cost, Result]:
    """The median time of several runs, and what one of them read, in passes over ``elements`` numbers."""
    with counted_products() as count:
        seconds, result = timed(work)
    times = [seconds, *(timed(work)[0] for _ in range(repeats - 1))]
    return Cost(
        statistics.median(times),
        count.elements / elements,
        count.row_elements / elements,
        count.factorizations,
    ), result


def row_of(
    section: str,
    lora: Lora,
    *,
    with_reference: bool = True,
    with_peft: bool = True,
    repeats: int = REPEATS,
) -> Row:
    """Judges one matrix every way asked for.

    Raises:
      CountsDifferError: they do not find the same number of intruders.
    """
    m, n = lora.base.shape
    label = f"{m} x {n}"
    stack, elements = lora.stack(), m * n

    def judge(known: KnownBase | None) -> Decisions:
        # A stack of its own for every run: one keeps the decomposition of its update.
        return decide(lora.stack(), K, EPSILON, known=known)

    cold, first = costed(lambda: judge(None), elements, repeats)
    cached, again = costed(lambda: judge(first.known), elements, repeats)
    counts = {
        "nothing cached": int(first.intruder.sum()),
        "base cached": int(again.intruder.sum()),
    }
    whole = decomposing = None
    if with_reference:
        decomposing, known = timed(lambda: KnownBase.decomposed(stack.base))
        whole, in_coordinates = costed(lambda: judge(known), elements, repeats)
        counts["base decomposed"] = int(in_coordinates.intruder.sum())
        del known
    reference = peft = None
    if with_reference:
        tuned = lora.tuned()
        reference, counts["reference"] = timed(lambda: reference_count(lora.base, tuned, K, EPSILON))
        del tuned
    if with_peft:
        model = peft_model_of(lora)
        peft, by_name = timed(lambda: peft_counts(model, K, EPSILON))
        counts["PEFT"] = sum(by_name.values())
    require_equal(label, counts)
    return Row(
        section,
        label,
        (m, n),
        elements,
        first.intruder.numel(),
        counts["nothing cached"],
        reference,
        peft,
        cold,
        cached,
        whole,
        decomposing,
        dict(Counter(first.certificate[0])),
    )


def require_equal(label: str, counts: dict[str, int]) -> None:
    if len(set(counts.values())) != 1:
        raise CountsDifferError(f"{label}: intruders differ: {counts}")
