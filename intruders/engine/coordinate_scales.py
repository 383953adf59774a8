"""The critical scale as a root, where the base is known whole: an update's scale only multiplies its coordinates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..linalg.coordinate_cosines import coordinate_cosines
from ..linalg.coordinates import Coordinates, SecularProblem
from ..linalg.full_precision import full_precision
from ..linalg.leading_secular import LeadingVectors, leading_vectors
from ..linalg.whole_base import WholeBase

# Relative error of a scale.
TOLERANCE = 1e-6
# How far from where a search begins the first two scales lie, as a share, and how often that is doubled.
_FIRST_STEP, _DOUBLINGS = 1e-3, 7
_MOST_ROUNDS = 60


@dataclass
class _LeastCosine:
    """The least of k max cosines of each matrix, less epsilon, at a scale of its own; NaN where it is open.

    No product with anything as large as the matrices. The vectors of one scale are where those of the next begin.
    """

    coordinates: Coordinates
    problem: SecularProblem
    whole: WholeBase
    k: int
    epsilon: float
    leading: LeadingVectors | None = None

    def at(self, index: Tensor, scales: Tensor) -> Tensor:
        """Return the values of the matrices at ``index``, at a scale each."""
        start = None
        if self.leading is not None:
            some = self.leading.select(index)
            start = torch.cat([some.rows, some.further], -2)
        leading = leading_vectors(self.problem.select(index).at(scales), self.k, start)
        self.leading = leading if self.leading is None else self.leading.with_rows(index, leading)
        coordinates, off = self.coordinates.select(index), self.whole.off[index]
        # What rounding of the base leaves of the update grows with its scale.
        coordinates = replace(coordinates, off=off + scales * (coordinates.off - off))
        cosines = coordinate_cosines(coordinates, leading, off, self.whole.shape[-2])
        is_known = cosines.upper - cosines.lower < 1.0
        return torch.where(is_known, cosines.cosines, torch.nan).amin(-1) - self.epsilon


@full_precision()
def settled_scales(
    coordinates: Coordinates, whole: WholeBase, k: int, epsilon: float, scales: list[float]
) -> tuple[list[float], list[bool]]:
    """Find first scales with an intruder to ``TOLERANCE``, from ``scales`` that are right to a few percent.

    One whose neighborhood has no such root, or that cannot be known in coordinates, is given back as it is, and marked
    as not settled.
    """
    start = torch.tensor(scales, dtype=torch.float64, device=coordinates.values.device)
    is_settled = torch.zeros_like(start, dtype=torch.bool)
    index = (start.isfinite() & (start > 0)).nonzero().squeeze(-1)
    if len(index) > 0:
        chosen = coordinates.select(index)
        least = _LeastCosine(chosen, chosen.problem(), whole.select(index), k, epsilon)
        brackets = _Brackets.about(least, start[index])
        roots = brackets.narrowed(least)
        is_settled[index] = brackets.is_settled
        start[index] = torch.where(brackets.is_settled, roots, start[index])
    return start.tolist(), is_settled.tolist()


@dataclass
class _Brackets:
    """Scales ``(batch)`` about each root, without and with an intruder, and the least cosine minus epsilon there."""

    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor
    is_settled: Tensor  # bool: a root lies between the two

    @classmethod
    def about(cls, least: _LeastCosine, start: Tensor) -> _Brackets:
        """Go from ``start`` down where it has an intruder, and up where it has none, in steps that double."""
        value = least.at(torch.arange(len(start), device=start.device), start)
        now = cls(start.clone(), start.clone(), value.clone(), value.clone(), torch.zeros_like(value).bool())
        goes_down = value < 0
        remaining = value.isfinite().nonzero().squeeze(-1)
        for doubling in range(_DOUBLINGS):
            if len(remaining) == 0:
                break
            down = goes_down[remaining]
            share = 1 + _FIRST_STEP * 2**doubling
            scale = torch.where(down, start[remaining] / share, start[remaining] * share)
            value = least.at(remaining, scale)
            is_other = torch.where(down, value >= 0, value < 0)
            # The end that stays on its side comes along, so that the first change of sign is what is kept.
            to_low = down == is_other
            for end, at_end, taken in (
                (now.low, now.at_low, to_low),
                (now.high, now.at_high, ~to_low),
            ):
                end[remaining] = torch.where(taken, scale, end[remaining])
                at_end[remaining] = torch.where(taken, value, at_end[remaining])
            now.is_settled[remaining] = is_other
            remaining = remaining[~is_other & value.isfinite()]
        return now

    def narrowed(self, least: _LeastCosine) -> Tensor:
        """Narrow each to ``TOLERANCE``, and return the ends with an intruder."""
        is_stuck = torch.zeros_like(self.is_settled)
        for _ in range(_MOST_ROUNDS):
            index = (self.is_settled & (self.high - self.low > TOLERANCE * self.low)).nonzero().squeeze(-1)
            if len(index) == 0:
                break
            low, high, at_low, at_high = (
                end[index] for end in (self.low, self.high, self.at_low, self.at_high)
            )
            share = at_low / (at_low - at_high)
            # A little beyond where the secant puts the root, toward the farther end, so that this end comes near. The
            # middle where that did not halve the bracket: the least cosine jumps where another vector comes in.
            aside = torch.where(share < 0.5, 0.4, -0.4) * TOLERANCE * low
            scale = torch.where(is_stuck[index], 0.5 * (low + high), low + share * (high - low) + aside)
            margin = 0.1 * TOLERANCE * low
            scale = torch.minimum(torch.maximum(scale, low + margin), high - margin)
            value = least.at(index, scale)
            self.is_settled[index] &= value.isfinite()
            is_there = value < 0
            self.low[index] = torch.where(is_there, low, scale)
            self.at_low[index] = torch.where(is_there, at_low, value)
            self.high[index] = torch.where(is_there, scale, high)
            self.at_high[index] = torch.where(is_there, value, at_high)
            is_stuck[index] = self.high[index] - self.low[index] > 0.5 * (high - low)
        return self.high
