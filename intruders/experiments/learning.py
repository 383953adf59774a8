"""Learn tensors of a tuned model by Adam and choose the state to keep; an interrupted learning resumes."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..measures.intervals import paired_difference
from ..measures.losses import DocumentLosses
from .objective import StepLosses

LEAST, MOST = -0.5, 1.5  # of a dose

# Steps between two measures on the half that chooses; as many states can be kept as there are measures.
EVERY = 5

# Steps in which the rate rises: at the tuned model, where weights start, the task has no gradient.
_WARM_UP = 5
_BETAS, _EPS = (0.9, 0.99), 1e-10
_WEIGHT_RANGE = 30.0  # by how much the weight of the task may leave its start: up, and of doses down
_BEYOND = -0.4  # where the line from the last state to the tuned model (1) begins
_HALVINGS = 5  # of a range of doses; each is one measure of the task
_ONE_ERROR = 0.683  # of a normal distribution within a standard error

State = tuple[Mapping[str, Tensor], Mapping[str, str]]  # tensors and texts, as a safetensors file has them


class OnTask(NamedTuple):
    """What a state does on the examples of the task that choose."""

    loss: float  # in nats per token
    reproduced: int  # targets that are the model's most likely tokens
    error: float = 0.0  # standard error of the loss beside the tuned model's


def standard_error(own: DocumentLosses, tuned: DocumentLosses) -> float:
    """Return that of the difference of two losses on the same examples; none for one example, which has none."""
    rise = paired_difference(own, tuned, level=_ONE_ERROR)
    return rise.estimate - rise.low if rise.has_ends else 0.0


@dataclass(frozen=True)
class Allowance:
    """What a state that is kept may cost on the half that chooses."""

    task_loss: float  # at most, in nats per token
    reproduced: int  # at least: targets that are the model's most likely tokens

    def excess(self, on_task: OnTask) -> float:
        """Return how far the loss is above what is allowed, less its error; infinite where too few are reproduced."""
        is_enough = on_task.reproduced >= self.reproduced
        return on_task.loss - on_task.error - self.task_loss if is_enough else math.inf

    def allows(self, on_task: OnTask) -> bool:
        return self.excess(on_task) <= 0


@dataclass(frozen=True)
class Measured:
    """The measures of a state on the half that chooses."""

    step: int
    task_loss: float  # of validation examples, in nats per token
    reproduced: int  # of their targets
    text_loss: float | None  # None where the task rules it out


@dataclass(frozen=True)
class Learnable:
    """A tensor that is learned."""

    tensor: Tensor  # changed in place; it requires a gradient
    rate: float  # at most, by a step; it rises first, and falls to zero
    bounds: tuple[float, float] | None = None


@dataclass
class Learning:
    """Adam (Kingma and Ba 2015) on the tensors, with the state after every measure as plain tensors."""

    learnables: Sequence[Learnable]
    steps: int
    first_weight: float  # of the task beside the text at the first step
    gradient: Callable[[int, float], StepLosses]  # adds that of the objective at a step and a weight
    on_task: Callable[[], OnTask]  # of the present state
    on_text: Callable[[], float]
    allowance: Allowance
    allow: float  # the rise that is allowed, which scales the steps of the weight
    keep: Callable[[State], None]  # called with the state after every measure
    told: Callable[[int, StepLosses], None]  # called with the losses of every step
    measured: list[Measured] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tensors = [learnable.tensor for learnable in self.learnables]
        groups = [{"params": [learnable.tensor], "lr": learnable.rate} for learnable in self.learnables]
        self._adam = torch.optim.Adam(groups, betas=_BETAS, eps=_EPS)
        self._learns_weights = len(self.learnables) > 1
        self._weight, self._step = self.first_weight, 0
        self._best: tuple[Measured, list[Tensor]] | None = None

    def resume(self, state: State) -> int:
        """Continue from a state that was kept, and return its step."""
        tensors, texts = state
        record = json.loads(texts["learning"])
        self._step, self._weight = record["step"], record["weight"]
        for number, tensor in enumerate(self._tensors):
            tensor.data.copy_(tensors[f"value.{number}"])
        moments = {
            number: {
                "step": torch.tensor(float(self._step)),
                "exp_avg": tensors[f"first.{number}"],
                "exp_avg_sq": tensors[f"second.{number}"],
            }
            for number in range(len(self._tensors))
        }
        if self._step:
            groups = self._adam.state_dict()["param_groups"]
            self._adam.load_state_dict({"state": moments, "param_groups": groups})
        self.measured = [Measured(**measured) for measured in record["measured"]]
        best = [tensors[f"best.{number}"].to(tensor.device) for number, tensor in enumerate(self._tensors)]
        self._best = (Measured(**record["best"]), best)
        return self._step

    def run(self) -> tuple[Measured, list[Tensor]]:
        """Learn, and return the allowed state with the least loss on text and its tensors, or the start."""
        if not self.measured:
            self._look()
        while self._step < self.steps:
            self._adam.zero_grad()
            losses = self.gradient(self._step, self._weight)
            self._move()
            self._step += 1
            if self._step % EVERY == 0 or self._step == self.steps:
                self._look()
            self.told(self._step, losses)
        self._settle()
        assert self._best is not None
        return self._best

    def _look(self, *, follows: bool = True) -> None:
        """Measure the present state and note it if it is the best; for steps that follow, adapt the task's weight."""
        on_task = self.on_task()
        excess = self.allowance.excess(on_task)
        text_loss = self.on_text() if excess <= 0 else None
        measured = Measured(self._step, on_task.loss, on_task.reproduced, text_loss)
        self.measured.append(measured)
        least = None if self._best is None else self._best[0].text_loss
        if self._best is None or (
            measured.text_loss is not None and (least is None or measured.text_loss < least)
        ):
            self._best = (measured, [tensor.detach().clone() for tensor in self._tensors])
        if self._step and follows:
            over = min(1.0, max(-1.0, excess / max(self.allow, 1e-3)))
            logarithm = math.log(self._weight / self.first_weight) + over
            most = math.log(_WEIGHT_RANGE)
            # Of weights the text is healed within a few steps; what they could lose after that is the task.
            least = 0.0 if self._learns_weights else -most
            self._weight = self.first_weight * math.exp(min(most, max(least, logarithm)))
        if follows:
            self.keep(self._state())

    def _settle(self) -> None:
        """Use the allowance: move to the first allowed point on a line from the last state.

        What was learned may cost the task a little more than is allowed, or less. The line of doses ends at the tuned
        model, which is allowed by definition; that of weights at the best state, the tuned model if it is alone.
        """
        if self._learns_weights and self.measured[-1].text_loss is not None:
            return  # weights need not be moved away from the tuned model: that would cost the task what it has left
        assert self._best is not None
        last = [tensor.detach().clone() for tensor in self._tensors]
        end, low = self._best[1], 0.0
        if not self._learns_weights:  # doses, which are one in the tuned model
            end, low = [torch.ones_like(tensor) for tensor in last], _BEYOND

        def is_allowed(share: float) -> bool:
            self._go(last, end, share)
            return self.allowance.allows(self.on_task())

        self._go(last, end, least_allowed(is_allowed, low))
        self._look(follows=False)
        self._go(last, end, 0.0)

    def _go(self, last: Sequence[Tensor], end: Sequence[Tensor], share: float) -> None:
        """Move a share of the way from one state to another; a share below 0 moves away from it."""
        for tensor, start, aim in zip(self._tensors, last, end, strict=True):
            tensor.data.copy_(start + share * (aim - start))
        self._clip()

    def _move(self) -> None:
        """Take a step of Adam with a rate that rises and falls, within the bounds."""
        rise = min(1.0, (self._step + 1) / _WARM_UP)
        share = rise * 0.5 * (1 + math.cos(math.pi * self._step / self.steps))
        for group, learnable in zip(self._adam.param_groups, self.learnables, strict=True):
            group["lr"] = learnable.rate * share
        self._adam.step()
        self._clip()

    def _clip(self) -> None:
        for learnable in self.learnables:
            if learnable.bounds is not None:
                learnable.tensor.data.clamp_(*learnable.bounds)

    def _state(self) -> State:
        assert self._best is not None
        tensors: dict[str, Tensor] = {}
        for number, tensor in enumerate(self._tensors):
            moments: Mapping[str, Any] = self._adam.state.get(tensor, {})
            tensors[f"value.{number}"] = tensor.detach()
            tensors[f"first.{number}"] = moments.get("exp_avg", torch.zeros_like(tensor))
            tensors[f"second.{number}"] = moments.get("exp_avg_sq", torch.zeros_like(tensor))
            tensors[f"best.{number}"] = self._best[1][number]
        record = {
            "step": self._step,
            "weight": self._weight,
            "measured": [asdict(measured) for measured in self.measured],
            "best": asdict(self._best[0]),
        }
        return tensors, {"learning": json.dumps(record)}


def at_bounds(doses: Sequence[float]) -> int:
    """Return the number of doses at an end of their range."""
    return sum(dose <= LEAST or dose >= MOST for dose in doses)


def least_allowed(
    is_allowed: Callable[[float], bool], low: float = 0.0, *, halvings: int = _HALVINGS
) -> float:
    """Return the smallest number from ``low`` to 1 that is allowed, after N halvings of the range; 1 if none is."""
    high = 1.0
    for _ in range(halvings):
        middle = (low + high) / 2
        if is_allowed(middle):
            high = middle
        else:
            low = middle
    return high
