"""The critical scale: how far an update can be turned up before it leaves an intruder dimension.

Along W(s) = W0 + s (W - W0), the critical scale of a matrix is the smallest s > 0 at which one of the k leading left
singular vectors of W(s) is an intruder. It is looked for on a small projection of the matrix, where every further
scale costs next to nothing, and what is found there is then decided by the audit's own certificates just below and
just above; where they disagree with the projection, the search goes on with them alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..checkpoints.open import Source
from ..checkpoints.pairing import open_pair, pair
from ..errors import SettingError
from ..version import __version__
from .audit import judge_group
from .cache import BaseCache, DiskCache, MemoryCache, content_key
from .groups import Group, is_small_group, load_groups
from .known import KnownBase
from .projection import Projection, project
from .schedule import prefetched, run_side_by_side
from .settings import check_epsilon, check_k, check_workers, choose_device
from .stack import Stack

Result = TypeVar("Result")
SCHEMA = 1
# A measured scale is right to this share: below it by so much there is no intruder, above it there is.
SLACK = 0.05
# How far a search goes, in octaves from the predicted scale, and its steps an octave: counts go up and down with the
# scale, as a vector passes base vectors, and windows with an intruder of 5 % are common.
_OCTAVES = (-5, 6)
_STEPS = 24
_STEP = 2.0 ** (1 / _STEPS)
_BISECTIONS = 6
_MOST_REPAIRS = 24

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MatrixScale:
    """The critical scale of one matrix, as a multiple of the update as it is."""

    name: str
    shape: tuple[int, int]
    measured: float  # infinite where there is no intruder up to ``searched``
    predicted: float  # theta / sigma_1(D), theta from the spectrum of W0 alone
    searched: float

    def as_dict(self) -> dict[str, Any]:
        measured = self.measured if math.isfinite(self.measured) else None
        return {**self.__dict__, "shape": list(self.shape), "measured": measured}


@dataclass(frozen=True)
class CriticalScales:
    """The critical scales of a model's matrices, and the largest scale that keeps it to a number of intruders."""

    base_source: str
    tuned_source: str
    k: int
    epsilon: float
    target: int
    largest: float  # at this scale the audit counts ``intruders_at_largest``, at most ``target``
    intruders_at_largest: int
    matrices: list[MatrixScale]
    seconds: float

    @property
    def within_factor_two(self) -> float:
        """Share of the matrices with a measured scale whose prediction is within a factor of two of it."""
        both = self._both()
        return sum(0.5 <= p / m <= 2 for m, p in both) / len(both) if both else math.nan

    @property
    def rank_correlation(self) -> float:
        """Spearman's between measured and predicted scales, over the matrices that have both."""
        both = self._both()
        if len(both) < 2:
            return math.nan
        ranks = [_ranks([pair[side] for pair in both]) for side in (0, 1)]
        stacked = torch.stack(ranks)
        return float(torch.corrcoef(stacked)[0, 1])

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values; null for an infinite or undefined number."""

        def number(value: float) -> float | None:
            return value if math.isfinite(value) else None

        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "base": {"source": self.base_source},
            "tuned": {"source": self.tuned_source},
            "settings": {"k": self.k, "epsilon": self.epsilon, "target": self.target},
            "largest_scale": number(self.largest),
            "intruders_at_largest_scale": self.intruders_at_largest,
            "within_factor_two": number(self.within_factor_two),
            "rank_correlation": number(self.rank_correlation),
            "seconds": self.seconds,
            "matrices": [matrix.as_dict() for matrix in self.matrices],
        }

    def _both(self) -> list[tuple[float, float]]:
        return [
            (matrix.measured, matrix.predicted)
            for matrix in self.matrices
            if math.isfinite(matrix.measured) and math.isfinite(matrix.predicted) and matrix.predicted > 0
        ]


def critical_scales(
    base: Source | None,
    tuned: Source | None = None,
    *,
    k: int = 10,
    epsilon: float = 0.5,
    target: int = 0,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_embeddings: bool = False,
    device: str = "auto",
    workers: int | None = None,
    cache: BaseCache | bool = True,
    progress: Progress | None = None,
) -> CriticalScales:
    """Measures and predicts the scale of the update at which intruders appear, per matrix and for the model.

    For an adapter s is a multiple of its scale; for a full fine-tuning it runs along W0 + s (W - W0), as weight
    interpolation does (WiSE-FT; Wortsman et al. 2022). The prediction is ``theta / sigma_1(D)``, with theta of
    :mod:`intruders.linalg.threshold`. Scales are looked at in steps of 2^(1/24), 3 %: where a count goes up and down, a
    window of intruders narrower than that may be missed.

    Args:
      base: as in :func:`intruders.audit`, like what is not listed here.
      tuned: see there.
      target: ``largest`` is the largest scale at which the model has at most so many intruders.
      progress: called with (what is being done, matrices done, in all).

    Raises:
      SettingError: a setting is out of range. CheckpointError, PairingError, NonFiniteError: as the audit does.
    """
    check_k(k)
    check_epsilon(epsilon)
    if isinstance(target, bool) or not isinstance(target, int) or target < 0:
        raise SettingError(f"target is {target!r}; expected a number of intruders, 0 or more")
    check_workers(workers)
    started = time.perf_counter()
    place = choose_device(device)
    base_side, tuned_side = open_pair(base, tuned)
    pairing = pair(base_side, tuned_side, include, exclude, include_embeddings)
    store: BaseCache = DiskCache() if cache is True else cache or MemoryCache()
    search = _Search(k, epsilon, store)

    def each(stage: str, do: Callable[[Group], Result]) -> Iterator[Result]:
        done = 0
        groups = prefetched(load_groups(pairing.pairs, place, False, []))
        for size, result in run_side_by_side(
            groups, lambda group: (len(group.pairs), do(group)), is_small_group, workers
        ):
            yield result
            done += size
            if progress is not None:
                progress(stage, done, len(pairing.pairs))

    found: dict[str, MatrixScale] = {}
    projections: list[Projection] = []
    for scales, projected in each("measure", search.measured):
        projections += projected
        found |= {scale.name: scale for scale in scales}
    matrices = [found[matrix.name] for matrix in pairing.pairs if matrix.name in found]
    largest = _largest_scale(projections, matrices, target)
    while (count := sum(each("check", partial(search.total, scale=largest)))) > target:
        largest *= 1 - SLACK
    return CriticalScales(
        pairing.base_source,
        pairing.tuned_source,
        k,
        epsilon,
        target,
        largest,
        count,
        matrices,
        time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Search:
    """The audit's decisions at other scales of the updates."""

    k: int
    epsilon: float
    store: BaseCache

    def counts(self, group: Group, scales: Sequence[float]) -> list[int]:
        """Intruders of every matrix of a group, each at its own scale, by the audit's certificates."""
        detection = judge_group(_at(group, scales), self.k, self.epsilon, False, self.store)
        return [int(row.sum()) for row in detection.intruder]

    def total(self, group: Group, scale: float) -> int:
        """Intruders of a whole group at one scale."""
        return sum(self.counts(group, [scale] * len(group.pairs)))

    def measured(self, group: Group) -> tuple[list[MatrixScale], list[Projection]]:
        """The scales of every matrix of a group, and the projections they were looked for on."""
        projections = project(group.stack, self._known(group), self.k, self.epsilon)
        found = [_first_on_projection(projection) for projection in projections]
        below = self.counts(group, [window.start * (1 - SLACK) for window in found])
        above = self.counts(group, [window.inside for window in found])
        measured = []
        for i, window in enumerate(found):
            scale = window.start
            if below[i] > 0 or (window.is_there and above[i] == 0):
                scale = self._repaired(group, i, window, below[i] > 0)
            elif above[i] == 0:
                scale = math.inf
            pair, predicted = group.pairs[i], projections[i].predicted
            measured.append(
                MatrixScale(pair.name, pair.shape, scale, predicted, predicted * 2.0 ** _OCTAVES[1])
            )
        return measured, projections

    def _known(self, group: Group) -> KnownBase:
        """What an audit learns of the bases: kept from an earlier one, or learnt by one of the bases unchanged."""
        entries = [self.store.get(content_key(base, self.k)) for base in group.stack.base]
        present = [entry for entry in entries if entry is not None]
        if len(present) == len(entries):
            return KnownBase.joined(present, group.stack.base.device)
        known = judge_group(
            _at(group, [0.0] * len(group.pairs)), self.k, self.epsilon, False, self.store
        ).known
        assert known is not None
        return known

    def _repaired(self, group: Group, index: int, window: _Window, is_lower: bool) -> float:
        """The critical scale by the audit's decisions alone, from a start that was found wrong."""
        one = Group([group.pairs[index]], group.stack.select(torch.tensor([index])), [group.scales[index]])
        low, high = window.start * (1 - SLACK), window.inside
        for _ in range(_MOST_REPAIRS):
            if is_lower:
                low, high = low * (1 - SLACK), low
                if self.counts(one, [low])[0] == 0:
                    break
            else:
                low, high = high, high * (1 + SLACK)
                if self.counts(one, [high])[0] > 0:
                    break
        else:
            return low if is_lower else math.inf
        return math.sqrt(low * high)


