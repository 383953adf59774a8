"""What an evaluation of a remedy comes to, as one point of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...measures.losses import DocumentLosses
from ...measures.outcome import Outcome
from ...mitigation.remedies.interpolate import Interpolate
from ...mitigation.remedies.remedy import Remedy
from ..bench.yardstick import Yardstick
from .compared import REPORT, ComparedPoint
from .tried_strengths import strength_of


def point_of(
    remedy: Remedy,
    outcome: Outcome,
    yardstick: Yardstick,
    share: str,
    norm: float,
    output: float | None,
    control: str | None = None,
    of: Remedy | None = None,
) -> ComparedPoint:
    """Return the point of a remedy, or of a ``control`` of the remedy ``of``.

    ``norm`` and ``output`` are the norm of all updates and their output energy, 1 being the tuned model's.
    """
    is_curve = remedy.name == Interpolate.name
    return ComparedPoint(
        remedy=(of or remedy).name,
        settings=remedy.recorded(),
        strength=strength_of(of or remedy),
        control=control,
        share=share,
        norm=norm,
        output=output,
        **_measures(outcome, yardstick),
        gain=None if is_curve else yardstick.gain(outcome),
        gain_at_norm=None if is_curve else yardstick.gain_at_norm(outcome, norm),
    )


def point_on_curve(alpha: float, norm: float, outcome: Outcome, yardstick: Yardstick) -> ComparedPoint:
    """Return the point of interpolation at ``alpha``, on the documents that are reported."""
    return ComparedPoint(
        remedy=Interpolate.name,
        settings={"alpha": alpha},
        strength=alpha,
        control=None,
        share=REPORT,
        norm=norm,
        output=alpha**2,
        **_measures(outcome, yardstick),
    )


def _measures(outcome: Outcome, yardstick: Yardstick) -> dict[str, Any]:
    return {
        "losses": {name: _mean(parts, yardstick, name) for name, parts in outcome.corpora.items()},
        "task_losses": {name: task.losses.mean for name, task in outcome.tasks.items()},
        "accuracies": {name: task.accuracy for name, task in outcome.tasks.items()},
        "harness": {name: sum(scores) / len(scores) for name, scores in outcome.harness.items()},
        "loss": yardstick.loss(outcome),
        "task_loss": yardstick.task_loss(outcome),
        "healed": yardstick.healed(outcome),
        "kept": yardstick.kept(outcome),
    }


def _mean(parts: Sequence[DocumentLosses], yardstick: Yardstick, name: str) -> float:
    weights = yardstick.weights[name]
    return sum(weight * part.mean for weight, part in zip(weights, parts, strict=True)) / sum(weights)
