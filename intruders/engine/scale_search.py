"""The first scale with an intruder on a projection, by a search that is fine where it matters.

As the scale grows, a vector that the update brings among the k leading ones passes by base vectors, so that counts go
up and down, in windows of a few per cent. But once it is there, one of the k vectors always leans away from the
base's: of two vectors that mix, one has a cosine of at most 0.71 with either. So coarse steps tell where to look
closely. A search is a generator, which yields the scales that it asks for and is sent the least cosines there:
decompositions of many small matrices cost far less in one call than one by one.
"""

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TypeVar

import torch

from .projection import Projection, ProjectionGroup

Found = TypeVar("Found")

# Octaves around the centre, and coarse steps an octave; leaning intervals are split by each of the factors in turn.
_OCTAVES = (-5, 0, 1, 6)
_COARSE = 2
# Octaves further down at a time where the lowest scale has an intruder already, and how far: where base values are
# equal, every update mixes their vectors.
_DOWN, _LOWEST = 5, -40
_SPLITS = (3, 4, 3, 4)
_BISECTIONS = 2
# A vector leans whose max cosine is below this, or below the share of the way from epsilon to 1; with the last splits,
# which find windows narrower than 1 %, it must be nearly an intruder.
_LEANS = (0.75, 0.75, 0.75, 0.0)
_LEAN_SHARES = (0.5, 0.5, 0.3, 0.12)
# Steps of 1 %, with which counts and windows are followed; and how far beyond its first scale a window is, in those.
_STEP = 2 ** (1 / 72)
_FOLLOWED = 4
# Steps of the model's count that are taken at once: an octave.
_AT_ONCE = 72


@dataclass(frozen=True)
class ScaleWindow:
    """The first scales with an intruder: from ``start`` on, and well ``inside``."""

    start: float
    inside: float


def search_end(projection: Projection) -> float:
    return projection.centre * 2.0 ** _OCTAVES[-1]


def first_window(projection: Projection, begin: float = 0.0, is_strict: bool = False) -> ScaleWindow | None:
    """Find the first scales from ``begin`` on with an intruder, or None; see :meth:`ProjectionGroup.cosines`."""
    return _side_by_side([projection], [_WindowSearch(projection).first_window(begin)], is_strict)[0]


def first_starts(projections: Sequence[Projection]) -> list[float | None]:
    """Find where the first window of each projection of a group begins; all have the same size."""
    return _side_by_side(projections, [_WindowSearch(each).first_start() for each in projections])


def windows_from(projections: Sequence[Projection], starts: Sequence[float]) -> list[ScaleWindow]:
    searches = [_WindowSearch(each).window(start) for each, start in zip(projections, starts, strict=True)]
    return _side_by_side(projections, searches)


# Yields scales, and is sent the least cosines there.
_Search = Generator[Sequence[float], list[float], Found]


def _side_by_side(
    projections: Sequence[Projection], searches: Sequence[_Search[Found]], is_strict: bool = False
) -> list[Found]:
    """Run searches, each on the projection of the same index, and answer what they ask for together."""
    if not projections:
        return []
    group = ProjectionGroup(projections)
    results: dict[int, Found] = {}
    answers: dict[int, list[float] | None] = dict.fromkeys(range(len(searches)))
    while answers:
        asked: dict[int, Sequence[float]] = {}
        for index, answer in answers.items():
            try:
                # A generator that has not begun is sent None.
                asked[index] = next(searches[index]) if answer is None else searches[index].send(answer)
            except StopIteration as end:
                results[index] = end.value
        if not asked:
            break
        of = torch.tensor([index for index, scales in asked.items() for _ in scales])
        scales = torch.tensor([scale for scales in asked.values() for scale in scales], dtype=torch.float64)
        cosines = iter(group.cosines(of, scales, is_strict).amin(-1).tolist())
        answers = {index: list(islice(cosines, len(own))) for index, own in asked.items()}
    return [results[index] for index in range(len(searches))]


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
        steps = first * _STEP ** torch.arange(1, _AT_ONCE + 1, dtype=torch.float64)
        counts = torch.zeros(len(steps), dtype=torch.long)
        for each in projections:
            cosines = ProjectionGroup([each]).cosines(counts.new_zeros(len(steps)), steps)
            counts += (cosines < each.epsilon).sum(-1).cpu()
        over = (counts > min(target, int(counts.max()))).nonzero()  # a tensor holds no larger whole number
        if len(over) > 0:
            return min(end, float(steps[int(over[0])]) / _STEP * (1 - slack))
        first = float(steps[-1])
    return end


@dataclass(frozen=True)
class _WindowSearch:
    projection: Projection

    def first_window(self, begin: float) -> _Search[ScaleWindow | None]:
        start = yield from self.first_start(begin)
        return None if start is None else (yield from self.window(start))

    def first_start(self, begin: float = 0.0) -> _Search[float | None]:
        """Find the first scale with an intruder, from ``begin`` on."""
        octaves = _OCTAVES if begin > 0 else (yield from self._octaves())
        for low, high in pairwise(octaves):
            steps = torch.arange((high - low) * _COARSE + 1, dtype=torch.float64) / _COARSE
            scales = [s for s in (self.projection.centre * 2.0 ** (low + steps)).tolist() if s > begin]
            if not scales:
                continue
            if begin > 0 and begin < scales[0] and scales[0] / begin < 2 ** (1 / _COARSE):
                scales.insert(0, begin)
            points = yield from self._points(scales)
            if points[0][1] < self.projection.epsilon:
                return points[0][0]
            start = yield from self._first_between(points, 0)
            if start is not None:
                return start
        return None

    def _octaves(self) -> _Search[tuple[int, ...]]:
        """Find the octaves to search, from one with no intruder on: the centre may be far above the first of them."""
        octaves: tuple[int, ...] = _OCTAVES
        while octaves[0] > _LOWEST:
            (cosine,) = yield [self.projection.centre * 2.0 ** octaves[0]]
            if cosine >= self.projection.epsilon:
                break
            octaves = (octaves[0] - _DOWN, *octaves)
        return octaves

    def window(self, start: float) -> _Search[ScaleWindow]:
        """Find how far the window goes that begins there."""
        inside = start
        for scale, cosine in (
            yield from self._points([start * _STEP ** (part / 2) for part in range(1, _FOLLOWED + 1)])
        ):
            if cosine >= self.projection.epsilon:
                break
            inside = math.sqrt(start * scale)
        return ScaleWindow(start, inside)

    def _points(self, scales: Sequence[float]) -> _Search[list[tuple[float, float]]]:
        return list(zip(scales, (yield scales), strict=True))

    def _first_between(self, points: Sequence[tuple[float, float]], level: int) -> _Search[float | None]:
        """Find the first scale with an intruder between points, the first of which has none."""
        epsilon = self.projection.epsilon
        for (low, at_low), (high, at_high) in pairwise(points):
            if level == len(_SPLITS):
                if at_high >= epsilon:
                    continue
                for _ in range(_BISECTIONS):
                    middle = math.sqrt(low * high)
                    (cosine,) = yield [middle]
                    low, high = (low, middle) if cosine < epsilon else (middle, high)
                return high
            leaning = max(_LEANS[level], epsilon + _LEAN_SHARES[level] * (1 - epsilon))
            if min(at_low, at_high) >= leaning:
                continue
            parts = _SPLITS[level]
            inner = yield from self._points(
                [low * (high / low) ** (part / parts) for part in range(1, parts)]
            )
            start = yield from self._first_between([(low, at_low), *inner, (high, at_high)], level + 1)
            if start is not None:
                return start
        return None
