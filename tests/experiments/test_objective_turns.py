"""The draws of a learning against shares counted by hand."""

from __future__ import annotations

import random

import pytest

from intruders.experiments.objective import turn, turns_of_parts


@pytest.mark.parametrize("weights", [(0.7, 0.3), (3, 1), (76, 38, 31, 8, 8), (1, 1e-3)])
def test_parts_are_drawn_by_their_weights(weights: tuple[float, ...]) -> None:
    counts = [5 + 3 * part for part in range(len(weights))]
    drawn = [0] * len(weights)
    for step in range(60):
        numbers = turns_of_parts(counts, weights, 8, step, seed=1)
        assert sum(map(len, numbers)) == 8
        drawn = [done + len(part) for done, part in zip(drawn, numbers, strict=True)]
        for done, weight in zip(drawn, weights, strict=True):
            assert abs(done - 8 * (step + 1) * weight / sum(weights)) < len(weights)


def test_every_item_of_a_part_comes_once_before_any_repeats() -> None:
    first = [number for step in range(10) for number in turns_of_parts([20, 40], [3, 1], 8, step, seed=0)[0]]
    assert len(first) == 60
    assert all(sorted(first[begin : begin + 20]) == list(range(20)) for begin in (0, 20, 40))


def test_one_corpus_is_drawn_as_before_mixtures_were_weighed() -> None:
    orders = []
    for of_round in range(3):
        order = list(range(11))
        random.Random(f"round 4 {of_round}").shuffle(order)
        orders += order
    for step in range(4):
        assert turns_of_parts([11], [0.2], 8, step, seed=4) == [orders[8 * step : 8 * step + 8]]
    assert turn(3, 8, 1, seed=4) == turns_of_parts([3], [1], 8, 1, seed=4)[0]


def test_of_fewer_items_than_a_step_draws_every_one_comes_once_a_step() -> None:
    for step in range(6):
        order = list(range(5))
        random.Random(f"round 2 {step}").shuffle(order)
        assert turn(5, 8, step, seed=2) == order
