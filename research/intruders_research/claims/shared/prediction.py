"""How well one number of a run predicts another: differences of rank correlations, and errors on held-out settings."""

import math
from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import numpy.typing as npt
import pandas as pd

from intruders.errors import missing_extra
from intruders.measures.intervals import Interval

from .statistics import Floats, over_resamples, rank_correlation


def correlation_difference(
    first: Sequence[float], second: Sequence[float], y: Sequence[float], groups: Sequence[Hashable]
) -> Interval:
    """Return Spearman's correlation of ``first`` and y minus that of ``second`` and y, with an interval.

    The two correlations share their runs, so settings are resampled with all of their seeds (Efron 1979), and the
    ends are expanded percentiles as of losses. p is twice the smaller share of resamples on either side of zero.
    Resamples in which something has one value only are left out. Infinite ends for fewer than four settings, or where
    over half of the resamples are left out.
    """
    columns = np.array([first, second, y], dtype=np.float64)
    known = np.flatnonzero(np.isfinite(columns).all(axis=0))
    columns = columns[:, known]
    numbers, labels = pd.factorize(np.array([str(group) for group in groups])[known])
    estimate = float(_difference(columns)) if columns.shape[1] else math.nan
    members = [np.flatnonzero(numbers == number) for number in range(len(labels))]
    interval, differences = over_resamples(estimate, len(labels), partial(_resampled, columns, members))
    if len(differences) == 0:
        return interval
    beyond = min((differences <= 0).mean(), (differences >= 0).mean())
    # No resample on the other side is not a p of zero.
    p = min(1.0, 2 * max(float(beyond), 1 / len(differences)))
    # Ends and p come from other quantiles of the same resamples; where they disagree, nothing is decided.
    return replace(interval, p=p if interval.is_clear == (p < 0.05) else max(p, 0.05))


def held_out_errors(x: Sequence[float], y: Sequence[float], groups: Sequence[Hashable]) -> Floats:
    """Return |y - predicted y| of each run, with its setting left out of what predicts it.

    The prediction is the monotone function of x with the least squared error on the other settings (isotonic
    regression, rising or falling as their rank correlation is), between its points by straight lines. It depends on
    the order of x and not on its scale. NaN where x or y is unknown, or too few settings are left.
    """
    predictor, target = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    known = np.isfinite(predictor) & np.isfinite(target)
    numbers = pd.factorize(np.array([str(group) for group in groups]))[0]
    errors = np.full(len(target), math.nan)
    for number in np.unique(numbers):
        inside = (numbers == number) & known
        rest = (numbers != number) & known
        if inside.any() and rest.sum() > 1:
            errors[inside] = np.abs(
                target[inside] - _monotone(predictor[rest], target[rest], predictor[inside])
            )
    return errors


def _monotone(x: Floats, y: Floats, at: Floats) -> Floats:
    try:
        from scipy.optimize import isotonic_regression  # type: ignore[import-untyped]
    except ImportError as error:
        raise missing_extra("a prediction of held-out settings", "scipy", "train") from error
    # Equal values of x are one point with the mean of their y.
    points, which, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(which, weights=y) / counts
    if len(points) == 1:
        return np.full(len(at), means[0])
    is_rising = rank_correlation(x, y) >= 0
    fitted = isotonic_regression(means, weights=counts, increasing=bool(is_rising)).x
    return np.asarray(np.interp(at, points, fitted), dtype=np.float64)


def _resampled(
    columns: Floats, members: Sequence[npt.NDArray[np.intp]], drawn: npt.NDArray[np.int64]
) -> Floats:
    """Return the difference of each resample; ``drawn`` (resamples, settings) are numbers of settings."""
    sizes = np.array([len(own) for own in members])
    totals = sizes[drawn].sum(axis=1)
    differences = np.full(len(drawn), math.nan)
    # Those with as many runs are ranked together.
    for total in np.unique(totals):
        alike = np.flatnonzero(totals == total)
        runs = np.stack([np.concatenate([members[number] for number in drawn[at]]) for at in alike])
        differences[alike] = _difference(columns[:, runs])
    return differences


def _difference(columns: Floats) -> Floats:
    """Return the differences of ``columns`` (3, ..., runs): the two predictors, and what they predict."""
    first, second, y = columns
    return rank_correlation(first, y) - rank_correlation(second, y)
