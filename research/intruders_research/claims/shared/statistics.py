"""The statistics of the analyses: intervals over seeds, over settings and over runs, honest in small samples.

Every interval is at 95 %. Where there is nothing to take an interval over (one seed, one run, two settings), its
ends are infinite: the estimate stands, and says nothing of what another seed would give.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from intruders.measures.intervals import (
    LEVEL,
    Interval,
    expanded_percentiles,
    student_p,
    student_quantile,
)

Values = npt.ArrayLike
Floats = npt.NDArray[np.float64]
POWER = 0.8  # of a plan: the share of studies that would find an effect of the planned size
MOST_SEEDS = 200  # that a plan asks for
MOST_SETTINGS = 1000
_RESAMPLES = 2000


def ratio_interval(parts: Values, wholes: Values) -> Interval:
    """Return sum(parts) / sum(wholes) over independent units (one pair per setting), with an interval.

    Units are resampled (Efron 1979), and the ends are expanded percentiles as of losses. NaN where the sum of the
    wholes is not above zero; such resamples are left out. Infinite ends for fewer than four units, where over half of
    the resamples are left out, and where all have one ratio.
    """
    (parts, wholes), _ = _complete([parts, wholes], range(np.size(parts)))
    whole = float(wholes.sum())
    estimate = float(parts.sum()) / whole if whole > 0 else math.nan

    def share(drawn: npt.NDArray[np.int64]) -> Floats:
        below = wholes[drawn].sum(axis=1)
        return np.asarray(parts[drawn].sum(axis=1) / np.where(below > 0, below, math.nan))

    interval, shares = over_resamples(estimate, len(parts), share)
    return interval if len(shares) and np.ptp(shares) > 1e-12 * abs(estimate) else interval.opened()


def over_resamples(
    estimate: float, count: int, statistic: Callable[[npt.NDArray[np.int64]], Floats]
) -> tuple[Interval, Floats]:
    """Return expanded percentiles of a statistic over resamples of ``count`` units, and its values there.

    ``statistic`` takes (resamples, count) numbers of units. Resamples where it is no finite number are left out.
    Infinite ends and no values for fewer than four units, and where over half of the resamples are left out.
    """
    open_ends = Interval(estimate, -math.inf, math.inf, count)
    if count < 4 or math.isnan(estimate):
        return open_ends, np.empty(0)
    values = statistic(np.random.default_rng(0).integers(count, size=(_RESAMPLES, count)))
    values = values[np.isfinite(values)]
    if len(values) < _RESAMPLES / 2:
        return open_ends, np.empty(0)
    return expanded_percentiles(estimate, values, count), values


def holm(values: Sequence[float]) -> list[float]:
    """Adjust p values for their number by Holm's step-down procedure (1979), in the order given.

    The i-th smallest of m becomes the largest of (m - j + 1) p_j over j <= i. With "decided" for those below 0.05,
    one of no effect at all is among them in at most 5 % of studies, however they depend on one another.
    """
    adjusted = [1.0] * len(values)
    largest = 0.0
    for rank, at in enumerate(sorted(range(len(values)), key=lambda at: values[at])):
        largest = max(largest, min(1.0, (len(values) - rank) * values[at]))
        adjusted[at] = largest
    return adjusted


def spread_of(interval: Interval, seeds: int) -> float:
    """Return the standard deviation over seeds behind a :func:`mean_interval`.

    Where it was not kept, half width * sqrt(n) / t_{n-1}. The ends alone do not have it after :func:`clipped`.
    """
    if interval.spread is not None:
        return interval.spread
    return (interval.high - interval.low) / 2 * math.sqrt(seeds) / student_quantile(interval.level, seeds - 1)


def seeds_needed(effect: float, spread: float) -> int | None:
    """Return the number of seeds at which the interval of a mean excludes zero with probability ``POWER``.

    The least n with (t_{n-1} + u_{n-1}) s / sqrt(n) <= |effect|, where t is the two-sided quantile of the interval and
    u the one-sided quantile at ``POWER``. None where that is more than ``MOST_SEEDS``.
    """
    if spread <= 0 and effect != 0:
        return 2
    for seeds in range(2, MOST_SEEDS + 1):
        reach = student_quantile(LEVEL, seeds - 1) + student_quantile(2 * POWER - 1, seeds - 1)
        if reach * spread / math.sqrt(seeds) <= abs(effect):
            return seeds
    return None


def interval_in(
    row: "Mapping[str, Any] | pd.Series[Any]", name: str, low: str = "{}_low", high: str = "{}_high"
) -> Interval:
    """Read an interval from its cells in the row of a table, as its ``cells`` names them; a missing one is NaN."""
    cells = (row.get(column) for column in (name, low.format(name), high.format(name)))
    estimate, lower, upper = (math.nan if cell is None else float(cell) for cell in cells)
    return Interval(estimate, lower, upper)


def moved(interval: Interval, by: float) -> Interval:
    return replace(interval, estimate=interval.estimate + by, low=interval.low + by, high=interval.high + by)


def normal_quantile(level: float) -> float:
    """Return the two-sided quantile of the normal distribution."""
    return NormalDist().inv_cdf((1 + level) / 2)


def settings_needed(correlation: float) -> int | None:
    """Return the number of settings at which the interval of :func:`spearman` excludes zero with that probability.

    The least n with (u_level + u_power) sqrt((1 + rho^2 / 2) / (n - 3)) <= atanh |rho|, u being normal quantiles. None
    where that is more than ``MOST_SETTINGS``.
    """
    reach = normal_quantile(LEVEL) + normal_quantile(2 * POWER - 1)
    needed = math.ceil(3 + (1 + correlation**2 / 2) * (reach / math.atanh(abs(correlation))) ** 2)
    return needed if needed <= MOST_SETTINGS else None


def clipped(interval: Interval, low: float, high: float) -> Interval:
    """Clip the interval to what the quantity can be, such as 0 to 1 for a share; infinite ends stay."""
    return replace(
        interval,
        low=max(low, interval.low) if math.isfinite(interval.low) else interval.low,
        high=min(high, interval.high) if math.isfinite(interval.high) else interval.high,
    )


def spearman(x: Values, y: Values, groups: Sequence[Hashable]) -> Interval:
    """Return Spearman's rank correlation over runs, with an interval; equal values share their ranks.

    Fisher's z with the variance (1 + rho^2 / 2) / (n' - 3) of Bonett and Wright (2000). Runs of one of the ``groups``
    (the seeds of a setting) are alike, so that n' is not their number n but n / (1 + (k - 1) c_x c_y), with k runs a
    group and c the intraclass correlation of the ranks: the groups' number where seeds say nothing new, n where
    groups do not matter. Infinite ends for fewer than four groups, NaN where x or y has one value only.
    """
    (x, y), groups = _complete([x, y], groups)
    ranks = [average_ranks(x), average_ranks(y)]
    return _fisher(float(_correlation(*ranks)), ranks, groups, 3)


def partial_spearman(
    x: Values, y: Values, controls: Sequence[Values], groups: Sequence[Hashable]
) -> Interval:
    """Return Spearman's correlation of x and y with the ranks of ``controls`` held fixed, with an interval.

    The ranks of x and of y are regressed on those of all controls, and the residuals correlated; for one control z
    that is (r_xy - r_xz r_yz) / sqrt((1 - r_xz^2) (1 - r_yz^2)). One degree of freedom less for each control. NaN
    where the controls order the runs as x or y does, so that nothing is left of it.
    """
    columns, groups = _complete([x, y, *controls], groups)
    ranks = [average_ranks(values) for values in columns]
    (left_x, residual_x), (left_y, residual_y) = (_residual(values, ranks[2:]) for values in ranks[:2])
    estimate = float(_correlation(residual_x, residual_y)) if left_x * left_y > 1e-12 else math.nan
    return _fisher(estimate, ranks[:2], groups, 3 + len(controls))


def _residual(values: Floats, controls: Sequence[Floats]) -> tuple[float, Floats]:
    """Return the rest of ``values`` after a least-squares fit of the controls: its variance share, and itself."""
    if len(values) == 0:
        return 0.0, values
    design = np.column_stack([np.ones(len(values)), *controls])
    residual = values - design @ np.linalg.lstsq(design, values, rcond=None)[0]
    variance = float(((values - values.mean()) ** 2).sum())
    return (float((residual**2).sum()) / variance if variance > 0 else 0.0), residual


def auc_interval(scores: Values, is_positive: Sequence[bool], groups: Sequence[Hashable]) -> Interval:
    """Return the :func:`auc` of matrices with an interval over their runs.

    Newcombe's (2006) score interval: all theta with |A - theta| <= f sqrt(V(theta)), where for p positives and
    n negatives, with h = (p + n) / 2 - 1,

        V(theta) = theta (1 - theta) (1 + h (1 - theta) / (2 - theta) + h theta / (1 + theta)) / (p n),

    so that a perfect separation of few matrices does not pass for a certain one. Matrices of a run are not
    independent: f is the normal quantile, or if that is more, Student's of (runs - 1) degrees of freedom times the root
    of the jackknife variance over runs by V(A). Infinite ends for one run, and where a single run holds all positives
    or all negatives: nothing then tells how much another such run would differ.
    """
    (values, positive), groups = _complete([scores, np.asarray(is_positive, dtype=np.float64)], groups)
    is_high = positive > 0
    estimate = auc(values[is_high], values[~is_high])
    labels = list(dict.fromkeys(groups))
    if math.isnan(estimate) or len(labels) < 2:
        return Interval(estimate, -math.inf, math.inf, len(labels))
    of = np.array([labels.index(group) for group in groups])
    without = [
        auc(values[is_high & (of != left_out)], values[~is_high & (of != left_out)])
        for left_out in range(len(labels))
    ]
    known = np.array(without)
    if np.isnan(known).any():
        return Interval(estimate, -math.inf, math.inf, len(labels))
    runs = len(labels)
    jackknife = (runs - 1) / runs * float(((known - known.mean()) ** 2).sum())
    p, n = int(is_high.sum()), int((~is_high).sum())
    alone = float(_auc_variance(np.array(estimate), p, n))
    over_runs = student_quantile(LEVEL, runs - 1) * math.sqrt(jackknife / alone) if alone > 0 else 0.0
    factor = max(normal_quantile(LEVEL), over_runs)
    theta = np.linspace(0, 1, 2001)
    inside = theta[np.abs(estimate - theta) <= factor * np.sqrt(_auc_variance(theta, p, n))].tolist()
    # No effect is an area of one half.
    statistic = abs(estimate - 0.5) / math.sqrt(float(_auc_variance(np.array(0.5), p, n)))
    of_chance = _normal_p(statistic)
    if over_runs > 0:
        of_chance = max(of_chance, student_p(statistic * math.sqrt(alone / jackknife), runs - 1))
    return Interval(estimate, min(estimate, *inside), max(estimate, *inside), runs, of_chance)


def slope(x: Values, y: Values) -> float:
    """Return the least-squares slope of y on x; NaN with fewer than two different x."""
    (across, up), _ = _complete([x, y], range(np.size(x)))
    if len(np.unique(across)) < 2:
        return math.nan
    return float(np.polyfit(across, up, 1)[0])


def _normal_p(statistic: float) -> float:
    """Return the two-sided p value of a standard normal statistic."""
    return 2 * NormalDist().cdf(-abs(statistic))


def _auc_variance(theta: Floats, p: int, n: int) -> Floats:
    h = (p + n) / 2 - 1
    spread = 1 + h * (1 - theta) / (2 - theta) + h * theta / (1 + theta)
    return np.asarray(theta * (1 - theta) * spread / (p * n))


def _fisher(estimate: float, ranks: Sequence[Floats], groups: Sequence[Hashable], lost: int) -> Interval:
    """Return the interval on Fisher's scale, with ``lost`` degrees of freedom less than the effective runs."""
    count = len(set(groups))
    if math.isnan(estimate) or count < 4:
        return Interval(estimate, -math.inf, math.inf, count)
    size = len(groups) / count
    effective = len(groups) / (1 + (size - 1) * math.prod(_intraclass(values, groups) for values in ranks))
    if effective <= lost:
        return Interval(estimate, -math.inf, math.inf, count)
    # Four settings in perfect order are no certainty: half of the step to the next value that so few can take.
    most = 1 - 6 / (count * (count**2 - 1))
    inner = max(-most, min(most, estimate))
    error = math.sqrt((1 + inner**2 / 2) / (effective - lost))
    half = normal_quantile(LEVEL) * error
    low, high = math.tanh(math.atanh(inner) - half), math.tanh(math.atanh(inner) + half)
    p = _normal_p(math.atanh(inner) / error)
    return Interval(estimate, min(estimate, low), max(estimate, high), count, p)


