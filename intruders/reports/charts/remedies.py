"""Forgetting saved against task score lost: every remedy on one figure, with the frontier of the best."""

from __future__ import annotations

import pandas as pd

from ...studies.findings import Finding
from ..chart import Axis, Chart, Rule, Series
from .common import Palette, Part, parts, values

_FRONTIER = "no other is better in both"


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """A chart for each base and task; the baseline stands where both lines cross."""
    own = Palette()  # kinds of remedy are no settings
    return [_pareto(part, own) for part in parts(finding.tables.get("Remedies"))]


def _pareto(part: Part, palette: Palette) -> Chart:
    rows = part.rows.dropna(subset=["points_lost", "saved"])
    series = [
        Series(
            str(kind),
            values(group["points_lost"]),
            values(group["saved"]),
            values(group["saved_low"]),
            values(group["saved_high"]),
            values(group["lost_low"]),
            values(group["lost_high"]),
            notes=[str(name) for name in group["remedy"]],
            tone=palette.tone(str(kind)),
        )
        for kind, group in rows.groupby("kind", sort=False)
    ]
    return Chart(
        f"remedies-pareto{part.slug}",
        part.titled("Forgetting saved, task score lost"),
        Axis("points_lost", "task score lost against the baseline, points of accuracy"),
        Axis("saved", "forgetting saved, nats/token"),
        [*_frontier(rows), *series],
        [Rule("x", 0.0), Rule("y", 0.0)],
        caption="Up and to the left is better; the baseline, plain LoRA, stands where the dashed lines cross. "
        "95 % intervals over seeds, where there are several.",
        wide=True,
    )


def _frontier(rows: pd.DataFrame) -> list[Series]:
    """A faint line through the remedies of which no other is better in both, from the cheapest on."""
    best = rows[rows["on_frontier"].astype(bool)].sort_values("points_lost")
    if len(best) < 2:
        return []
    names = [str(name) for name in best["remedy"]]
    return [
        Series(
            _FRONTIER,
            values(best["points_lost"]),
            values(best["saved"]),
            notes=names,
            look="line",
            tone=5,
            faint=True,
        )
    ]
