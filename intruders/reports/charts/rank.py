"""Intruders, effective rank and forgetting over the rank, a line for each rule of alpha."""

from __future__ import annotations

from ...studies.findings import Finding
from ..chart import Axis, Chart
from .common import Palette, lines, parts, values

_MEASURES = {
    "intruders per 100 vectors": "intruders",
    "effective rank of the update": "effective-rank",
    "pre-training loss change": "loss",
    "intruder energy share": "energy",
}
_UNITS = {"pre-training loss change": "pre-training loss change, nats/token"}


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """A chart for each measure; ranks on a logarithmic axis, intervals over seeds."""
    own = Palette()  # rules for alpha are no settings
    made = []
    for part in parts(finding.tables.get("By rank")):
        for measure, short in _MEASURES.items():
            rows = part.rows[part.rows["measure"] == measure].dropna(subset=["value"])
            if rows.empty:
                continue
            unit = _UNITS.get(measure, measure)
            made.append(
                Chart(
                    f"rank-{short}{part.slug}",
                    part.titled(f"{measure[:1].upper()}{measure[1:]} over rank"),
                    Axis("rank", "rank", log=True, marks=sorted(set(values(rows["rank"])))),
                    Axis(short.replace("-", "_"), unit, log=measure.startswith("effective")),
                    lines(rows, own, "rank", "value", name="rule", low="low", high="high"),
                    caption="Mean over seeds with its 95 % interval, where there are several.",
                )
            )
    return made