def _intraclass(values: Floats, groups: Sequence[Hashable]) -> float:
    """Return (B - W) / (B + (k - 1) W) from mean squares between and within groups of k runs on average; 0 to 1."""
    grouped = pd.Series(values).groupby(pd.Series(list(groups), dtype=object).to_numpy())
    count, total = grouped.ngroups, len(values)
    if total == count:
        return 1.0  # one run each: nothing is counted twice
    means, sizes = grouped.transform("mean").to_numpy(), total / count
    between = float(((means - values.mean()) ** 2).sum()) / (count - 1)
    within = float(((values - means) ** 2).sum()) / (total - count)
    below = between + (sizes - 1) * within
    return max(0.0, (between - within) / below) if below > 0 else 1.0


def average_ranks(values: Values) -> Floats:
    """Return ranks over the last axis, from 1; equal values have the mean of those that they take up (Kendall 1948).

    >>> average_ranks([3.0, 1.0, 3.0]).tolist()
    [2.5, 1.0, 2.5]
    """
    given: Floats = np.asarray(values, dtype=np.float64)
    rows = pd.DataFrame(given.reshape(math.prod(given.shape[:-1]), given.shape[-1]))
    return rows.rank(axis=1).to_numpy(np.float64).reshape(given.shape)


def rank_correlation(x: Values, y: Values) -> Floats:
    """Return Spearman's correlation of ``(..., n)`` pairs of finite numbers over the last axis, as ``(...)``."""
    return _correlation(average_ranks(x), average_ranks(y))


