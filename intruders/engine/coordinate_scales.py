"""The critical scale as a root, where the base is known whole: an update's scale only multiplies its coordinates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.coordinate_cosines import coordinate_cosines
from ..linalg.coordinates import Coordinates
from ..linalg.full_precision import full_precision
from ..linalg.leading_secular import leading_vectors
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair
from ..linalg.whole_base import WholeBase
from .coordinate_certificate import fits_coordinates

# Relative error of a scale.
TOLERANCE = 1e-6
# How far around a scale the root is looked for at first, and how far and at how many scales where it is not there.
_NEAR, _REACH, _GRID = 1.03, 1.05, 16
_MOST_ROUNDS = 40


def least_cosines(coordinates: Coordinates, whole: WholeBase, scales: Tensor, k: int) -> Tensor:
    """Return the least of k max cosines of each matrix at each of its scales ``(batch, g)``; NaN if open.

    No product with anything as large as the matrices.
    """
    batch, count = scales.shape
    index = torch.arange(batch, device=scales.device).repeat_interleave(count)
    at = coordinates.select(index).scaled(scales.flatten())
    off = whole.off[index]
    cosines = coordinate_cosines(at, leading_vectors(at.problem(), k), off, whole.shape[-2])
    is_known = cosines.upper - cosines.lower < 1.0
    return torch.where(is_known, cosines.cosines, torch.nan).amin(-1).view(batch, count)


@full_precision()
def settled_scales(
    batch: Pair, whole: WholeBase | None, k: int, epsilon: float, scales: list[float]
) -> list[float]:
    """Return first scales with an intruder, to ``TOLERANCE``, from ``scales`` that are right to a few percent.

    One whose neighborhood has no such root, or that cannot be known in coordinates, is given back as it is.
    """
    k = min(k, *batch.base.shape[-2:])
    tuned = batch.tuned
    if (
        whole is None
        or not isinstance(tuned, LowRank)
        or not fits_coordinates(tuned.rank, k, batch.base.shape)
    ):
        return scales
    start = torch.tensor(scales, dtype=torch.float64, device=batch.base.device)
    index = (start.isfinite() & (start > 0)).nonzero().squeeze(-1)
    if len(index) == 0:
        return scales
    chosen = whole.select(index)
    coordinates = Coordinates.of(chosen, tuned.select(index).svd())
    roots, is_settled = _roots(coordinates, chosen, start[index], k, epsilon)
    start[index] = torch.where(is_settled, roots, start[index])
    settled: list[float] = start.tolist()
    return settled


@dataclass
class _Brackets:
    """Scales ``(batch)`` about each root, without and with an intruder, and the least cosine minus epsilon there."""

    low: Tensor
    high: Tensor
    at_low: Tensor
    at_high: Tensor
    is_settled: Tensor  # bool: a root lies between the two

    @classmethod
    def around(
        cls, coordinates: Coordinates, whole: WholeBase, start: Tensor, k: int, epsilon: float
    ) -> _Brackets:
        """Look on both sides of ``start`` first, and at more scales where the root is not between these."""
        near = torch.tensor([1 / _NEAR, _NEAR], dtype=start.dtype, device=start.device)
        brackets = cls._first_of(coordinates, whole, start.unsqueeze(-1) * near, k, epsilon)
        others = (~brackets.is_settled).nonzero().squeeze(-1)
        if len(others):
            steps = torch.linspace(-1.0, 1.0, _GRID, dtype=start.dtype, device=start.device)
            grid = start[others].unsqueeze(-1) * _REACH**steps
            again = cls._first_of(coordinates.select(others), whole.select(others), grid, k, epsilon)
            for name in ("low", "high", "at_low", "at_high", "is_settled"):
                getattr(brackets, name)[others] = getattr(again, name)
        return brackets

    @classmethod
    def _first_of(
        cls, coordinates: Coordinates, whole: WholeBase, grid: Tensor, k: int, epsilon: float
    ) -> _Brackets:
        """Return the first of ascending scales ``(batch, g)`` with an intruder, and the one before it."""
        values = least_cosines(coordinates, whole, grid, k) - epsilon
        is_below = values < 0
        first = is_below.int().argmax(-1).unsqueeze(-1)
        before = (first - 1).clamp_min(0)
        # The scale before the first one with an intruder is known to have none.
        is_settled = is_below.any(-1) & (values.gather(-1, before).squeeze(-1) >= 0)
        low, high, at_low, at_high = (
            of.gather(-1, index).squeeze(-1) for of in (grid, values) for index in (before, first)
        )
        return cls(low, high, at_low, at_high, is_settled)


def _roots(
    coordinates: Coordinates, whole: WholeBase, start: Tensor, k: int, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Find where the least cosine falls below epsilon first, near ``start`` ``(batch)``, and whether it does."""
    now = _Brackets.around(coordinates, whole, start, k, epsilon)
    for round_ in range(_MOST_ROUNDS):
        index = (now.is_settled & (now.high - now.low > TOLERANCE * now.low)).nonzero().squeeze(-1)
        if len(index) == 0:
            break
        low, high, at_low, at_high = (of[index] for of in (now.low, now.high, now.at_low, now.at_high))
        share = (at_low / (at_low - at_high)).nan_to_num(0.5).clamp(0.0, 1.0)
        # A little to either side of where the secant puts the root by turns, so that both ends come near; every third
        # time the middle: the least cosine may jump, where another vector comes in.
        aside = (0.4 if round_ % 2 else -0.4) * TOLERANCE * low
        middle = 0.5 * (low + high) if round_ % 3 == 2 else low + share * (high - low) + aside
        margin = 0.1 * TOLERANCE * low
        middle = torch.minimum(torch.maximum(middle, low + margin), high - margin)
        chosen = coordinates.select(index), whole.select(index)
        value = least_cosines(*chosen, middle.unsqueeze(-1), k).squeeze(-1) - epsilon
        now.is_settled[index] &= value.isfinite()
        goes_down = value < 0
        now.low[index], now.at_low[index] = (
            torch.where(goes_down, low, middle),
            torch.where(goes_down, at_low, value),
        )
        now.high[index], now.at_high[index] = (
            torch.where(goes_down, middle, high),
            torch.where(goes_down, value, at_high),
        )
    return now.high, now.is_settled
