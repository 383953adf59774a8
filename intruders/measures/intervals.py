"""Confidence intervals: bootstrap over documents, Wilson's for accuracies, Student's for means over seeds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import SettingError, missing_extra
from ..system.plain_values import plain
from .losses import DocumentLosses

LEVEL = 0.95
RESAMPLES, _AT_ONCE = 10_000, 100


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its confidence interval; they are infinite where nothing is known of the spread."""

    estimate: float
    low: float
    high: float
    # How many independent units it is over, such as seeds; None where that was not kept.
    n: int | None = field(default=None, compare=False)
    # The two-sided p value of no effect, below 0.05 where the interval leaves out zero; None where that was not kept.
    p: float | None = field(default=None, compare=False)
    # The confidence that the ends have.
    level: float = field(default=0.95, compare=False)
    # The standard deviation of the units around a mean; None where that was not kept.
    spread: float | None = field(default=None, compare=False)

    @property
    def has_ends(self) -> bool:
        """Whether both ends are known; for a single document they are not."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def is_clear(self) -> bool:
        """Whether both ends are known and the interval excludes zero."""
        return self.has_ends and (self.is_above_zero or self.is_below_zero)

    @property
    def is_above_zero(self) -> bool:
        """Whether the lower end is above zero; the upper one may be unknown."""
        return self.low > 0

    @property
    def is_below_zero(self) -> bool:
        """Whether the upper end is below zero; the lower one may be unknown."""
        return self.high < 0

    def opened(self) -> "Interval":
        """Return the estimate without its ends."""
        return replace(self, low=-math.inf, high=math.inf, p=None, spread=None)

    def turned(self) -> "Interval":
        """Return the change the other way round: what was lost of what was gained, with the ends in order."""
        return replace(self, estimate=-self.estimate, low=-self.high, high=-self.low)

    def times(self, factor: float) -> "Interval":
        """Return the interval in another unit, such as percentage points; ``factor`` is above zero."""
        estimate, low, high = (factor * value for value in (self.estimate, self.low, self.high))
        spread = None if self.spread is None else factor * self.spread
        return replace(self, estimate=estimate, low=low, high=high, spread=spread)

    def cells(self, name: str, low: str = "{}_low", high: str = "{}_high") -> dict[str, float]:
        """Return table cells: the estimate under ``name``, the ends under the other two, where {} is ``name``."""
        return {name: self.estimate, low.format(name): self.low, high.format(name): self.high}

    def json_cells(self, name: str) -> dict[str, float | None]:
        """Return :meth:`cells` as plain JSON types: None for what is NaN or infinite."""
        return {column: plain(value) for column, value in self.cells(name).items()}

    def ends(self, form: str) -> str:
        """Return ``" [low, high]"`` with numbers in the format ``form``, or nothing if the spread is unknown."""
        return f" [{self.low:{form}}, {self.high:{form}}]" if self.has_ends else ""

    def text(self, form: str) -> str:
        """Return the estimate and its ends with numbers in a format; of a single document, the estimate alone.

        >>> Interval(0.5, 0.25, 0.75).text("+.2f")
        '+0.50 [+0.25, +0.75]'
        """
        if math.isinf(self.low) and math.isinf(self.high):
            return f"{self.estimate:{form}}"
        return f"{self.estimate:{form}} [{self.low:{form}}, {self.high:{form}}]"

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Interval":
        """Read what :meth:`as_dict` gave: an estimate that is None is NaN, and unknown ends are infinite."""
        estimate, low, high = (record[name] for name in ("estimate", "low", "high"))
        return cls(
            math.nan if estimate is None else float(estimate),
            -math.inf if low is None else float(low),
            math.inf if high is None else float(high),
            record.get("n"),
            record.get("p"),
        )

    def as_dict(self) -> dict[str, float | None]:
        """Return plain JSON types; unknown ends are None."""
        return {name: plain(getattr(self, name)) for name in ("estimate", "low", "high")}


# Of what was not measured.
NOTHING = Interval(math.nan, math.nan, math.nan)


def student_quantile(level: float, freedom: int) -> float:
    """Return the two-sided quantile of Student's distribution."""
    return float(_special().stdtrit(freedom, (1 + level) / 2))


def student_p(statistic: float, freedom: int) -> float:
    """Return the two-sided p value of Student's t."""
    return float(2 * _special().stdtr(freedom, -abs(statistic)))


