"""The points of a comparison of remedies as rows, from its JSON; nothing of models, so that it is quick to load."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..measures.intervals import NOTHING, Interval

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
