"""At which scale an update was merged: proved bounds from the rounding of every number, and least squares."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .merged_matrix import SINGLE, Block, MergedMatrix, Rounding, half_spacing, is_half

# What the roundings of the computation here may add to a bound, as a share of it.
_OURS = 2.0**-20
# How far from 1 a scale may be and still be the adapter's own: AdaLoRA divides by r + 1e-5, in some type of its own.
_OF_SCALE = 2.0**-16


@dataclass(frozen=True)
class ScaleBounds:
    """The scales s for which M may be a rounding of W0 + s D; none when ``low > high``."""

    low: float
    high: float
    outside: int  # numbers of M that scale 1 does not explain

    def is_empty(self) -> bool:
        return not self.low <= self.high

    def is_without_one(self) -> bool:
        """Return whether none of the scales is the adapter's own."""
        return self.is_empty() or self.low > 1 + _OF_SCALE or self.high < 1 - _OF_SCALE

    def holds(self, scale: float) -> bool:
        return self.low <= scale <= self.high


@dataclass(frozen=True)
class Estimate:
    """M - W0 = scale * D + a rest, by least squares."""

    scale: float
    error: float  # standard error of the scale, for a rest independent from number to number
    rest: float  # ||rest|| / ||W0||
    rest_of_update: float  # ||rest|| / ||D||

    def is_near(self, scale: float) -> bool:
        """Return whether the estimate is within five of its errors of ``scale``."""
        return abs(self.scale - scale) <= 5 * self.error

    @property
    def is_seen(self) -> bool:
        """Whether the update is in the difference beyond doubt."""
        return abs(self.scale) > 20 * self.error


def scale_bounds(
    matrix: MergedMatrix, rounding: Rounding, stop_when: Callable[[ScaleBounds], bool] | None = None
) -> ScaleBounds:
    """The intersection over all numbers of M of the scales that rounding allows.

    ``s D_i`` lies within ``M_i - W0_i +- h_i``, h_i being half the spacing of M's type at M_i. So each number with
    ``D_i != 0`` bounds s from both sides, and s has to be in all of these bounds.

    Args:
      matrix: W0, D and M.
      rounding: what the merge rounded besides.
      stop_when: answer as soon as this is true of the bounds so far, which further numbers only narrow; ``outside`` is
        then counted up to there.
    """
    low, high, least, outside = -math.inf, math.inf, 0.0, 0
    bounds = ScaleBounds(low, high, outside)
    for block in matrix.blocks(rounding.of_base):
        lower, upper, needed = _allowed(block, matrix, rounding)
        # A number that overflows gives NaN, which Python's maximum would pass by.
        ends = torch.stack([lower.max(), -upper.min()]).nan_to_num(
            nan=math.inf, posinf=math.inf, neginf=-math.inf
        )
        low, high = max(low, float(ends[0])), min(high, -float(ends[1]))
        outside += int(((lower > 1) | (upper < 1)).sum())
        if needed is not None:
            least = max(least, float(needed.max()))
            outside += int((needed > 1).sum())
        # What the computation here rounded is allowed too; and no |s| below ``least``.
        ends_low, ends_high = low - _OURS * abs(low), high + _OURS * abs(high)
        if max(abs(ends_low), abs(ends_high)) < least * (1 - _OURS):
            ends_low, ends_high = math.inf, -math.inf
        bounds = ScaleBounds(ends_low, ends_high, outside)
        if stop_when is not None and stop_when(bounds):
            break
    return bounds


def _allowed(block: Block, matrix: MergedMatrix, rounding: Rounding) -> tuple[Tensor, Tensor, Tensor | None]:
    """Bounds on s from every number; and, of those whose D_i may be zero, the least |s| that they need."""
    # With the sign of D_i in both, D_i is positive.
    difference = (block.merged - block.base) * torch.ones((), dtype=block.update.dtype).copysign(block.update)
    size = block.update.abs()
    allowance = _allowance(block, difference, matrix, rounding)
    from_below, from_above = difference - allowance, difference + allowance
    for dtype in rounding.of_update:
        from_below = from_below - half_spacing(from_below, dtype) * (1 + _OURS)
        from_above = from_above + half_spacing(from_above, dtype) * (1 + _OURS)
    at_most, at_least = size + block.slack, size - block.slack
    lower = from_below / torch.where(from_below > 0, at_most, at_least)
    upper = from_above / torch.where(from_above > 0, at_least, at_most)
    unknown = at_least <= 0
    if not unknown.any():
        return lower, upper, None
    lower.masked_fill_(unknown, -math.inf)
    upper.masked_fill_(unknown, math.inf)
    missing = torch.maximum(from_below, -from_above)[unknown]
    needed = torch.where(missing > 0, missing / at_most[unknown], 0.0)
    return lower, upper, needed


def _allowance(block: Block, difference: Tensor, matrix: MergedMatrix, rounding: Rounding) -> Tensor:
    """Bound the distance of M_i - W0_i from s D_i: the rounding of the sum, and that of the difference here."""
    allowance = half_spacing(block.merged, matrix.dtype, matrix.least)
    size = block.merged.abs()
    if is_half(matrix.dtype):  # the sum in single precision, before it was rounded
        allowance += size * SINGLE
    allowance += difference.abs() * SINGLE
    if rounding.of_sum > 1:
        between = size + block.base.abs() + block.reach
        allowance += half_spacing(between, matrix.dtype, matrix.least) * (rounding.of_sum - 1)
    return allowance.mul_(1 + _OURS)


def estimate_scale(matrix: MergedMatrix) -> Estimate:
    """Least squares of M - W0 on the update that rounding leaves of D, by the type that explains M best.

    Weights in half precision swallow what is below half of their spacing, so that D itself would be seen at half of its
    scale, or less. The update is therefore ``round(W0 + D) - W0``, in bfloat16, in float16 or without rounding. M's
    own numbers may be quantized, or rounded sums with other weights than W0.
    """
    estimates = [scale_by_least_squares(matrix, dtype) for dtype in (None, torch.float16, torch.bfloat16)]
    return min(estimates, key=lambda estimate: estimate.rest)


def scale_by_least_squares(matrix: MergedMatrix, rounded_to: torch.dtype | None) -> Estimate:
    """Return the scale of the update, with an error that allows rests of different sizes (White 1980)."""
    sums = torch.zeros(7, dtype=torch.float64)
    for block in matrix.blocks():
        before, d = block.base, block.update
        if rounded_to is not None:
            before = before.to(rounded_to).to(before.dtype)
            d = (before + d).to(rounded_to).to(d.dtype) - before
        before, d = before.double(), d.double()
        y = block.merged.double() - before
        dd, dy = d * d, d * y
        terms = (before * before, dd, dy, y * y, dd * dd, dd * dy, dy * dy)
        sums += torch.stack([term.sum() for term in terms])
    base, dd, dy, yy, dddd, dddy, ddyy = sums.tolist()
    if not math.isfinite(yy) or base == 0:
        return Estimate(math.nan, math.inf, math.inf, math.inf)
    if dd == 0:
        return Estimate(math.nan, math.inf, math.sqrt(yy / base), math.inf)
    scale = dy / dd
    spread = max(0.0, ddyy - 2 * scale * dddy + scale * scale * dddd)
    rest = max(0.0, yy - scale * dy)
    return Estimate(scale, math.sqrt(spread) / dd, math.sqrt(rest / base), math.sqrt(rest / dd))
