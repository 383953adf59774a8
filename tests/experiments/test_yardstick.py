"""Gains, shares and intervals on planted losses, by hand."""

from typing import Any

import numpy as np
import pytest

from intruders.experiments.experiment_settings import ALPHAS
from intruders.experiments.yardstick import Yardstick, loss_at_task_loss
from intruders.measures.intervals import loss_interval, paired_difference
from intruders.measures.losses import DocumentLosses, Outcome, TaskOutcome

DOCUMENTS, EXAMPLES = 30, 40
TOKENS = np.arange(10, 10 + DOCUMENTS)


def made(
    loss: float,
    task_loss: float,
    right: list[bool] | None = None,
    other: float | None = None,
    harness: dict[str, list[float]] | None = None,
) -> Outcome:
    """Every document with that loss per token, but for what is its own and the same in all models."""
    own = np.random.default_rng(0).normal(0, 0.3, DOCUMENTS)
    corpora = {"text": [DocumentLosses("x", (loss + own) * TOKENS, TOKENS)]}
    if other is not None:
        corpora["code"] = [DocumentLosses("x", (other + own) * TOKENS, TOKENS)]
    ones = np.ones(EXAMPLES, dtype=np.int64)
    task = TaskOutcome(DocumentLosses("t", task_loss + 0.0 * ones, ones), right, right or [])
    return Outcome(corpora, {"task": task}, harness or {})


def yardstick(other: tuple[float, float] | None = None, **settings: Any) -> Yardstick:
    """From the base (text 2, task 4) to the tuned model (text 5, task 1), both in straight lines, as code may be."""
    of_code = (None,) * len(ALPHAS) if other is None else np.interp(ALPHAS, (0, 1), other)
    curve = [made(2 + 3 * a, 4 - 3 * a, other=code) for a, code in zip(ALPHAS, of_code, strict=True)]
    return read_off(curve, **settings)


def read_off(curve: list[Outcome], **settings: Any) -> Yardstick:
    weights = {name: [1.0] for name in curve[0].corpora}
    return Yardstick(curve[0], curve, target="task", weights=weights, **settings)


def test_a_planted_remedy_has_the_gain_that_it_was_given() -> None:
    stick = yardstick()
    # At task loss 2.5 interpolation is half way, and has the loss 3.5.
    for loss, gain in ((3.1, 0.4), (3.5, 0.0), (4.0, -0.5)):
        found = stick.gain(made(loss, 2.5))
        # What documents have of their own is the same in all models, so that nothing is left to vary.
        assert found.estimate == pytest.approx(gain)
        assert (found.low, found.high) == (pytest.approx(gain, abs=1e-9), pytest.approx(gain, abs=1e-9))
    # At the norm 0.4 it has the loss 3.2.
    at_norm = stick.gain_at_norm(made(3.1, 2.5), 0.4)
    assert at_norm.estimate == pytest.approx(0.1)
    assert stick.gain_at_norm(made(3.1, 2.5), 1.2) is None
    assert stick.margin(made(3.1, 2.5), made(3.4, 2.5)).estimate == pytest.approx(0.3)


def test_where_tensors_are_left_out_the_norm_never_falls_to_zero() -> None:
    stick = yardstick(norms=[0.6 + 0.4 * alpha for alpha in ALPHAS])
    found = stick.gain_at_norm(made(3.1, 2.5), 0.8)  # half way: 3.5
    assert found.estimate == pytest.approx(0.4)
    assert stick.gain_at_norm(made(3.1, 2.5), 0.4) is None


def test_healed_and_kept_are_shares_of_what_tuning_did() -> None:
    stick = yardstick()
    healed, kept = stick.healed(made(3.5, 2.5)), stick.kept(made(3.5, 1.3))
    assert healed.estimate == pytest.approx(0.5)
    assert kept.estimate == pytest.approx(0.9)
    nothing_forgotten = read_off([made(2.0, 4 - 3 * alpha) for alpha in ALPHAS])
    assert nothing_forgotten.healed(made(2.0, 3)) is None


