"""The statistics against formulas by hand, scipy, and simulations in which the truth is known."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from intruders.measures.intervals import Interval, mean_interval
from intruders_research.claims.shared.claim import Where
from intruders_research.claims.shared.evidence import Evidence
from intruders_research.claims.shared.statistics import (
    auc,
    auc_interval,
    average_ranks,
    clipped,
    interval_in,
    partial_spearman,
    rank_correlation,
    ratio_interval,
    seeds_needed,
    slope,
    spearman,
    spread_of,
)
from intruders_research.claims.structure import CLAIM
from tests.research import coverage
from tests.studies.planted import study


@pytest.mark.parametrize(
    ("found", "estimate"),
    [
        (mean_interval([]), math.nan),
        (mean_interval([0.7]), 0.7),
        (mean_interval([0.7, math.nan]), 0.7),
        (mean_interval([0.3, 0.3, 0.3]), 0.3),
        (ratio_interval([1, 2, 4], [5, 10, 15]), 7 / 30),
        (ratio_interval([1, 2, 3, 4], [5, 10, 15, 20]), 0.2),
        (spearman([1, 2, 3], [2, 1, 3], list("abc")), 0.5),
        (auc_interval([1, 2, 3], [False, True, True], list("aaa")), 1.0),
        # Without run a there is nothing to separate: how much another such run would differ, no other tells.
        (auc_interval([4, 5, 1, 2, 3], [True, True, False, False, False], list("aaabb")), 1.0),
    ],
    ids=[
        "no seed", "one seed", "one that is known", "seeds that all say the same", "three ratios", "equal ratios",
        "three settings", "one run", "one run with all positives",
    ],
)  # fmt: skip
def test_without_a_spread_there_is_no_interval(found: Interval, estimate: float) -> None:
    assert found.estimate == pytest.approx(estimate, nan_ok=True)
    assert (found.low, found.high) == (-math.inf, math.inf)


@pytest.mark.parametrize(
    ("simulated", "least"),
    [
        (partial(coverage.normal_means, 3), 0.93),
        (partial(coverage.poisson_means, 0.3, 0.0), 0.95),
        (partial(coverage.of_spearman, 8, 0.6, 0.3), 0.93),
        (partial(coverage.of_partial_spearman, 12), 0.93),
        (partial(coverage.of_auc, 6, 1.0, 0.7), 0.92),
    ],
    ids=["mean over seeds", "rare intruders", "Spearman", "partial Spearman", "AUC"],
)
def test_intervals_hold_the_truth_as_often_as_they_say(
    simulated: Callable[[], float], least: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage, "STUDIES", 400)
    assert simulated() >= least


def test_ratio_of_sums_by_hand() -> None:
    """The last two hardly changed: their own ratios are 10 and -0.2, and count little in that of the sums."""
    parts, wholes = [0.05, 0.02, 0.03, 0.004, 0.002], [0.5, 0.2, 0.3, 0.0004, -0.01]
    interval = ratio_interval(parts, wholes)
    assert interval.estimate == pytest.approx(0.106 / 0.9904)
    assert interval.has_ends
    assert 0 < interval.low < interval.estimate < interval.high
    assert math.isnan(ratio_interval(parts, [-whole for whole in wholes]).estimate)


def test_counts_are_not_taken_to_spread_less_than_their_grain() -> None:
    found = mean_interval([0.0, 0.0, 0.0], grain=1.0)
    assert found.high == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    wider = [0.0, 4.0, 11.0]
    assert mean_interval(wider, grain=1.0) == mean_interval(wider)


@pytest.mark.parametrize(("effect", "spread"), [(0.185, 0.12), (1.0, 1.0), (-0.4, 0.3), (0.5, 1.7)])
def test_a_plan_finds_its_effect_four_times_in_five(effect: float, spread: float) -> None:
    """Against the power of the two-sided t test, from the noncentral t distribution."""

    def power(seeds: int) -> float:
        quantile, shift = stats.t.ppf(0.975, seeds - 1), abs(effect) / spread * math.sqrt(seeds)
        return float(stats.nct.sf(quantile, seeds - 1, shift))

    needed = seeds_needed(effect, spread)
    assert needed is not None
    assert power(needed) > 0.78
    assert power(needed - 1) < 0.83


def test_the_spread_is_read_back_from_an_interval() -> None:
    values = [0.3, -1.2, 2.2, 0.7, 0.1]
    for level in (0.95, 0.995):  # of ten comparisons
        assert spread_of(mean_interval(values, level=level), 5) == pytest.approx(np.std(values, ddof=1))
    assert seeds_needed(0.001, 1.0) is None
    assert seeds_needed(1.0, 0.0) == 2


def test_the_spread_is_kept_where_an_interval_is_cut_to_what_can_be() -> None:
    """Of two seeds that forgot 5 and 45 points; the cut ends alone would give 11 points."""
    cut = clipped(mean_interval([5.0, 45.0]), -100, 100)
    assert (cut.low, cut.high) == (-100, 100)
    assert spread_of(cut, 2) == pytest.approx(np.std([5.0, 45.0], ddof=1))
    assert spread_of(cut.times(0.01), 2) == pytest.approx(np.std([0.05, 0.45], ddof=1))


def test_what_is_missing_for_an_effect_of_almost_zero_says_how_small_it_is() -> None:
    # Half the width is 4.303 * 0.2 / sqrt(3) = 0.497; seven seeds of that spread would tell a mean of 0.25 from zero:
    # (2.447 + 0.906) * 0.2 / sqrt(7) = 0.2535, eight: (2.365 + 0.896) * 0.2 / sqrt(8) = 0.2306.
    evidence = Evidence(CLAIM, study())
    evidence.add(Where("b", "t"), "intruders", mean_interval([-0.2, 0.0, 0.2]))
    evidence.add(Where("b", "t"), "intruders", mean_interval([0.05, 0.25, 0.45]))
    centred, some = evidence.answers
    assert centred.lacking == "more than 200 seeds, since the effect is within 0.5 of zero"
    assert some.lacking == "about 8 seeds at this spread"


def test_effective_number_of_runs_by_hand() -> None:
    """Four settings of two seeds. The intraclass correlation of x and that of y are alike."""
    x = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]
    y = [1.0, 2.0, 3.0, 4.0, 7.0, 8.0, 5.0, 6.0]
    rho = 1 - 6 * 16 / (8 * 63)
    # Between: 2 * sum of (1.5, 3.5, 5.5, 7.5 minus 4.5)^2 / 3 = 40 / 3; within: 8 * 0.25 / 4 = 0.5.
    c = (40 / 3 - 0.5) / (40 / 3 + 0.5)
    effective = 8 / (1 + c * c)
    half = 1.959964 * math.sqrt((1 + rho**2 / 2) / (effective - 3))
    found = spearman(x, y, [0, 0, 1, 1, 2, 2, 3, 3])
    assert found.estimate == pytest.approx(rho)
    assert found.low == pytest.approx(math.tanh(math.atanh(rho) - half), rel=1e-6)
    assert found.high == pytest.approx(math.tanh(math.atanh(rho) + half), rel=1e-6)


def test_perfect_order_of_few_settings_is_no_certainty() -> None:
    found = spearman([1, 2, 3, 4], [1, 2, 3, 4], list("abcd"))
    assert found.estimate == pytest.approx(1.0)
    assert found.low < 0


@pytest.mark.parametrize(
    "found",
    [
        spearman([], [], []),
        spearman([1, 1, 1, 1], [1, 2, 3, 4], list("abcd")),
        partial_spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], [[10, 20, 30, 40, 50]], list("abcde")),
        auc_interval([1, 2], [True, True], list("ab")),
    ],
    ids=["nothing", "a constant", "a control that orders alike", "positives alone"],
)
def test_without_a_difference_there_is_no_estimate(found: Interval) -> None:
    assert math.isnan(found.estimate)


def test_missing_values_leave_their_row_out() -> None:
    whole = spearman([1, 2, 3, 4], [2, 1, 4, 3], list("abcd"))
    gaps = spearman([1, 2, math.nan, 3, 4, math.inf], [2, 1, 9, 4, 3, 0], list("abxcdy"))
    assert gaps == whole


def test_partial_spearman_with_two_controls_is_the_inverse_of_the_correlations() -> None:
    """-P_xy / sqrt(P_xx P_yy), with P the inverse of the matrix of rank correlations."""
    rng = np.random.default_rng(3)
    z, w = rng.normal(size=(2, 30))
    x, y = z + w + rng.normal(size=30), z - w + rng.normal(size=30)
    precision = np.linalg.inv(stats.spearmanr(np.column_stack([x, y, z, w]))[0])
    found = partial_spearman(x, y, [z, w], list(range(30)))
    expected = -precision[0, 1] / math.sqrt(precision[0, 0] * precision[1, 1])
    assert found.estimate == pytest.approx(expected)
    # Bonett and Wright's variance, with a degree of freedom less for each control.
    half = stats.norm.ppf(0.975) * math.sqrt((1 + expected**2 / 2) / (30 - 5))
    assert found.low == pytest.approx(math.tanh(math.atanh(expected) - half))


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=8), st.lists(st.integers(0, 5), min_size=1, max_size=8)
)
def test_auc_counts_pairs(positive: list[int], negative: list[int]) -> None:
    wins = sum((p > n) + 0.5 * (p == n) for p in positive for n in negative)
    assert auc(positive, negative) == pytest.approx(wins / (len(positive) * len(negative)))


def test_perfect_separation_of_few_matrices_is_no_certainty() -> None:
    found = auc_interval([1, 2, 3, 4], [False, False, True, True], ["a", "b", "a", "b"])
    assert found.estimate == 1
    assert found.low < 0.5
    assert found.high == 1


def test_slope_is_the_least_squares_one() -> None:
    x, y = [0, 1, 2, 3], [1.0, 2.5, 2.0, 5.0]
    assert slope(x, y) == pytest.approx(float(np.polyfit(x, y, 1)[0]))
    assert math.isnan(slope([1, 1], [0, 2]))
    assert math.isnan(slope([], []))


def test_clipping_keeps_a_missing_interval() -> None:
    assert clipped(Interval(0.9, 0.7, 1.3), 0, 1) == Interval(0.9, 0.7, 1)
    assert clipped(Interval(0.9, -math.inf, math.inf), 0, 1) == Interval(0.9, -math.inf, math.inf)


def test_an_interval_is_read_from_the_cells_that_it_gave() -> None:
    interval, one_seed = Interval(0.5, 0.25, 0.75), Interval(0.5, -math.inf, math.inf)
    assert interval_in(interval.cells("gain"), "gain") == interval
    named = interval.cells("ours", "{} low", "{} high")
    assert interval_in(named, "ours", "{} low", "{} high") == interval
    read = interval_in(one_seed.json_cells("gain"), "gain")
    assert read.estimate == 0.5
    assert math.isnan(read.low)
    assert math.isnan(read.high)
    assert math.isnan(interval_in({}, "gain").estimate)


# Few different values, so that many are equal.
PAIRS = st.lists(st.tuples(st.integers(-3, 3), st.floats(-1e6, 1e6)), min_size=2, max_size=30)


@given(PAIRS)
def test_ranks_and_correlation_are_those_of_scipy(pairs: list[tuple[int, float]]) -> None:
    x, y = (np.array(side, dtype=float) for side in zip(*pairs, strict=True))
    np.testing.assert_array_equal(average_ranks(x), stats.rankdata(x))
    if np.ptp(x) > 0 and np.ptp(y) > 0:
        assert rank_correlation(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    else:
        assert np.isnan(rank_correlation(x, y))


def test_many_are_ranked_at_once() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 4, (2, 5, 7, 9)).astype(float)
    np.testing.assert_array_equal(average_ranks(x), stats.rankdata(x, axis=-1))
    together = rank_correlation(x, y)
    assert together.shape == (5, 7)
    for index in np.ndindex(5, 7):
        assert together[index] == pytest.approx(stats.spearmanr(x[index], y[index]).statistic, abs=1e-12)
