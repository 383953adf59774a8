"""Pre-training loss over the number of intruders, a point a run."""

from __future__ import annotations

from ...studies.findings import Finding
from ..chart import Axis, Chart, Series
from .common import LOSS_CHANGE, Palette, in_order, parts, values

_SIDES = {
    "intruders": ("intruders", "the number of intruders", "intruders of the run"),
    "intruder_energy_share": (
        "energy",
        "their energy share",
        "part of the squared singular values of the top k",
    ),
    "update_frobenius": ("norm", "the size of the update", "Frobenius norm of all updates together"),
}


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Against the number of intruders, their energy share, and, as the rival explanation, the update's norm."""
    made = []
    for part in parts(finding.tables.get("Runs")):
        for column, (short, what, unit) in _SIDES.items():
            series = [
                Series(
                    str(setting),
                    values(group[column]),
                    values(group["loss_change"]),
                    values(group["loss_change_low"]),
                    values(group["loss_change_high"]),
                    notes=list(group["run_id"]),
                    tone=palette.tone(str(setting)),
                )
                for setting, group in part.rows.groupby("setting", sort=False)
            ]
            made.append(
                Chart(
                    f"forgetting-{short}{part.slug}",
                    part.titled(f"Forgetting over {what}"),
                    Axis(column, unit),
                    LOSS_CHANGE,
                    in_order(series),
                    caption="A point a run, with the 95 % interval over documents.",
                )
            )
    return made
