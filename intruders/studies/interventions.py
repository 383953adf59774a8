"""A sweep of interventions as rows of the study's table."""

from __future__ import annotations

import math
from typing import Any

from ..evaluation.bootstrap import Interval
from ..evaluation.intervention import InterventionSweep, Point
from ..mitigation.controls import INTRUDERS


def intervention_rows(sweep: InterventionSweep) -> list[dict[str, Any]]:
    """One row a measure of every point, the tuned model first; a control beside the intruders at its scale, too."""
    of_intruders = {point.scale: point for point in sweep.points if point.control == INTRUDERS}
    found = []
    for point in [sweep.tuned_point, *sweep.points]:
        is_tuned = point is sweep.tuned_point
        other = None if is_tuned or point.control == INTRUDERS else of_intruders.get(point.scale)
        change, against = sweep.trade(point), None if other is None else sweep.trade(point, other)
        for measure, values, changes, compared in (
            ("loss", _losses(point), change.losses, against and against.losses),
            ("accuracy", _accuracies(point), change.accuracies, against and against.accuracies),
        ):
            for on, value in values.items():
                base = sweep.base_losses.get(on) if measure == "loss" else None
                found.append(
                    {
                        "control": point.control,
                        "scale": point.scale,
                        "measure": measure,
                        "on": on,
                        "value": value,
                        **_numbers("change", changes[on]),
                        **_numbers("against_intruders", compared[on] if compared else None),
                        "base_value": None if base is None else base.loss.estimate,
                    }
                )
    return found


def _losses(point: Point) -> dict[str, float]:
    return {name: loss.loss.estimate for name, loss in point.losses.items()}


def _accuracies(point: Point) -> dict[str, float]:
    return {name: score.accuracy.estimate for name, score in point.scores.items()}


def _numbers(name: str, interval: Interval | None) -> dict[str, float | None]:
    """An estimate and its ends; None for an end that is not finite, which JSON does not have."""
    values = (math.nan,) * 3 if interval is None else (interval.estimate, interval.low, interval.high)
    return {
        key: value if math.isfinite(value) else None
        for key, value in zip((name, f"{name}_low", f"{name}_high"), values, strict=True)
    }
