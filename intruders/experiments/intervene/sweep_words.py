"""A sweep of interventions as JSON, with its verdicts: the trade-off, and whether the controls do as well."""

from __future__ import annotations

from typing import Any

from ...measures.intervals import Interval
from ...mitigation.remedies.remedy_table import INTRUDERS
from ...system.documents import json_number
from ...version import __version__
from .sweep import Intervention, InterventionSweep, Trade

SCHEMA = 1


def verdicts(sweep: InterventionSweep) -> list[str]:
    """Return one sentence per scale: what scaling the intruders changes, and how each control compares."""
    sentences = []
    for point in sweep.points:
        if point.control != INTRUDERS:
            continue
        changes = _in_words(sweep.trade(point))
        others = [
            _compared(other.control, sweep.trade(other, point)) for other in sweep.control_points(point.scale)
        ]
        gain = [] if point.gain is None else [_gained(point.gain)]
        sentences.append("; ".join([f"at scale {point.scale:g} {changes}", *gain, *others]))
    return sentences


def document(sweep: InterventionSweep) -> dict[str, Any]:
    """Return plain JSON values: every point with its intervals, and the verdicts."""
    return {
        "schema": SCHEMA,
        "intruders_version": __version__,
        "base": {
            "source": sweep.base,
            "losses": {n: _numbers(loss.loss) for n, loss in sweep.base_losses.items()},
        },
        "tuned": {"source": sweep.tuned, **_measures(sweep.tuned_point)},
        "settings": {
            "k": sweep.audit.k,
            "epsilon": sweep.audit.epsilon,
            "seed": sweep.seed,
            "which": sweep.which,
        },
        "intruders": sweep.audit.intruders,
        "interpolation": [
            {
                "alpha": point.strength,
                "loss": point.loss.estimate,
                "task_loss": point.task_loss.estimate,
            }
            for point in sweep.curve
        ],
        "points": [
            {
                "control": point.control,
                "scale": point.scale,
                "update_norm": point.update_norm,
                "left_alone": point.left_alone,
                **_measures(point),
                "gain_at_equal_task_loss": None if point.gain is None else _numbers(point.gain),
                "change": {
                    "losses": {name: _numbers(value) for name, value in sweep.trade(point).losses.items()},
                    "accuracies": {
                        name: _numbers(value) for name, value in sweep.trade(point).accuracies.items()
                    },
                },
            }
            for point in sweep.points
        ],
        "verdicts": verdicts(sweep),
    }


def _measures(point: Intervention) -> dict[str, Any]:
    return {
        "losses": {name: _numbers(loss.loss) for name, loss in point.losses.items()},
        "accuracies": {name: _numbers(score.accuracy) for name, score in point.scores.items()},
    }


def _numbers(value: Interval) -> dict[str, float | None]:
    """Return numbers for JSON, which has no infinity: the interval of a single document has infinite ends."""
    return {key: json_number(number) for key, number in value.as_dict().items()}


def _in_words(trade: Trade) -> str:
    parts = [f"loss on {name} {_moved(change, 1, '')}" for name, change in trade.losses.items()]
    parts += [
        f"accuracy on {name} {_moved(change, 100, ' points')}" for name, change in trade.accuracies.items()
    ]
    return " and ".join(parts)


def _moved(change: Interval, factor: float, unit: str) -> str:
    """Return words such as ``falls 0.12 [0.10, 0.14]``; a change across zero is not clear and keeps its signs."""
    digits = 3 if factor == 1 else 1
    if not change.is_clear:
        ends = f"[{factor * change.low:+.{digits}f}, {factor * change.high:+.{digits}f}]"
        return f"does not clearly change ({factor * change.estimate:+.{digits}f}{unit} {ends})"
    low, high = sorted((abs(factor * change.low), abs(factor * change.high)))
    verb = "falls" if change.estimate < 0 else "rises"
    return f"{verb} {abs(factor * change.estimate):.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def _gained(gain: Interval) -> str:
    """Compare with interpolation at the same task loss, in words."""
    if not gain.is_clear:
        return f"at equal task loss interpolation does as well ({_signed(gain)})"
    low, high = sorted((abs(gain.low), abs(gain.high)))
    side = "below" if gain.estimate > 0 else "above"
    return f"at equal task loss this is {abs(gain.estimate):.3f} [{low:.3f}, {high:.3f}] {side} interpolation"


def _compared(control: str, trade: Trade) -> str:
    """Compare a control with the intruders at the same scale: lower loss or higher accuracy is better."""
    names = {
        "shrink": "the norm-matched shrink",
        "shrink-output": "the update scaled to the same output energy",
    }
    name = names.get(control, f"the control {control}")
    better: list[str] = []
    worse: list[str] = []
    for corpus, change in trade.losses.items():
        if change.is_clear:
            (better if change.estimate < 0 else worse).append(f"loss on {corpus} {_signed(change)}")
    for task, change in trade.accuracies.items():
        if change.is_clear:
            points = change.times(100)
            (better if change.estimate > 0 else worse).append(
                f"accuracy on {task} {_signed(points, 1)} points"
            )
    if not better and not worse:
        return f"{name} does as well"
    parts = [f"does better in {' and '.join(better)}"] if better else []
    parts += [f"does worse in {' and '.join(worse)}"] if worse else []
    return f"{name} {', and '.join(parts)}"


def _signed(value: Interval, digits: int = 3) -> str:
    return value.text(f"+.{digits}f")
