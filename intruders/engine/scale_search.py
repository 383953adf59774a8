"""The first scale with an intruder on a projection, by a search that is fine where it matters.

As the scale grows, a vector that the update brings among the k leading ones passes by base vectors; while it does, it
may resemble them, so that counts go up and down, in windows of a few per cent. But once it is there, one of the k
vectors always leans away from the base's: of two vectors that mix, one has a cosine of at most 0.71 with either. So
coarse steps tell where to look closely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from .projection import Projection

# Octaves around the centre, and coarse steps an octave; leaning intervals are split by each of the factors in turn.
_OCTAVES = (-5, 1, 6)
_COARSE = 2
_SPLITS = (3, 4, 3)
_BISECTIONS = 3
# A vector leans whose max cosine is below this, or below the share of the way from epsilon to 1.
_LEANS = 0.75
_LEAN_SHARES = (0.5, 0.5, 0.3)
# A finest step, 1 %; and how far beyond its first scale a window is followed, in those.
_STEP = 2 ** (1 / (_COARSE * math.prod(_SPLITS)))
_FOLLOWED = 4


@dataclass(frozen=True)
class ScaleWindow:
    """The first scales with an intruder: from ``start`` on, and well ``inside``."""

    start: float
    inside: float
    is_sure: bool  # the projection holds all of the update, and all its Ritz vectors leave it an intruder


def search_end(projection: Projection) -> float:
    """Return the largest scale of the search."""
    return projection.centre * 2.0 ** _OCTAVES[-1]


def first_window(projection: Projection, begin: float = 0.0, is_strict: bool = False) -> ScaleWindow | None:
    """Find the first scales from ``begin`` on with an intruder, or None; see :meth:`Projection.least_cosine`."""
    search = _WindowSearch(projection, is_strict)
    for low, high in pairwise(_OCTAVES):
        steps = torch.arange((high - low) * _COARSE + 1, dtype=torch.float64) / _COARSE
        scales = [s for s in (projection.centre * 2.0 ** (low + steps)).tolist() if s > begin]
        if not scales:
            continue
        if begin > 0 and begin < scales[0] and scales[0] / begin < 2 ** (1 / _COARSE):
            scales.insert(0, begin)
        start = search.first_start(scales)
        if start is not None:
            return search.window(start)
    return None


def largest_scale(
    projections: Sequence[Projection], measured: Sequence[float], target: int, slack: float
) -> float:
    """Find the largest scale with at most ``target`` intruders on the projections, up to the search's end."""
    first = min(measured, default=math.inf)
    end = min((search_end(projection) for projection in projections), default=math.inf)
    if not math.isfinite(first) or first > end:
        return end
    if target == 0:
        return first * (1 - slack)
    while first < end:
        steps = first * _STEP ** torch.arange(1, _COARSE * math.prod(_SPLITS) + 1, dtype=torch.float64)
        counts = torch.stack([projection.counts(steps) for projection in projections]).sum(0)
        over = (counts > target).nonzero()
        if len(over) > 0:
            return min(end, float(steps[int(over[0])]) / _STEP * (1 - slack))
        first = float(steps[-1])
    return end


@dataclass(frozen=True)
class _WindowSearch:
    projection: Projection
    is_strict: bool

    def least(self, scales: Sequence[float]) -> list[float]:
        cosines: list[float] = self.projection.least_cosine(
            torch.tensor(scales, dtype=torch.float64), self.is_strict
        ).tolist()
        return cosines

    def first_start(self, scales: Sequence[float]) -> float | None:
        """Find the first scale with an intruder, among ``scales`` and between them."""
        points = list(zip(scales, self.least(scales), strict=True))
        if points[0][1] < self.projection.epsilon:
            return points[0][0]
        return self._first_between(points, 0)

    def window(self, start: float) -> ScaleWindow:
        further = [start * _STEP ** (part / 2) for part in range(1, _FOLLOWED + 1)]
        inside = start
        for scale, cosine in zip(further, self.least(further), strict=True):
            if cosine >= self.projection.epsilon:
                break
            inside = math.sqrt(start * scale)
        strict = self.projection.least_cosine(torch.tensor([inside], dtype=torch.float64), True)
        is_sure = self.projection.is_complete and float(strict[0]) < self.projection.epsilon
        return ScaleWindow(start, inside, is_sure)

    def _first_between(self, points: Sequence[tuple[float, float]], level: int) -> float | None:
        """The same, from scales with their least cosines; the first of them has no intruder."""
        epsilon = self.projection.epsilon
        for (low, at_low), (high, at_high) in pairwise(points):
            if level == len(_SPLITS):
                if at_high < epsilon:
                    return self._bisected(low, high)
                continue
            leaning = max(_LEANS, epsilon + _LEAN_SHARES[level] * (1 - epsilon))
            if min(at_low, at_high) >= leaning:
                continue
            parts = _SPLITS[level]
            between = [low * (high / low) ** (part / parts) for part in range(1, parts)]
            inner = [(low, at_low), *zip(between, self.least(between), strict=True), (high, at_high)]
            start = self._first_between(inner, level + 1)
            if start is not None:
                return start
        return None

    def _bisected(self, low: float, high: float) -> float:
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.least([middle])[0] < self.projection.epsilon else (middle, high)
        return high
