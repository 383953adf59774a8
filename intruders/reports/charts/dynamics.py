"""The traces: intruders, their singular values and the update's size, in the course of training."""

from __future__ import annotations

from ...studies.findings import Finding
from ..chart import Axis, Chart, Rule
from .common import Palette, in_order, lines, parts

_STEPS = Axis("step", "training step")
_MEAN = "Mean over seeds"


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """Over training steps, a line for each setting."""
    made = []
    for part in parts(finding.tables.get("By step")):
        counts = lines(
            part.rows, palette, "step", "intruders_per_100_vectors", low="low", high="high", band=True
        )
        values = part.rows.dropna(subset=["intruder_over_base_value"])
        made.append(
            Chart(
                f"dynamics-intruders{part.slug}",
                part.titled("Intruders in the course of training"),
                _STEPS,
                Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True),
                in_order(counts),
                caption=f"{_MEAN}; the band is the 95 % interval over them, where there are several.",
            )
        )
        if len(values):
            made.append(
                Chart(
                    f"dynamics-values{part.slug}",
                    part.titled("Singular value of the leading intruder"),
                    _STEPS,
                    Axis("intruder_over_base_value", "as a part of the base's largest", from_zero=True),
                    in_order(lines(values, palette, "step", "intruder_over_base_value")),
                    [Rule("y", 1.0, "the base's largest")],
                    caption=f"{_MEAN} of the median over the matrices that have one.",
                )
            )
        made.append(
            Chart(
                f"dynamics-norm{part.slug}",
                part.titled("Size of the update"),
                _STEPS,
                Axis("update_frobenius", "Frobenius norm of all updates", from_zero=True),
                in_order(lines(part.rows, palette, "step", "update_frobenius")),
                caption=f"{_MEAN}.",
            )
        )
    return made
