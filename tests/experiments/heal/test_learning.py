"""Learning of doses where the best ones are known: two matrices, of which one forgets and the other knows the task."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from intruders.experiments.heal.heal_settings import HealSettings
from intruders.experiments.heal.learning import LEAST, MOST, Learning, Measured, at_bounds
from intruders.experiments.heal.objective import StepLosses


def learned(settings: HealSettings, start: float, harm: float = 0.0, kept: list[Any] | None = None) -> Any:
    """Text loss a_0^2, task loss (1 - a_1)^2 + harm (1 - a_0)^2: with harm the task wants something of the first."""
    doses = torch.full((2,), start, requires_grad=True)

    def losses(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return values[0] ** 2, (1 - values[1]) ** 2 + harm * (1 - values[0]) ** 2

    def gradient(step: int, weight: float) -> StepLosses:
        text, task = losses(doses)
        (text + weight * task).backward()  # type: ignore[no-untyped-call]
        return StepLosses(float(text.detach()), float(task.detach()))

    def measure(step: int, allowed: float) -> Measured:
        text, task = (float(one) for one in losses(doses.detach()))
        return Measured(step, task, text if task <= allowed else None)

    states: list[Any] = [] if kept is None else kept
    return Learning(
        doses, settings, gradient, measure, settings.allow, states.append, lambda step, found: None
    )


def test_it_takes_away_what_forgets_and_keeps_what_knows() -> None:
    best, doses = learned(HealSettings(steps=60, allow=0.01), start=0.9).run()
    assert best.task_loss <= 0.01
    assert doses[0] == pytest.approx(0.0, abs=0.1)
    assert doses[1] == pytest.approx(1.0, abs=0.11)
    # Interpolation at that price: 0.9 of both.
    assert best.text_loss < 0.05 * 0.9**2


def test_the_allowance_is_used_and_never_exceeded() -> None:
    """The least a_0 that is allowed has ``0.5 (1 - a_0)^2 = 0.02``: 0.8."""
    best, doses = learned(HealSettings(steps=40, allow=0.02, weight=0.1), start=0.9, harm=0.5).run()
    assert best.task_loss <= 0.02
    assert doses[0] == pytest.approx(0.8, abs=0.05)


def test_a_state_that_was_kept_ends_as_if_it_had_never_stopped() -> None:
    states: list[Any] = []
    settings = HealSettings(steps=12)
    whole = learned(settings, 0.9, kept=states).run()
    for state in (states[0], states[6], states[-1]):
        again = learned(settings, 0.9)
        again.resume(state)
        assert again.run() == whole


def test_doses_stay_in_their_range() -> None:
    _, doses = learned(HealSettings(steps=30, rate=1.0), start=1.4, harm=-5.0).run()
    assert all(LEAST <= dose <= MOST for dose in doses)
    assert at_bounds([LEAST, 0.2, MOST]) == 2