@dataclass(frozen=True)
class _Window:
    """The first scales with an intruder: from ``start`` on, and at ``inside`` surely; or where the search ended."""

    start: float
    inside: float
    is_there: bool


def _at(group: Group, scales: Sequence[float]) -> Group:
    """The same matrices with the update of each at its own scale."""
    stack = group.stack
    factors = torch.tensor(scales, dtype=stack.base.dtype, device=stack.base.device)[:, None, None]
    if stack.left is not None:
        scaled = Stack(stack.base, None, factors * stack.left, stack.right)
    else:
        assert stack.tuned is not None
        scaled = Stack(stack.base, stack.base + factors * (stack.tuned - stack.base))
    return Group(group.pairs, scaled, group.scales)


def _first_on_projection(projection: Projection) -> _Window:
    """The first window of intruders that the projection shows."""

    def has(scales: Sequence[float] | Tensor) -> list[bool]:
        counts = projection.counts(
            torch.as_tensor(scales, dtype=torch.float64, device=projection.base.device)
        )
        return [count > 0 for count in counts.tolist()]

    for octave in range(*_OCTAVES):
        grid = projection.predicted * 2.0**octave * _STEP ** torch.arange(_STEPS, dtype=torch.float64)
        there = has(grid)
        if True not in there:
            continue
        high = float(grid[there.index(True)])
        low = high / _STEP
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if has([middle])[0] else (middle, high)
        steps = [1 + SLACK * part / 4 for part in range(5)]
        goes_on = has([high * step for step in steps])
        ends = steps[-1] if all(goes_on) else steps[max(0, goes_on.index(False) - 1)] ** 0.5
        return _Window(high, high * ends, True)
    most = projection.predicted * 2.0 ** _OCTAVES[1]
    return _Window(most, most, False)


def _largest_scale(projections: Sequence[Projection], matrices: Sequence[MatrixScale], target: int) -> float:
    """The largest scale with at most ``target`` intruders as far as the projections tell; the search's end at most."""
    first = min((matrix.measured for matrix in matrices), default=math.inf)
    end = min((matrix.searched for matrix in matrices), default=math.inf)
    if not math.isfinite(first) or first > end:
        return end
    first *= 1 - SLACK
    if target == 0:
        return first

    def exceeds(scale: float) -> bool:
        at = torch.tensor([scale], dtype=torch.float64)
        return sum(int(projection.counts(at)[0]) for projection in projections) > target

    low = first
    while low < end and not exceeds(low * _STEP**0.5):
        low *= _STEP**0.5
    high = low * _STEP**0.5
    for _ in range(_BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if exceeds(middle) else (middle, high)
    return min(low, end)


def _ranks(values: Sequence[float]) -> Tensor:
    """Ranks, equal values sharing theirs."""
    tensor = torch.tensor(values, dtype=torch.float64)
    below = (tensor[:, None] > tensor[None, :]).sum(1)
    equal = (tensor[:, None] == tensor[None, :]).sum(1)
    return below + (equal - 1) / 2
