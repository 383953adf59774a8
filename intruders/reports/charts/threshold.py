"""The critical scale that the base's spectrum foretells, against the one that is measured."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from ...studies.findings import Finding
from ..chart import Axis, Chart, Rule, Series
from .common import Palette, Part, parts, values

MOST_POINTS = 1500  # of one chart; the table has all
_PREDICTED = Axis("predicted_scale", "predicted critical scale", log=True)
_GROUPS = ((False, "without intruders as tuned", 0), (True, "with intruders as tuned", 1))


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Predicted against measured scales, and how well the prediction sorts the matrices (ROC)."""
    made = []
    for part in parts(finding.tables.get("Matrices")):
        known = part.rows[part.rows["predicted_scale"] > 0]
        found = known[np.isfinite(known["critical_scale"]) & (known["critical_scale"] > 0)]
        if len(found):
            made.append(_agreement(part, found))
        made += _sorting(part, known)
    return made


def _agreement(part: Part, rows: pd.DataFrame) -> Chart:
    shown = _thinned(rows)
    what = (
        f"{len(shown):,} of {len(rows):,} matrices" if len(shown) < len(rows) else f"{len(rows):,} matrices"
    )
    series = []
    for has, name, tone in _GROUPS:
        group = shown[(shown["intruders"] > 0) == has]
        if len(group):
            notes = [f"{run}, {matrix}" for run, matrix in zip(group["run_id"], group["matrix"], strict=True)]
            series.append(
                Series(
                    name,
                    values(group["predicted_scale"]),
                    values(group["critical_scale"]),
                    tone=tone,
                    notes=notes if len(shown) <= 500 else None,
                    faint=len(shown) > 100,
                )
            )
    return Chart(
        f"threshold-agreement{part.slug}",
        part.titled("Critical scale, predicted and measured"),
        _PREDICTED,
        Axis("critical_scale", "measured critical scale", log=True),
        series,
        [Rule("diagonal", label="equal")],
        caption=f"Multiples of the update at which the first intruder appears, {what}; equal on the dashed line.",
    )


def _sorting(part: Part, rows: pd.DataFrame) -> Iterator[Chart]:
    """True over false positive rate as the threshold on the predicted scale rises."""
    has = (rows["intruders"] > 0).to_numpy()
    if has.all() or not has.any():
        return
    predicted = rows["predicted_scale"].to_numpy()
    steps = np.unique(predicted)
    if len(steps) > 200:
        steps = np.quantile(predicted, np.linspace(0, 1, 201))
    hits = [0.0, *(float((predicted[has] <= step).mean()) for step in steps)]
    alarms = [0.0, *(float((predicted[~has] <= step).mean()) for step in steps)]
    yield Chart(
        f"threshold-roc{part.slug}",
        part.titled("Matrices sorted by the prediction"),
        Axis("false_positive_rate", "part of the matrices without intruders", limits=(0, 1.01)),
        Axis("true_positive_rate", "part of those with intruders", limits=(0, 1.01)),
        [
            Series("predicted scale below a threshold", alarms, hits, look="line", tone=1,
                   notes=["", *(f"threshold {step:.3g}" for step in steps)])
        ],
        [Rule("diagonal", label="chance")],
        caption="How many matrices of either kind lie below a threshold on the predicted scale, as it rises; "
        "the dashed line is chance.",
    )  # fmt: skip


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """At most so many rows that a page can draw, evenly from the whole."""
    if len(rows) <= MOST_POINTS:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, MOST_POINTS).astype(int)]
