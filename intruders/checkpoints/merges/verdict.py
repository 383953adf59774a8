"""Whether a merged matrix holds the update: a pure function of W0, D, M and their types.

Proved bounds on the scale follow from the rounding of every number; least squares estimate it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair
from .merged_matrix import (
    EVERY_STEP,
    HALF_TYPES,
    SINGLE,
    SUM_TWICE,
    Block,
    MergedMatrix,
    Rounding,
    half_spacing,
    least_spacing,
    type_name,
)

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
    ``D_i != 0`` bounds s from both sides. The answer comes early where ``stop_when`` is true of the bounds so far,
    which further numbers only narrow.
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
    assert matrix.stored is not None  # of quantized numbers there are no bounds
    least = least_spacing(matrix.stored)
    allowance = half_spacing(block.merged, matrix.dtype, least)
    size = block.merged.abs()
    if matrix.dtype in HALF_TYPES:  # the sum in single precision, before it was rounded
        allowance += size * SINGLE
    allowance += difference.abs() * SINGLE
    if rounding.of_sum > 1:
        between = size + block.base.abs() + block.reach
        allowance += half_spacing(between, matrix.dtype, least) * (rounding.of_sum - 1)
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


APPLIED = "applied"
WITHIN_QUANTIZATION = "applied within quantization error"
TOO_SMALL = "too small to tell"
NOT_PROVED = "not proved"
NOT_APPLIED = "not applied"
ANOTHER_SCALE = "applied at another scale"
TRANSPOSED = "applied transposed"
ON_OTHER_WEIGHTS = "applied to other weights"
OTHER_WEIGHTS = "other weights"

# By which something is wrong with the merge, and all.
_WRONG = (NOT_APPLIED, ANOTHER_SCALE, TRANSPOSED, ON_OTHER_WEIGHTS, OTHER_WEIGHTS)
VERDICTS = (APPLIED, WITHIN_QUANTIZATION, TOO_SMALL, NOT_PROVED, *_WRONG)
WRONG = frozenset(_WRONG)

# Of an update that is made in several steps: what rounding each to bfloat16 may leave, as a share of it.
_IN_HALF = 4 * 2.0**-8


@dataclass(frozen=True)
class Verdict:
    """The verdict on one merged matrix, and its numbers."""

    verdict: str  # one of VERDICTS
    words: str = ""  # what it means, where the verdict alone does not say
    scale: tuple[float, float] | None = None  # proved bounds on s in M = W0 + s D, rounded
    estimate: float | None = None  # of s by least squares, where there are no bounds
    error: float | None = None  # its standard error
    rest: float | None = None  # ||M - W0 - estimate * D|| / ||W0||
    precision: str | None = None  # how the merge rounded
    outside: int | None = None  # numbers that s = 1 does not explain
    quantized: bool = False


def judge(matrix: MergedMatrix, scaling: float | None = None, in_steps: bool = False) -> Verdict:
    """The verdict on one matrix, whose W0 and D are finite.

    ``scaling`` is the scale inside D, such as alpha / r, which a merge may have left out; ``in_steps`` says whether W
    is made in several steps, each of which may round: other methods than LoRA, and sums.
    """
    if not all(math.isfinite(end) for end in torch.aminmax(matrix.merged.float())):
        return Verdict(OTHER_WEIGHTS, "contains NaN or infinity")
    if matrix.stored is None:
        return replace(_of_quantized(matrix, scaling), quantized=True)
    fitting = _first_to_fit(matrix, ScaleBounds.is_empty)
    verdict: Verdict | None = None
    if fitting is not None:
        verdict = _within(*fitting, scaling)
        # An update made in steps that fits without any rounding of it is known too well to be another.
        in_steps = in_steps and bool(fitting[1].of_update)
    elif in_steps:
        return _of_steps(matrix) or _without_bounds(matrix, scaling)
    elif scaling is not None:
        verdict = _of_rounded_adapter(matrix, scaling, ScaleBounds.is_empty)
    if verdict is None:
        return _without_bounds(matrix, scaling)
    return _unless_right(matrix, scaling, in_steps, verdict) if verdict.verdict in WRONG else verdict


def _unless_right(matrix: MergedMatrix, scaling: float | None, in_steps: bool, wrong: Verdict) -> Verdict:
    """``wrong``, of the strictest way to round, unless a looser one makes M a right merge: W0 alone may round to M."""
    right = None
    fitting = _first_to_fit(matrix, ScaleBounds.is_without_one)
    if fitting is not None:
        right = _within(*fitting, scaling)
    elif in_steps and wrong.verdict != NOT_APPLIED:
        right = _of_steps(matrix)
    elif not in_steps and scaling is not None:
        right = _of_rounded_adapter(matrix, scaling, ScaleBounds.is_without_one)
    if right is None or right.verdict != APPLIED:
        return right or wrong
    assert wrong.scale is not None
    assert right.scale is not None
    (low, high), ends = wrong.scale, right.scale
    words = "scale 1 fits, and with less rounding another scale as well"
    return replace(right, verdict=NOT_PROVED, words=words, scale=(min(low, ends[0]), max(high, ends[1])))


def _first_to_fit(
    matrix: MergedMatrix, is_refused: Callable[[ScaleBounds], bool]
) -> tuple[ScaleBounds, Rounding] | None:
    """The bounds of the strictest way to round whose bounds are not refused."""
    for way in matrix.ways_to_round:
        bounds = scale_bounds(matrix, way, stop_when=is_refused)
        if not is_refused(bounds):
            return bounds, way
    return None


def _within(bounds: ScaleBounds, way: Rounding, scaling: float | None) -> Verdict:
    words = ""
    is_one = not bounds.is_without_one()
    if bounds.holds(0) and is_one:
        verdict, words = TOO_SMALL, "W0 and W0 + D round to the same numbers"
    elif is_one:
        verdict = APPLIED
    elif bounds.holds(0):
        verdict = NOT_APPLIED
    else:
        verdict, words = ANOTHER_SCALE, scale_in_words(bounds.holds, scaling)
    ends = bounds.low, bounds.high
    return Verdict(verdict, words, ends, precision=way.words, outside=bounds.outside)


def _of_steps(matrix: MergedMatrix) -> Verdict | None:
    """The verdict if every step of the merge was rounded to half precision; None where M is too far for that."""
    bounds = scale_bounds(matrix, EVERY_STEP)
    estimate = estimate_scale(matrix)
    if bounds.holds(1) or (abs(estimate.scale - 1) <= _IN_HALF and estimate.rest_of_update <= _IN_HALF):
        words = "fits within half-precision steps of the merge, as another update may"
        return replace(_of_estimate(NOT_PROVED, words, estimate), precision=EVERY_STEP.words)
    return None


def _of_rounded_adapter(
    matrix: MergedMatrix, scaling: float, is_refused: Callable[[ScaleBounds], bool]
) -> Verdict | None:
    """The verdict if the adapter was loaded in half precision; None where that does not explain M either."""
    if not isinstance(matrix.pair.tuned, LowRank) or scaling == 0:
        return None
    left, right = matrix.pair.tuned.left, matrix.pair.tuned.right
    for dtype in (matrix.dtype,) if matrix.dtype in HALF_TYPES else HALF_TYPES:
        # Which of the two the scale was put on does not show; that is the left one but for embeddings.
        scaled = (left / scaling).to(dtype).to(left.dtype) * scaling
        pair = Pair(matrix.pair.base, LowRank(scaled, right.to(dtype).to(right.dtype)))
        fitting = _first_to_fit(replace(matrix, pair=pair), is_refused)
        if fitting is not None:
            verdict = _within(*fitting, scaling)
            return replace(verdict, precision=f"adapter rounded to {type_name(dtype)}, {verdict.precision}")
    return None


def _of_quantized(matrix: MergedMatrix, scaling: float | None) -> Verdict:
    """The verdict on quantized weights, in which no number is the rounding of a sum."""
    estimate = estimate_scale(matrix)
    if math.isnan(estimate.scale) or (estimate.is_near(0) and estimate.is_near(1)):
        return _of_estimate(TOO_SMALL, "the quantization hides it", estimate)
    if estimate.is_near(1):
        return _of_estimate(WITHIN_QUANTIZATION, "", estimate)
    if estimate.is_near(0):
        return _of_estimate(NOT_APPLIED, "", estimate)
    return _of_estimate(ANOTHER_SCALE, scale_in_words(estimate.is_near, scaling), estimate)


def _without_bounds(matrix: MergedMatrix, scaling: float | None) -> Verdict:
    """The verdict on M that is no rounding of W0 + s D for any s."""
    # The numbers that scale 1 does not explain, by the strictest way.
    outside = scale_bounds(matrix, Rounding("one rounding")).outside
    rows, columns = matrix.merged.shape
    turned = _first_to_fit(matrix.transposed, ScaleBounds.is_empty) if rows == columns else None
    if turned is not None and turned[0].holds(1) and not turned[0].holds(0):
        return Verdict(TRANSPOSED, "the transposed update was added", outside=outside)
    estimate = estimate_scale(matrix)
    verdict, words = OTHER_WEIGHTS, "the difference does not contain the update"
    if estimate.is_seen and estimate.is_near(1):
        verdict, words = ON_OTHER_WEIGHTS, "the update was added to weights other than the base's"
    elif estimate.is_seen:
        again = scale_bounds(matrix, SUM_TWICE, stop_when=ScaleBounds.is_empty)
        if not again.is_empty() and not again.holds(1):
            return replace(_within(again, SUM_TWICE, scaling), outside=outside)
        known = scale_in_words(estimate.is_near, scaling)
        words = f"contains the update at scale {estimate.scale:.3g}, and other changes"
        words = f"{words} ({known})" if known else words
    return replace(_of_estimate(verdict, words, estimate), outside=outside)


def scale_in_words(holds: Callable[[float], bool], scaling: float | None) -> str:
    """Name the common mistake that leads to a merge at this scale, if any."""
    causes = []
    if holds(2):
        causes.append("applied twice")
    if holds(-1):
        causes.append("subtracted instead of added")
    if scaling is not None and scaling not in (0, 1):
        if holds(1 / scaling):
            causes.append(f"the adapter's own scale of {scaling:.6g} was left out")
        if holds(scaling):
            causes.append(f"the adapter's own scale of {scaling:.6g} was counted twice")
    return " or ".join(causes)


def _of_estimate(verdict: str, words: str, estimate: Estimate) -> Verdict:
    return Verdict(verdict, words, estimate=estimate.scale, error=estimate.error, rest=estimate.rest)
