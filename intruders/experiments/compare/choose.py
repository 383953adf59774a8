"""Which strength of a remedy is the best: a first pass on little data, and the choice on the half for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...errors import NonFiniteError
from ...measures.outcome import Outcome
from ...mitigation.remedies.remedy import Case, Remedy
from ..bench.point import Point
from .measured_curve import CHOICE, Compared, MeasuredCurve


@dataclass(frozen=True)
class ChosenStrength:
    """A remedy at the strength that was chosen, and the strengths that it was chosen from."""

    remedy: Remedy
    is_over_allowance: bool  # no strength kept the task loss within the allowance
    tried: list[Point]


def first_pass(
    compared: Compared, curve: MeasuredCurve, remedies: Sequence[Remedy]
) -> tuple[list[Remedy], list[Remedy]]:
    """Separate the strengths to measure further from those clearly below the curve or without a finite loss."""
    left: list[Remedy] = []
    dropped: list[Remedy] = []
    for remedy in remedies:
        try:
            # Without a first pass this finds a loss that is not finite; the evaluation is kept and used again.
            outcome = compared.bench.outcome(remedy, compared.data.choice[0])
        except NonFiniteError:
            dropped.append(remedy)
            continue
        is_under = curve.first is not None and curve.first.gain(outcome).is_below_zero
        (dropped if is_under else left).append(remedy)
    return left, dropped


def choose(
    compared: Compared,
    curve: MeasuredCurve,
    remedies: Sequence[Remedy],
    outcomes: Sequence[Outcome],
    cases: Sequence[Case],
) -> ChosenStrength:
    """Choose the lowest loss on text within the allowance for the task; where none is within, the lowest task loss.

    Args:
      compared: the model.
      curve: what its points are measured by.
      remedies: one remedy at several strengths.
      outcomes: of each on the half that strengths are chosen by.
      cases: the matrices that it changes.
    """
    tried = [
        curve.point(remedy, outcome, CHOICE, cases)
        for remedy, outcome in zip(remedies, outcomes, strict=True)
    ]
    limit = curve.choice.tuned.tasks[compared.target].losses.mean + compared.comparison.allow
    within = [position for position, point in enumerate(tried) if point.task_loss.estimate <= limit]
    if within:
        best = min(within, key=lambda position: tried[position].loss.estimate)
    else:
        best = min(range(len(tried)), key=lambda position: tried[position].task_loss.estimate)
    return ChosenStrength(remedies[best], not within, tried)
