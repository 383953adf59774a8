"""Spearman's correlation against SciPy's own, with ties, many at once, and where it is undefined."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata, spearmanr

from intruders_research.claims.shared.rank_correlation import average_ranks, spearman

# Few different values, so that many are equal.
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.floats(-1e6, 1e6)), min_size=2, max_size=30)


@given(PAIRS)
def test_ranks_and_correlation_are_those_of_scipy(pairs: list[tuple[int, float]]) -> None:
    x, y = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    np.testing.assert_array_equal(average_ranks(x), rankdata(x))
    if np.ptp(x) > 0 and np.ptp(y) > 0:
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)
    else:
        assert np.isnan(spearman(x, y))


def test_many_are_ranked_at_once() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, (2, 5, 7, 9)).astype(float)
    np.testing.assert_array_equal(average_ranks(x), rankdata(x, axis=-1))
    together = spearman(x, y)
    assert together.shape == (5, 7)
    for index in np.ndindex(5, 7):
        assert together[index] == pytest.approx(spearmanr(x[index], y[index]).statistic, abs=1e-12)


def test_no_pair_has_no_correlation() -> None:
    assert np.isnan(spearman([], []))
    assert np.isnan(spearman([1.0], [2.0]))
