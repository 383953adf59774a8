"""Intervals against simulation and closed forms."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from intruders.errors import SettingError
from intruders.measures.corpus_loss import mixed
from intruders.measures.intervals import Interval, loss_interval, paired_difference, proportion_interval
from intruders.measures.losses import DocumentLosses


def _losses(means: np.ndarray, tokens: np.ndarray, measure: str = "cross-entropy") -> DocumentLosses:
    return DocumentLosses(measure, means * tokens, tokens)


@pytest.mark.parametrize("documents", [6, 8, 12, 60])
def test_the_interval_covers_the_truth_as_often_as_it_says(documents: int) -> None:
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        tokens = generator.integers(20, 200, documents)
        before = _losses(generator.normal(3, 1, documents), tokens)
        change = tokens * generator.normal(0.2, 0.3, documents)
        after = DocumentLosses("cross-entropy", before.sums + change, tokens)
        found = paired_difference(after, before, seed=seed)
        covered += found.low <= 0.2 <= found.high
    # 95 % of 200 is 190, with a standard error of 3; plain percentiles cover some 165 of 200 with 6 documents.
    assert 180 <= covered <= 199


def test_seeded_and_one_document_says_nothing_of_the_spread() -> None:
    losses = _losses(np.arange(1.0, 21.0), np.full(20, 7))
    assert loss_interval(losses, seed=4) == loss_interval(losses, seed=4)
    one = loss_interval(_losses(np.array([2.0]), np.array([9])))
    assert one == Interval(2.0, -math.inf, math.inf)


def test_only_like_can_be_paired() -> None:
    losses = _losses(np.ones(3), np.array([5, 5, 5]))
    with pytest.raises(SettingError, match="cannot be paired"):
        paired_difference(losses, _losses(np.ones(3), np.array([5, 5, 6])))
    with pytest.raises(SettingError, match="cannot be paired"):
        paired_difference(losses, _losses(np.ones(3), np.array([5, 5, 5]), "pseudo-loss"))


@given(of=st.integers(1, 500), data=st.data())
def test_wilson_ends_solve_its_equation(of: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, of))
    found = proportion_interval(right, of)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    # |share - p| = z sqrt(p (1 - p) / n) at both ends.
    for end in (found.low, found.high):
        distance = 1.959964 * math.sqrt(end * (1 - end) / of)
        assert abs(found.estimate - end) == pytest.approx(distance, abs=1e-7)


def test_a_mixture_weighs_its_parts() -> None:
    parts = [Interval(2.0, 1.7, 2.4), Interval(4.0, 3.6, 4.3)]
    found = mixed(parts, [3.0, 1.0])
    assert found.estimate == pytest.approx(2.5)
    assert found.low == pytest.approx(2.5 - math.hypot(0.75 * 0.3, 0.25 * 0.4))
    assert found.high == pytest.approx(2.5 + math.hypot(0.75 * 0.4, 0.25 * 0.3))
    assert mixed(parts[:1], [3.0]) == parts[0]


def test_an_interval_knows_its_side_of_zero_also_with_one_end() -> None:
    assert Interval(1.0, 0.1, math.inf).is_above_zero
    assert not Interval(1.0, 0.0, 2.0).is_above_zero
    assert Interval(-1.0, -math.inf, -0.1).is_below_zero
    nothing = Interval(math.nan, math.nan, math.nan)
    assert not nothing.is_above_zero
    assert not nothing.is_below_zero
