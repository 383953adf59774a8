"""The critical scale: how far an update can be turned up before it leaves an intruder dimension.

Along W(s) = W0 + s (W - W0), the critical scale of a matrix is the smallest s > 0 at which one of the k leading left
singular vectors of W(s) is an intruder. It is looked for on a small projection of the matrix (38 rows for a rank-1
adapter), where every further scale costs next to nothing. Where the projection leaves open whether a vector resembles a
base vector that it does not hold, the audit's certificates decide. The model's answer is audited at its very scale.
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
from .audit import base_store, judge_group
from .cache import BaseCache, CacheChoice, MemoryCache, content_key
from .detect import Detection
from .groups import Group, is_small_group, load_groups
from .known import KnownBase
from .projection import Projection, project
from .scan import Window, first_window, largest_scale, search_end
from .schedule import run_side_by_side
from .settings import check_epsilon, check_k, check_workers, choose_device
from .stack import Stack

Result = TypeVar("Result")
SCHEMA = 1
# The model's answer keeps this distance below the first scale with an intruder too many.
SLACK = 0.01
# Steps by which the audit alone looks for the critical scale of an update with many directions.
WALK = 0.03
_MOST_STEPS = 40

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class MatrixScale:
    """The critical scale of one matrix, as a multiple of the update as it is."""

    name: str
    shape: tuple[int, int]
    measured: float  # infinite where there is no intruder up to ``searched``
    predicted: float  # theta / sigma_1(D), theta from the spectrum of W0 alone; infinite where there is none
    searched: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "shape": list(self.shape),
            "measured": _finite(self.measured),
            "predicted": _finite(self.predicted),
            "searched": self.searched,
        }


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

        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "base": {"source": self.base_source},
            "tuned": {"source": self.tuned_source},
            "settings": {"k": self.k, "epsilon": self.epsilon, "target": self.target},
            "largest_scale": _finite(self.largest),
            "intruders_at_largest_scale": self.intruders_at_largest,
            "within_factor_two": _finite(self.within_factor_two),
            "rank_correlation": _finite(self.rank_correlation),
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
    cache: CacheChoice = True,
    progress: Progress | None = None,
) -> CriticalScales:
    """Measures and predicts the scale of the update at which intruders appear, per matrix and for the model.

    For an adapter s is a multiple of its scale; for a full fine-tuning it runs along W0 + s (W - W0), as weight
    interpolation does (WiSE-FT; Wortsman et al. 2022). The prediction is ``theta / sigma_1(D)``, with theta of
    :mod:`intruders.linalg.threshold`. Scales are looked at in steps of 1 % once one of the k leading vectors leans away
    from the base's (:mod:`intruders.detection.scan`): counts go up and down, and a narrower window may be missed.

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
    store = base_store(cache) or MemoryCache()
    search = _Search(k, epsilon, store)

    def each(stage: str, do: Callable[[Group], Result]) -> Iterator[Result]:
        done = 0
        groups = load_groups(pairing.pairs, place, False, [])
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
    largest = largest_scale(projections, [matrix.measured for matrix in matrices], target, SLACK)
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
    """The scales of groups of matrices, and the audit's decisions at them."""

    k: int
    epsilon: float
    store: BaseCache

    def measured(self, group: Group) -> tuple[list[MatrixScale], list[Projection]]:
        """The scales of every matrix of a group, and the projections they were looked for on."""
        projections = project(group.stack, self._known(group), self.k, self.epsilon)
        found = [first_window(projection) for projection in projections]
        first = [math.inf if window is None else window.start for window in found]
        doubtful = [i for i, window in enumerate(found) if window is not None and not window.is_sure]
        for i in doubtful:
            window = found[i]
            assert window is not None
            first[i] = self._settled(_one(group, i), projections[i], window)
        scales = [
            MatrixScale(pair.name, pair.shape, scale, projection.predicted, search_end(projection))
            for pair, scale, projection in zip(group.pairs, first, projections, strict=True)
        ]
        return scales, projections

    def total(self, group: Group, scale: float) -> int:
        """Intruders of a whole group at one scale, by the audit's certificates."""
        return int(self._judged(_at(group, [scale] * len(group.pairs))).intruder.sum())

    def _settled(self, one: Group, projection: Projection, window: Window) -> float:
        """The first scale with an intruder of one matrix, where the projection's own answer is open to doubt."""
        is_there = self.total(one, window.inside) > 0
        if projection.is_complete:
            if is_there:
                return window.start
            later = first_window(projection, window.inside, is_strict=True)
            return math.inf if later is None else later.start
        # Directions that are not followed move the answer: it is looked for with the audit alone, in steps.
        scale, step = window.inside, 1 - WALK if is_there else 1 + WALK
        for _ in range(_MOST_STEPS):
            before, scale = scale, scale * step
            if (self.total(one, scale) > 0) != is_there:
                return math.sqrt(before * scale)
        return scale if is_there else math.inf

    def _known(self, group: Group) -> KnownBase:
        """What an audit learns of the bases: kept from an earlier one, or learnt by one of the bases unchanged."""
        entries = [self.store.get(content_key(base, self.k)) for base in group.stack.base]
        present = [entry for entry in entries if entry is not None]
        if len(present) == len(entries):
            return KnownBase.joined(present, group.stack.base.device)
        known = self._judged(_at(group, [0.0] * len(group.pairs))).known
        assert known is not None
        return known

    def _judged(self, group: Group) -> Detection:
        return judge_group(group, self.k, self.epsilon, False, self.store)


def _one(group: Group, index: int) -> Group:
    chosen = torch.tensor([index], device=group.stack.base.device)
    return Group([group.pairs[index]], group.stack.select(chosen), [group.scales[index]])


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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _ranks(values: Sequence[float]) -> Tensor:
    """Ranks, equal values sharing theirs."""
    tensor = torch.tensor(values, dtype=torch.float64)
    below = (tensor[:, None] > tensor[None, :]).sum(1)
    equal = (tensor[:, None] == tensor[None, :]).sum(1)
    return below + (equal - 1) / 2