def _correlation(x: Floats, y: Floats) -> Floats:
    """Return Pearson's correlation over the last axis; NaN where there is no pair, or a side has one value only."""
    if x.shape[-1] == 0:
        return np.full(x.shape[:-1], math.nan)
    x, y = x - x.mean(axis=-1, keepdims=True), y - y.mean(axis=-1, keepdims=True)
    scale = np.asarray(np.sqrt((x**2).sum(axis=-1) * (y**2).sum(axis=-1)))
    products = (x * y).sum(axis=-1)
    return np.asarray(np.divide(products, scale, out=np.full_like(scale, math.nan), where=scale > 0))


def auc(positive: Values, negative: Values) -> float:
    """Return P(positive's score > negative's), ties counting half: the Mann-Whitney U over both counts."""
    scores = [np.asarray(side, dtype=np.float64) for side in (positive, negative)]
    above, below = (side[np.isfinite(side)] for side in scores)
    p, n = len(above), len(below)
    if p == 0 or n == 0:
        return math.nan
    ranks = average_ranks(np.concatenate([above, below]))
    return float((ranks[:p].sum() - p * (p + 1) / 2) / (p * n))


def _complete(columns: Sequence[Values], groups: Sequence[Hashable]) -> tuple[list[Floats], list[Hashable]]:
    """Keep the rows in which every column is a finite number."""
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    kept: npt.NDArray[np.bool_] = np.all(np.isfinite(np.stack(arrays)), axis=0)
    return [array[kept] for array in arrays], [
        group for group, keep in zip(groups, kept, strict=True) if keep
    ]
