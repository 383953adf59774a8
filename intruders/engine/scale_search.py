"""The first scale with an intruder on a projection, by a search that is fine where it matters.

As the scale grows, a vector that the update brings among the k leading ones passes by base vectors; while it does, it
may resemble them, so that counts go up and down, in windows of a few per cent. But once it is there, one of the k
vectors always leans away from the base's: of two vectors that mix, one has a cosine of at most 0.71 with either. So
coarse steps tell where to look closely.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import torch

from .projection import Projection
from .scale_points import Between, FromBase, Look, Point, are_as_base, are_clear, points_at

Found = TypeVar("Found")

# Octaves around the centre, and coarse steps an octave; leaning intervals are split by each of the factors in turn.
_OCTAVES = (-5, 0, 1, 6)
_COARSE = 2
_SPLITS = (3, 4, 3)
_BISECTIONS = 3
# Intervals of at most so many finest steps are not split where the vectors at their ends say that nothing is there.
_FORESEEN = 12
# Cosines of vectors that are near to those of the base are above this.
_PLAIN = 0.9
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
    """Find the first scales from ``begin`` on with an intruder, or None; see :func:`points_at`."""
    return _together([projection], [_window_of(projection, begin, is_strict)])[0]


def first_starts(projections: Sequence[Projection]) -> list[float | None]:
    """Find where the first windows of a group begin, side by side: decompositions of all of them are one call."""
    return _together(projections, [_first_start(projection) for projection in projections])


def windows_from(
    projections: Sequence[Projection], starts: Sequence[float | None]
) -> list[ScaleWindow | None]:
    """Find the windows that begin there."""
    return _together(
        projections, [_window_from(one, start) for one, start in zip(projections, starts, strict=True)]
    )


_Asked = Look | Between | FromBase
_Answer = list[Point] | bool | list[bool]
_Search = Generator[_Asked, Any, Found]


def _together(projections: Sequence[Projection], searches: Sequence[_Search[Found]]) -> list[Found]:
    """Run searches side by side, each on the projection at its place."""
    results: dict[int, Found] = {}
    answers: dict[int, _Answer | None] = dict.fromkeys(range(len(searches)))
    while answers:
        asked: dict[int, _Asked] = {}
        for place, answer in answers.items():
            try:
                asked[place] = searches[place].send(answer)
            except StopIteration as end:
                results[place] = end.value
        answers = dict(_answered(projections, asked))
    return [results[place] for place in range(len(searches))]


def _answered(
    projections: Sequence[Projection], asked: Mapping[int, _Asked]
) -> Iterator[tuple[int, _Answer]]:
    """Answer the questions, those of one kind together."""
    looks: dict[bool, dict[int, Look]] = {}
    between: dict[int, dict[int, Between]] = {}
    from_base: dict[int, dict[int, FromBase]] = {}
    for place, question in asked.items():
        match question:
            case Look():
                looks.setdefault(question.is_strict, {})[place] = question
            case Between():
                between.setdefault(question.parts, {})[place] = question
            case FromBase():
                from_base.setdefault(len(question.scales), {})[place] = question
    for of_looks in looks.values():
        some = [projections[place] for place in of_looks]
        yield from zip(of_looks, points_at(some, list(of_looks.values())), strict=True)
    for of_between in between.values():
        some = [projections[place] for place in of_between]
        yield from zip(of_between, are_clear(some, list(of_between.values())), strict=True)
    for of_base in from_base.values():
        some = [projections[place] for place in of_base]
        yield from zip(of_base, are_as_base(some, list(of_base.values())), strict=True)


def _window_of(projection: Projection, begin: float, is_strict: bool) -> _Search[ScaleWindow | None]:
    start = yield from _first_start(projection, begin, is_strict)
    return (yield from _window_from(projection, start, is_strict))


def _window_from(
    projection: Projection, start: float | None, is_strict: bool = False
) -> _Search[ScaleWindow | None]:
    return None if start is None else (yield from _WindowSearch(projection, is_strict).window(start))


def _first_start(
    projection: Projection, begin: float = 0.0, is_strict: bool = False
) -> _Search[float | None]:
    search = _WindowSearch(projection, is_strict)
    for low, high in pairwise(_OCTAVES):
        steps = torch.arange((high - low) * _COARSE + 1, dtype=torch.float64) / _COARSE
        scales = [s for s in (projection.centre * 2.0 ** (low + steps)).tolist() if s > begin]
        if not scales:
            continue
        if begin > 0 and begin < scales[0] and scales[0] / begin < 2 ** (1 / _COARSE):
            scales.insert(0, begin)
        start = yield from search.first_start(scales)
        if start is not None:
            return start
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

    def points(self, scales: Sequence[float]) -> _Search[list[Point]]:
        found: list[Point] = (yield Look(scales, self.is_strict)) if scales else []
        return found

    def first_start(self, scales: Sequence[float]) -> _Search[float | None]:
        """Find the first scale with an intruder, among ``scales`` and between them."""
        # Where no vector leans there is nothing to look at.
        is_plain = [False] * len(scales)
        if not self.is_strict and self._leaning(0) <= _PLAIN:
            is_plain = yield FromBase(scales)
        looked = yield from self.points([s for s, plain in zip(scales, is_plain, strict=True) if not plain])
        rest = iter(looked)
        points = [s if plain else next(rest) for s, plain in zip(scales, is_plain, strict=True)]
        if isinstance(points[0], Point) and points[0].cosine < self.projection.epsilon:
            return points[0].scale
        return (yield from self._first_between(points, 0))

    def _leaning(self, level: int) -> float:
        epsilon = self.projection.epsilon
        return max(_LEANS, epsilon + _LEAN_SHARES[level] * (1 - epsilon))

    def window(self, start: float) -> _Search[ScaleWindow]:
        further = [start * _STEP ** (part / 2) for part in range(1, _FOLLOWED + 1)]
        inside = start
        for point in (yield from self.points(further)):
            if point.cosine >= self.projection.epsilon:
                break
            inside = math.sqrt(start * point.scale)
        (strict,) = yield Look([inside], True)
        is_sure = self.projection.is_complete and strict.cosine < self.projection.epsilon
        return ScaleWindow(start, inside, is_sure)

    def _first_between(self, points: Sequence[Point | float], level: int) -> _Search[float | None]:
        """The same, from points of which the first has no intruder; of scales alone no vector leans."""
        epsilon = self.projection.epsilon
        for low, high in pairwise(points):
            least = min((end.cosine for end in (low, high) if isinstance(end, Point)), default=math.inf)
            if least >= (self._leaning(level) if level < len(_SPLITS) else epsilon):
                continue
            if not isinstance(low, Point):
                (low,) = yield from self.points([low])
            if not isinstance(high, Point):
                (high,) = yield from self.points([high])
            if level == len(_SPLITS):
                return (yield from self._bisected(low.scale, high.scale))
            finest = math.prod(_SPLITS[level:])
            is_foreseen = least >= epsilon and finest <= _FORESEEN and not self.is_strict
            if is_foreseen and (yield Between(low, high, finest)):
                continue
            inner = yield from self.points(Between(low, high, _SPLITS[level]).scales())
            start = yield from self._first_between([low, *inner, high], level + 1)
            if start is not None:
                return start
        return None

    def _bisected(self, low: float, high: float) -> _Search[float]:
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            (point,) = yield from self.points([middle])
            low, high = (low, middle) if point.cosine < self.projection.epsilon else (middle, high)
        return high
