"""Learning of doses where the best ones are known: two matrices, of which one forgets and the other knows the task."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from intruders.experiments.learning import (
    LEAST,
    MOST,
    Allowance,
    Learnable,
    Learning,
    OnTask,
    at_bounds,
    standard_error,
)
from intruders.experiments.objective import StepLosses
from intruders.measures.losses import DocumentLosses


def learned(
    start: float,
    *,
    harm: float = 0.0,
    both: float = 0.0,
    kept: list[Any] | None = None,
    allow: float = 0.01,
    least_reproduced: int = 0,
    steps: int = 40,
    rate: float = 0.06,
    weight: float = 3.0,
    error: float = 0.0,
) -> Any:
    """Text loss a_0^2 + both a_1^2, task loss (1 - a_1)^2 + harm (1 - a_0)^2: with harm the task wants both.

    Of ten targets, one more is reproduced for every tenth that a_1 has above zero.
    """
    doses = torch.full((2,), start, requires_grad=True)

    def losses(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return values[0] ** 2 + both * values[1] ** 2, (1 - values[1]) ** 2 + harm * (1 - values[0]) ** 2

    def gradient(step: int, weight: float) -> StepLosses:
        text, task = losses(doses)
        (text + weight * task).backward()  # type: ignore[no-untyped-call]
        return StepLosses(float(text.detach()), float(task.detach()))

    def on_task() -> OnTask:
        reproduced = int(10 * min(1.0, float(doses.detach()[1]) + 1e-6))
        return OnTask(float(losses(doses.detach())[1]), reproduced, error)

    states: list[Any] = [] if kept is None else kept
    return Learning(
        [Learnable(doses, rate, (LEAST, MOST))],
        steps,
        weight,
        gradient,
        on_task,
        lambda: float(losses(doses.detach())[0]),
        Allowance(allow, least_reproduced),
        allow,
        lambda state: states.append(({name: tensor.clone() for name, tensor in state[0].items()}, state[1])),
        lambda step, found: None,
    )


def test_it_takes_away_what_forgets_and_keeps_what_knows() -> None:
    best, [doses] = learned(0.9, steps=60).run()
    assert best.task_loss <= 0.01
    assert doses[0] == pytest.approx(0.0, abs=0.1)
    assert doses[1] == pytest.approx(1.0, abs=0.11)
    # Interpolation at that price: 0.9 of both.
    assert best.text_loss < 0.05 * 0.9**2


def test_the_allowance_is_used_and_never_exceeded() -> None:
    """The least a_0 that is allowed has ``0.5 (1 - a_0)^2 = 0.02``: 0.8."""
    best, [doses] = learned(0.9, harm=0.5, allow=0.02, weight=0.1).run()
    assert best.task_loss <= 0.02
    assert doses[0] == pytest.approx(0.8, abs=0.05)


def test_a_state_that_reproduces_too_few_targets_is_not_kept() -> None:
    """A task loss of 0.5 allows a_1 of 0.3; with nine of ten targets it is 0.9 or more."""
    loose, [doses] = learned(0.9, both=1.0, allow=0.5, weight=0.1).run()
    assert loose.reproduced < 9
    assert float(doses[1]) < 0.9
    strict, [doses] = learned(0.9, both=1.0, allow=0.5, weight=0.1, least_reproduced=9).run()
    assert strict.reproduced >= 9
    assert float(doses[1]) >= 0.9


def test_refused_weights_end_on_the_line_to_the_best_allowed_state() -> None:
    states: list[Any] = []
    learning = learned(0.9, harm=0.2, kept=states, allow=0.017, steps=10, weight=0.1)
    unused = Learnable(torch.zeros(1, requires_grad=True), 0.06)
    best, [kept, _] = replace(learning, learnables=[*learning.learnables, unused]).run()
    assert [each.text_loss is None for each in learning.measured] == [False, False, True, False]
    assert best.text_loss < learning.measured[1].text_loss
    allowed, last = (tensors["value.0"] for tensors, _ in states[1:])
    shares = (kept - last) / (allowed - last)
    assert shares[0] == pytest.approx(float(shares[1]), abs=1e-4)
    assert 0 < float(shares[0]) < 1


def test_a_loss_that_may_be_chance_is_allowed_and_too_few_targets_are_not() -> None:
    best, _ = learned(0.9, both=1.0, allow=0.1, weight=0.1, error=0.4).run()
    assert 0.1 < best.task_loss <= 0.5
    strict, _ = learned(0.9, both=1.0, allow=0.1, weight=0.1, error=0.4, least_reproduced=9).run()
    assert strict.reproduced >= 9


def test_the_error_is_of_the_difference_from_the_tuned_model_on_the_same_examples() -> None:
    """The linearized standard error of a ratio (Cochran 1977, section 6.4)."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(1, 6, 300)
    sums = tokens * generator.random(300) + np.stack([0.05 * generator.standard_normal(300), np.zeros(300)])
    own, tuned = (DocumentLosses("cross-entropy", losses, tokens) for losses in sums)
    rise = sums[0] - sums[1]
    residuals = rise - rise.sum() / tokens.sum() * tokens
    expected = 300**0.5 * residuals.std(ddof=1) / tokens.sum()
    assert standard_error(own, tuned) == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_state_that_was_kept_ends_as_if_it_had_never_stopped(which: int) -> None:
    states: list[Any] = []
    best, [doses] = learned(0.9, kept=states, steps=12).run()
    again = learned(0.9, steps=12)
    assert again.resume(states[which]) == [0, 5, 10, 12][which]
    best_again, [doses_again] = again.run()
    assert best_again == best
    assert torch.equal(doses_again, doses)


def test_the_steps_are_those_of_adam() -> None:
    """Kingma and Ba 2015, algorithm 1, on a gradient of 1 at a rate that rises for five steps, times half a cosine."""
    values = torch.zeros(1, requires_grad=True)

    def gradient(step: int, weight: float) -> StepLosses:
        values.sum().backward()  # type: ignore[no-untyped-call]
        return StepLosses(0.0, 0.0)

    replace(learned(0.5, steps=6), learnables=[Learnable(values, 0.1)], gradient=gradient).run()
    # With a constant gradient both moments, corrected, are 1: each step is its rate, 0.1 times
    # 0.2, 0.4 (1 + cos 30°) / 2, 0.6 (0.75), 0.8 (0.5), 0.25 and (1 - cos 30°) / 2.
    assert float(values.detach()) == pytest.approx(-0.17401924, abs=1e-7)


def test_doses_stay_in_their_range() -> None:
    _, [doses] = learned(1.4, harm=-5.0, steps=30, rate=1.0).run()
    assert all(LEAST <= dose <= MOST for dose in doses.tolist())
    assert at_bounds([LEAST, 0.2, MOST]) == 2