def test_intervals_agree_with_those_of_single_losses() -> None:
    rng = np.random.default_rng(3)
    losses = [DocumentLosses("x", rng.normal(3, 1, DOCUMENTS) * TOKENS, TOKENS) for _ in range(2)]
    ones = np.ones(EXAMPLES, dtype=np.int64)
    task = {"task": TaskOutcome(DocumentLosses("t", ones.astype(float), ones), None, [])}
    first, second = (Outcome({"text": [one]}, task) for one in losses)
    stick = read_off([first, *[second] * 10])
    # Both are bootstraps of 10,000, by different draws.
    for found, wanted in (
        (stick.loss(first), loss_interval(losses[0])),
        (stick.tuning_cost(), paired_difference(losses[1], losses[0])),
    ):
        assert found.estimate == pytest.approx(wanted.estimate)
        assert found.low == pytest.approx(wanted.low, abs=0.03)
        assert found.high == pytest.approx(wanted.high, abs=0.03)


def test_a_wider_level_gives_a_wider_interval() -> None:
    losses = [yardstick(level=level).loss(made(2, 4)) for level in (0.95, 1 - 0.05 / 13)]
    widths = [loss.high - loss.low for loss in losses]
    assert widths[1] > 1.2 * widths[0]


def test_four_parts_by_hand() -> None:
    # Tuning damages the text (2 to 5), improves the code (3 to 1), and gains the task (4 to 1).
    parts = yardstick(other=(3, 1)).four_parts(made(3.5, 1.75, other=1.5))
    assert (parts.healing, parts.preservation) == (pytest.approx(0.5), pytest.approx(0.75))
    assert (parts.non_damage, parts.target) == (None, pytest.approx(0.75))
    assert parts.harmonic_mean == pytest.approx(3 / (2 + 4 / 3 + 4 / 3))
    assert yardstick().four_parts(made(3.5, 2)) is None


def test_tasks_of_the_harness_are_sorted_by_what_tuning_did_to_them() -> None:
    """Their scores rise with quality, where a loss falls."""

    def scored(broken: int, learned: int, level: int) -> dict[str, list[float]]:
        def right(count: int) -> list[float]:
            return [1.0] * count + [0.0] * (40 - count)

        return {"broken": right(broken), "learned": right(learned), "level": right(level)}

    # Tuning takes 20 right answers of one task and adds 20 of another; the remedy gives back 5, and keeps 15 of the 20.
    # Of the third, tuning takes one, which is not clear; the remedy takes 25, which is.
    curve = [made(2 + 3 * alpha, 4 - 3 * alpha, harness=scored(30, 10, 30)) for alpha in ALPHAS]
    tuned = made(5, 1, harness=scored(10, 30, 29))
    stick = read_off([*curve[:-1], tuned])
    parts = stick.four_parts(made(3.5, 1.75, harness=scored(15, 25, 5)))
    assert parts.healing == pytest.approx((0.5 + 5 / 20) / 2)  # with the text, of which half is healed
    assert parts.preservation == pytest.approx(15 / 20)
    assert parts.non_damage == 0
    level = stick.four_parts(made(3.5, 1.75, harness=scored(15, 25, 29)))
    assert level.non_damage == 1


def test_items_are_counted_one_by_one() -> None:
    base = [True] * 10 + [False] * 30
    tuned = [False] * 5 + [True] * 25 + [False] * 10
    now = [True] * 3 + [False] * 3 + [True] * 14 + [False] * 20
    curve = [made(2, 4, base), *[made(3, 3)] * 9, made(5, 1, tuned)]
    stick = read_off(curve)
    items = stick.items(made(3, 2, now))
    assert vars(items) == {"broken": 5, "right_again": 3, "gained": 20, "still_right": 10, "new_failures": 1}
    assert stick.items(made(3, 2)) is None


def test_a_curve_that_turns_back_is_compared_at_its_best_point() -> None:
    # The task loss is lowest at the middle: at 1.5 there are two points, of losses 2.5 and 3.5.
    losses, task_losses = np.array([2.0, 3.0, 4.0]), np.array([2.0, 1.0, 2.0])
    assert float(loss_at_task_loss(losses, task_losses, np.array(1.5))) == pytest.approx(2.5)
