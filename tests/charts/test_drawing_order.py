"""What comes in an order keeps it: in its choice, in its colors, and on gray paper."""

from __future__ import annotations

from itertools import pairwise

import pytest

from intruders.charts.drawing import evenly, order_colors


@pytest.mark.parametrize(("count", "most"), [(25, 24), (40, 24), (40, 12), (47, 24), (1000, 6)])
def test_the_choice_has_both_ends_and_no_gap_longer_than_another_by_two(count: int, most: int) -> None:
    chosen = evenly(count, most)
    assert (len(chosen), chosen[0], chosen[-1]) == (most, 0, count - 1)
    gaps = [after - before for before, after in pairwise(chosen)]
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("count", [1, 2, 24])
def test_few_are_all_chosen(count: int) -> None:
    assert evenly(count, 24) == list(range(count))


@pytest.mark.parametrize("count", [2, 13, 40, 200])
def test_every_color_is_lighter_than_the_one_before_on_gray_paper(count: int) -> None:
    gray = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue, _ in order_colors(count)]
    assert len(gray) == count
    assert all(before < after for before, after in pairwise(gray))
    assert gray[-1] < 0.8  # a line on white is still seen