def _special() -> Any:
    """The functions that scipy.stats calls for Student's distribution, without a second of loading all of it."""
    try:
        from scipy import special  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_extra("a confidence interval over seeds", "scipy", "train") from error
    return special


def mean_interval(values: npt.ArrayLike, *, level: float = LEVEL, grain: float = 0.0) -> Interval:
    """Return the mean of independent values (one per seed) with Student's interval: mean +- t_{n-1} s / sqrt(n).

    ``grain`` is the step in which the values are counted, such as one intruder: s is not taken to be less, since three
    seeds that all count none are no proof of none. Without a grain, values that are all the same have no interval.
    Values that are not finite are left out. NaN for none; infinite ends for one.
    """
    given = np.asarray(values, dtype=np.float64)
    kept = given[np.isfinite(given)]
    count = len(kept)
    if count == 0:
        return Interval(math.nan, -math.inf, math.inf, 0)
    mean = float(kept.mean())
    spread = max(float(kept.std(ddof=1)), grain) if count > 1 else 0.0
    if spread <= 1e-12 * abs(mean):
        return Interval(mean, -math.inf, math.inf, count)
    error = spread / math.sqrt(count)
    half = student_quantile(level, count - 1) * error
    # As many times larger as the level is stricter, so that p and interval tell the same (Bonferroni).
    p = min(1.0, student_p(mean / error, count - 1) * (1 - LEVEL) / (1 - level))
    return Interval(mean, mean - half, mean + half, count, p, level, spread)


def loss_interval(losses: DocumentLosses, *, seed: int = 0) -> Interval:
    """Return the mean loss per token with its 95 % bootstrap interval over documents; see :func:`paired_difference`."""
    return _interval(losses.sums, losses.tokens, LEVEL, seed)


def paired_difference(
    after: DocumentLosses, before: DocumentLosses, *, level: float = 0.95, seed: int = 0
) -> Interval:
    """Return the mean loss per token of ``after`` minus that of ``before``, documents resampled in pairs.

    d = sum_i (a_i - b_i) / sum_i t_i over documents i with t_i tokens. Each resample draws documents with
    replacement and takes both models' losses of those it drew. The ends are percentiles of the resamples (Efron 1979),
    farther out for few documents: those at the normal probability of ``sqrt(n / (n - 1)) t_{n - 1}`` for n of them
    ("expanded percentiles", Hesterberg 2015), since resamples of n vary less than n do. Raises SettingError when the
    two were not measured in the same way on the same tokens.
    """
    if after.measure != before.measure or not np.array_equal(after.tokens, before.tokens):
        raise SettingError(
            f"losses cannot be paired: {after.measure} on {after.tokens.sum()} tokens of {len(after.tokens)} "
            f"documents, {before.measure} on {before.tokens.sum()} of {len(before.tokens)}; measure both "
            "with the same settings"
        )
    return _interval(after.sums - before.sums, after.tokens, level, seed)


def proportion_interval(right: int, of: int) -> Interval:
    """Return the share right / of with Wilson's 95 % score interval (1927), valid near 0 and 1 and for few rows."""
    share, z = right / of, 1.959964  # the normal quantile of 95 %
    centre = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    # At 0 and at 1 the formula ends just there; rounding must not put the end on the wrong side.
    return Interval(share, min(share, max(0.0, centre - half)), max(share, min(1.0, centre + half)), of)


def _interval(
    sums: npt.NDArray[np.float64], tokens: npt.NDArray[np.int64], level: float, seed: int
) -> Interval:
    """Return sum / tokens with expanded percentiles of its resamples; infinite ones for one document."""
    count = len(sums)
    generator, means = np.random.default_rng(seed), []
    # Some resamples at a time, so that memory stays small however many documents there are.
    for _ in range(RESAMPLES // _AT_ONCE):
        drawn = generator.integers(count, size=(_AT_ONCE, count))  # (resamples, documents)
        means.append(sums[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
    return expanded_percentiles(float(sums.sum() / tokens.sum()), np.concatenate(means), count, level)


def expanded_percentiles(
    estimate: float, resampled: npt.NDArray[np.float64], count: int, level: float = 0.95
) -> Interval:
    """Return the interval of an estimate from resamples of ``count`` documents; see :func:`paired_difference`."""
    if count < 2:
        return Interval(estimate, -math.inf, math.inf, count)
    outside = NormalDist().cdf(-math.sqrt(count / (count - 1)) * student_quantile(level, count - 1))
    low, high = np.quantile(resampled, [outside, 1 - outside])
    return Interval(estimate, float(low), float(high), count)
