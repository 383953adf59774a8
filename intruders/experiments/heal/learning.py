"""Learn the doses by Adam and choose the state to keep; an interrupted learning resumes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .heal_settings import HealSettings
from .objective import StepLosses

LEAST, MOST = -0.5, 1.5  # of a dose

# Steps between two measures on the half that chooses; as many states can be kept as there are measures.
EVERY = 5

_WEIGHT_RANGE = 30.0  # by how much the weight of the task may leave its start, up and down
# Where the line from the last state to the tuned model (1) begins, and how often it is halved.
_BEYOND, _HALVINGS = -0.4, 5

_WEIGHT_STEP = 0.5  # of its logarithm, at most, at a measure


@dataclass(frozen=True)
class Measured:
    """The measures of a state on the half that chooses."""

    step: int
    task_loss: float  # of validation examples, in nats per token
    text_loss: float | None  # None where the task loss rules it out

    def as_dict(self) -> dict[str, Any]:
        return dict(self.__dict__)


Gradient = Callable[[int, float], StepLosses]  # (step, weight of the task): adds to the gradient of the doses
Measure = Callable[[int, float], Measured]  # (step, most task loss)


class Learning:
    """Adam on the doses, with the state after every step as plain numbers."""

    def __init__(
        self,
        doses: Tensor,
        settings: HealSettings,
        gradient: Gradient,
        measure: Measure,
        most: float,
        keep: Callable[[Mapping[str, Any]], None],
        told: Callable[[int, StepLosses], None],
    ) -> None:
        """Prepare to learn.

        Args:
          doses: (doses,) at the start; they are changed in place.
          settings: how the doses are learned.
          gradient: adds the gradient of the objective at a step.
          measure: measures the present state.
          most: the largest task loss, on the half that chooses, of a state that may be kept.
          keep: called with the state after every step.
          told: called with the losses of every step.
        """
        self._doses, self._settings = doses, settings
        self._gradient, self._measure, self._most = gradient, measure, most
        self._keep, self._told = keep, told
        self._first = torch.zeros_like(doses)
        self._second = torch.zeros_like(doses)
        self._weight = settings.weight
        self._step = 0
        self._best: tuple[Measured, list[float]] | None = None
        self.measured: list[Measured] = []

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that was kept."""
        self._step, self._weight = state["step"], state["weight"]
        for tensor, name in ((self._doses, "doses"), (self._first, "first"), (self._second, "second")):
            tensor.data.copy_(torch.tensor(state[name], dtype=tensor.dtype))
        self.measured = [Measured(**record) for record in state["measured"]]
        best = state["best"]
        self._best = None if best is None else (Measured(**best["measured"]), best["doses"])

    def run(self) -> tuple[Measured, list[float]]:
        """Learn, and return the state with the least loss on text whose task loss is allowed, or the start."""
        if not self.measured:
            self._look()
            self._keep(self._state())
        while self._step < self._settings.steps:
            self._doses.grad = None
            losses = self._gradient(self._step, self._weight)
            self._move()
            self._step += 1
            if self._step % EVERY == 0 or self._step == self._settings.steps:
                self._look()
            self._keep(self._state())
            self._told(self._step, losses)
        self._settle()
        assert self._best is not None
        return self._best

    def _look(self, *, follows: bool = True) -> None:
        """Measure the present state, keep it if it is the best, and adapt the weight of the task."""
        measured = self._measure(self._step, self._most)
        self.measured.append(measured)
        best = None if self._best is None else self._best[0].text_loss
        is_allowed = measured.text_loss is not None and measured.task_loss <= self._most
        if self._best is None or (
            is_allowed and measured.text_loss is not None and _is_less(measured.text_loss, best)
        ):
            self._best = (measured, self._doses.detach().tolist())
        if self._step and follows:
            room = max(self._settings.allow, 1e-3)
            over = min(1.0, max(-1.0, (measured.task_loss - self._most) / room))
            logarithm = math.log(self._weight / self._settings.weight) + _WEIGHT_STEP * over
            bound = math.log(_WEIGHT_RANGE)
            self._weight = self._settings.weight * math.exp(min(bound, max(-bound, logarithm)))

    def _settle(self) -> None:
        """Use the allowance: move to the first allowed point on the line from the last state to the tuned model.

        Learned doses may cost the task a little more than is allowed, or less. On that line the task loss falls towards
        the tuned model's, which is allowed by definition.
        """
        last = self._doses.detach().clone()
        low, high = _BEYOND, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            self._go(last, middle)
            if self._measure(self._step, -math.inf).task_loss <= self._most:
                high = middle
            else:
                low = middle
        self._go(last, high)
        self._look(follows=False)
        self._go(last, 0.0)

    def _go(self, last: Tensor, share: float) -> None:
        """Move a share of the way from a state to the tuned model; a share below 0 moves away from it."""
        self._doses.data.copy_((last + share * (1 - last)).clamp(LEAST, MOST))

    def _move(self) -> None:
        """Take a step of Adam (Kingma and Ba 2015) with a falling rate, and clip the doses to their range."""
        gradient = self._doses.grad
        assert gradient is not None
        number = self._step + 1
        self._first.lerp_(gradient, 0.1)
        self._second.lerp_(gradient.square(), 0.01)
        mean, square = self._first / (1 - 0.9**number), self._second / (1 - 0.99**number)
        rate = self._settings.rate * 0.5 * (1 + math.cos(math.pi * self._step / self._settings.steps))
        with torch.no_grad():
            self._doses.sub_(rate * mean / (square.sqrt() + 1e-10)).clamp_(LEAST, MOST)

    def _state(self) -> dict[str, Any]:
        best = self._best
        return {
            "step": self._step,
            "weight": self._weight,
            "doses": self._doses.detach().tolist(),
            "first": self._first.tolist(),
            "second": self._second.tolist(),
            "measured": [measured.as_dict() for measured in self.measured],
            "best": None if best is None else {"measured": best[0].as_dict(), "doses": best[1]},
        }


def at_bounds(doses: Sequence[float]) -> int:
    """Return the number of doses at an end of their range."""
    return sum(dose <= LEAST or dose >= MOST for dose in doses)


def _is_less(loss: float, than: float | None) -> bool:
    return than is None or loss < than
