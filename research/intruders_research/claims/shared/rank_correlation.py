"""Statistics of ranks, where equal values share the mean of theirs (Kendall 1948): Spearman's correlation, and AUC."""

import math

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]


def average_ranks(values: npt.ArrayLike) -> Floats:
    """Return the ranks over the last axis, from 1; equal values have the mean of the ranks that they take up.

    >>> average_ranks([3.0, 1.0, 3.0]).tolist()
    [2.5, 1.0, 2.5]
    """
    given: Floats = np.asarray(values, dtype=np.float64)
    rows = pd.DataFrame(given.reshape(math.prod(given.shape[:-1]), given.shape[-1]))
    return rows.rank(axis=1).to_numpy(np.float64).reshape(given.shape)


def spearman(x: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
    """Return Spearman's correlation of ``(..., n)`` pairs of finite numbers over the last axis, as ``(...)``.

    NaN where there is no pair, or a side has one value only.
    """
    ranks = average_ranks(x), average_ranks(y)
    if ranks[0].shape[-1] == 0:
        return np.full(ranks[0].shape[:-1], math.nan)
    centred = [each - each.mean(axis=-1, keepdims=True) for each in ranks]
    scale = np.asarray(np.sqrt((centred[0] ** 2).sum(axis=-1) * (centred[1] ** 2).sum(axis=-1)))
    products = (centred[0] * centred[1]).sum(axis=-1)
    return np.asarray(np.divide(products, scale, out=np.full_like(scale, math.nan), where=scale > 0))


def auc(positive: npt.ArrayLike, negative: npt.ArrayLike) -> float:
    """Return P(positive's score > negative's), ties counting half: the Mann-Whitney U over both counts."""
    scores = [np.asarray(side, dtype=np.float64) for side in (positive, negative)]
    above, below = (side[np.isfinite(side)] for side in scores)
    p, n = len(above), len(below)
    if p == 0 or n == 0:
        return math.nan
    ranks = average_ranks(np.concatenate([above, below]))
    return float((ranks[:p].sum() - p * (p + 1) / 2) / (p * n))
