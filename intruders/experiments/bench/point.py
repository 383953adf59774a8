"""What an evaluation of a remedy comes to, as one point beside the interpolation curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...measures.intervals import Interval
from ...measures.losses import mean_loss
from ...measures.outcome import Outcome
from ...mitigation.remedies.interpolate import Interpolate
from ...mitigation.remedies.remedy import Remedy
from .yardstick import Yardstick


@dataclass(frozen=True)
class Point:
    """One model: a remedy at a strength, or a control of it, on one share of the data."""

    remedy: str
    settings: Mapping[str, Any]
    strength: float | None
    control: str | None  # None for the remedy itself
    share: str  # "first", "choice" or "report"
    norm: float  # ||D'|| over all tuned tensors, 1 being the tuned model's
    output: float | None  # mean of ||D'h||^2 over inputs h of the base, likewise
    losses: Mapping[str, float]  # by corpus
    task_losses: Mapping[str, float]
    accuracies: Mapping[str, float | None]
    loss: Interval  # mean over the corpora
    task_loss: Interval  # of the first task
    healed: Interval | None = None
    kept: Interval | None = None
    gain: Interval | None = None  # at equal task loss; None of interpolation itself
    gain_at_norm: Interval | None = None
    margin: Interval | None = None  # of a control: the gain of its remedy minus its own
    # Scores by task of lm-evaluation-harness, where they were asked for: of chosen strengths, base and tuned model.
    harness: Mapping[str, float] = field(default_factory=dict)


def point_of(
    remedy: Remedy,
    outcome: Outcome,
    yardstick: Yardstick,
    share: str,
    norm: float,
    output: float | None,
    control: str | None = None,
    of: Remedy | None = None,
) -> Point:
    """Return the point of a remedy, or of a ``control`` of the remedy ``of``.

    ``norm`` and ``output`` are the norm of all updates and their output energy, 1 being the tuned model's.
    """
    is_curve = remedy.name == Interpolate.name
    return Point(
        remedy=(of or remedy).name,
        settings=remedy.recorded(),
        strength=(of or remedy).strength_value,
        control=control,
        share=share,
        norm=norm,
        output=output,
        **_measures(outcome, yardstick),
        gain=None if is_curve else yardstick.gain(outcome),
        gain_at_norm=None if is_curve else yardstick.gain_at_norm(outcome, norm),
    )


def _measures(outcome: Outcome, yardstick: Yardstick) -> dict[str, Any]:
    return {
        "losses": {
            name: mean_loss(parts, yardstick.weights[name]) for name, parts in outcome.corpora.items()
        },
        "task_losses": {name: task.losses.mean for name, task in outcome.tasks.items()},
        "accuracies": {name: task.accuracy for name, task in outcome.tasks.items()},
        "harness": {name: sum(scores) / len(scores) for name, scores in outcome.harness.items()},
        "loss": yardstick.loss(outcome),
        "task_loss": yardstick.task_loss(outcome),
        "healed": yardstick.healed(outcome),
        "kept": yardstick.kept(outcome),
    }
