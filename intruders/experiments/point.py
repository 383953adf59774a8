"""One measured model as a result, in every form that a saved document has of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..measures.intervals import NOTHING, Interval


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


@dataclass(frozen=True)
class CorpusMeasure:
    """One corpus, on the documents that are reported."""

    loss: Interval
    forgotten: Interval  # loss minus the base's
    healed: Interval | None = None  # share of what tuning forgot; None where tuning forgot nothing clearly
    gain: Interval | None = None  # loss of interpolation at the same task loss, minus this one


@dataclass(frozen=True)
class TaskMeasure:
    """One task, on the examples that are reported."""

    loss: Interval
    rise: Interval  # loss minus the tuned model's
    accuracy: Interval | None


@dataclass(frozen=True)
class HealedPoint:
    """One model, measured."""

    name: str  # base, tuned, healed, interpolation, curve, or a control
    dose: float | None  # the one dose for all, where there is one
    corpora: Mapping[str, CorpusMeasure]
    tasks: Mapping[str, TaskMeasure]


@dataclass(frozen=True)
class CurveOfScales:
    """One scale on the half that chooses, in nats per token."""

    scale: float
    text_loss: float
    task_loss: float


# Of a point; an interval has its ends in two more columns.
INTERVALS = ("loss", "task_loss", "healed", "kept", "gain", "gain_at_norm", "margin")


def rows_of_document(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return one row per point: the curve, and each remedy's tried strengths, chosen strength and controls."""
    target = record["target"]
    rows = [_row(point, target) for point in record["curve"]]
    for remedy in record["remedies"]:
        rows += [_row(point, target) for point in remedy["tried"]]
        if remedy["chosen"] is not None:
            chosen = {"chosen": True, "over_allowance": remedy["over_allowance"]}
            rows.append(_row(remedy["chosen"], target) | chosen)
        rows += [_row(point, target) for point in remedy["controls"]]
    return rows


def _row(point: Mapping[str, Any], target: str) -> dict[str, Any]:
    row = {
        "chosen": False,
        "accuracy": point["accuracies"].get(target),
        "corpus_loss": next(iter(point["losses"].values())),
        **{name: point[name] for name in ("remedy", "strength", "control", "share", "norm", "output")},
    }
    for name in INTERVALS:
        interval = NOTHING if point[name] is None else Interval.from_dict(point[name])
        row |= interval.json_cells(name)
    return row
