"""The critical scale as a root, where the base is known whole: an update's scale only multiplies its coordinates."""

from __future__ import annotations

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
# How far around a scale known to about a per cent the root is looked for, and at how many scales at once.
_REACH, _GRID = 1.05, 16
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


def _roots(
    coordinates: Coordinates, whole: WholeBase, start: Tensor, k: int, epsilon: float
) -> tuple[Tensor, Tensor]:
    """Find where the least cosine falls below epsilon first, near ``start`` ``(batch)``, and whether it does."""
    steps = torch.linspace(-1.0, 1.0, _GRID, dtype=start.dtype, device=start.device)
    grid = start.unsqueeze(-1) * _REACH**steps
    cosines = least_cosines(coordinates, whole, grid, k)
    is_below = cosines < epsilon
    first = is_below.int().argmax(-1)
    before = (first - 1).clamp_min(0).unsqueeze(-1)
    # The scale before the first one with an intruder is known to have none.
    is_settled = is_below.any(-1) & (cosines.gather(-1, before).squeeze(-1) >= epsilon)
    low, high = grid.gather(-1, before).squeeze(-1), grid.gather(-1, first.unsqueeze(-1)).squeeze(-1)
    at_low, at_high = (
        cosines.gather(-1, index).squeeze(-1) - epsilon for index in (before, first.unsqueeze(-1))
    )
    for round_ in range(_MOST_ROUNDS):
        if bool((((high - low) <= TOLERANCE * low) | ~is_settled).all()):
            break
        # A secant, and every other time the middle: the least cosine may jump, where another vector comes in.
        share = torch.full_like(low, 0.5) if round_ % 2 else (at_low / (at_low - at_high)).clamp(0.01, 0.99)
        # A little beyond where the secant puts the root, so that both ends come near.
        middle = low + share.nan_to_num(0.5) * (high - low)
        value = least_cosines(coordinates, whole, middle.unsqueeze(-1), k).squeeze(-1) - epsilon
        is_settled = is_settled & value.isfinite()
        goes_down = value < 0
        low, at_low = torch.where(goes_down, low, middle), torch.where(goes_down, at_low, value)
        high, at_high = torch.where(goes_down, middle, high), torch.where(goes_down, value, at_high)
    return high, is_settled
