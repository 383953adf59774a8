"""Whether a merged matrix holds the update: a pure function of W0, D, M and their types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ...system.plain_values import plain
from .merged_matrix import EVERY_STEP, SUM_TWICE, MergedMatrix, Rounding, half_types, type_name, ways_to_round
from .scale_bounds import Estimate, ScaleBounds, estimate_scale, scale_bounds

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
    is_quantized: bool = False

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Verdict:
        """Read what :meth:`as_dict` gave."""
        names = ("verdict", "words", "estimate", "error", "rest", "precision", "outside")
        low, high = record["scale"] or (None, None)
        ends = (-math.inf if low is None else low, math.inf if high is None else high)
        return cls(
            **{name: record[name] for name in names},
            scale=None if record["scale"] is None else ends,
            is_quantized=record["quantized"],
        )

    def as_dict(self) -> dict[str, Any]:
        record: dict[str, Any] = plain(self)
        record["quantized"] = record.pop("is_quantized")
        return record


def judge(matrix: MergedMatrix, scaling: float | None = None, in_steps: bool = False) -> Verdict:
    """The verdict on one matrix, whose W0 and D are finite.

    Args:
      matrix: W0, D and M.
      scaling: the scale inside D, such as alpha / r, where it is known: a merge may have left it out.
      in_steps: whether W is made in several steps, each of which may round: other methods than LoRA, and sums.
    """
    if not all(math.isfinite(end) for end in torch.aminmax(matrix.merged.float())):
        return Verdict(OTHER_WEIGHTS, "contains NaN or infinity")
    if matrix.stored is None:
        return replace(_of_quantized(matrix, scaling), is_quantized=True)
    ways = _ways(matrix)
    verdict: Verdict | None
    fitting = _first_to_fit(matrix, ways, ScaleBounds.is_empty)
    if fitting is not None:
        verdict = _within(*fitting, scaling)
        if verdict.verdict not in WRONG:
            return verdict
        # An update made in steps that fits without any rounding of it is known too well to be another.
        may_be_steps = in_steps and bool(fitting[1].of_update)
        return _unless_right(matrix, scaling, may_be_steps, verdict)
    verdict = None
    if in_steps:
        verdict = _of_steps(matrix)
    elif scaling is not None:
        verdict = _of_rounded_adapter(matrix, scaling, ScaleBounds.is_empty)
        if verdict is not None and verdict.verdict in WRONG:
            verdict = _unless_right(matrix, scaling, in_steps, verdict)
    if verdict is None:
        verdict = replace(_without_bounds(matrix, scaling), outside=scale_bounds(matrix, ways[0]).outside)
    return verdict


def _unless_right(matrix: MergedMatrix, scaling: float | None, in_steps: bool, wrong: Verdict) -> Verdict:
    """``wrong``, the verdict of the strictest way to round, unless a looser way makes M a right merge.

    Where rounding is as large as the update, a stricter way may explain M by another scale, such as W0 alone, rounded.
    """
    right = None
    fitting = _first_to_fit(matrix, _ways(matrix), ScaleBounds.is_without_one)
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
    matrix: MergedMatrix, ways: Sequence[Rounding], is_refused: Callable[[ScaleBounds], bool]
) -> tuple[ScaleBounds, Rounding] | None:
    """The bounds of the strictest way to round whose bounds are not refused."""
    for way in ways:
        bounds = scale_bounds(matrix, way, stop_when=is_refused)
        if not is_refused(bounds):
            return bounds, way
    return None


def _ways(matrix: MergedMatrix) -> list[Rounding]:
    return ways_to_round(matrix.dtype, matrix.adapter_dtype, matrix.base_needs_rounding)


def _within(bounds: ScaleBounds, way: Rounding, scaling: float | None) -> Verdict:
    """The verdict of bounds that are not empty."""
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
    for dtype in half_types(matrix.dtype):
        rounded = matrix.with_factors_in(dtype, scaling)
        fitting = None if rounded is None else _first_to_fit(rounded, _ways(rounded), is_refused)
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
    rows, columns = matrix.merged.shape
    if rows == columns and _is_applied(matrix.transposed):
        return Verdict(TRANSPOSED, "the transposed update was added")
    estimate = estimate_scale(matrix)
    if estimate.is_near(1) and estimate.is_seen:
        words = "the update was added to weights other than the base's"
        return _of_estimate(ON_OTHER_WEIGHTS, words, estimate)
    if not estimate.is_seen:
        return _of_estimate(OTHER_WEIGHTS, "the difference does not contain the update", estimate)
    again = scale_bounds(matrix, SUM_TWICE, stop_when=ScaleBounds.is_empty)
    if not again.is_empty() and not again.holds(1):
        return _within(again, SUM_TWICE, scaling)
    known = scale_in_words(estimate.is_near, scaling)
    words = f"contains the update at scale {estimate.scale:.3g}, and other changes"
    return _of_estimate(OTHER_WEIGHTS, f"{words} ({known})" if known else words, estimate)


def _is_applied(matrix: MergedMatrix) -> bool:
    fitting = _first_to_fit(matrix, _ways(matrix), ScaleBounds.is_empty)
    return fitting is not None and fitting[0].holds(1) and not fitting[0].holds(0)


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
