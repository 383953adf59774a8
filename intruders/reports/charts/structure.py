"""Intruders of every setting at equal score, over epsilon and over k."""

from __future__ import annotations

from collections.abc import Iterator

from ...studies.findings import Finding
from ..chart import Axis, Chart
from .common import Palette, by_method_and_rank, in_order, lines, listed, parts, values

_PER_100 = Axis("intruders_per_100_vectors", "intruders per 100 vectors", from_zero=True)


def charts(finding: Finding, palette: Palette) -> list[Chart]:
    """By setting, with intervals over seeds; then over epsilon and over k."""
    return [*_by_setting(finding, palette), *_over_epsilon(finding, palette), *_over_k(finding, palette)]


def _by_setting(finding: Finding, palette: Palette) -> Iterator[Chart]:
    for part in parts(finding.tables.get("Intruders by setting")):
        yield listed(
            f"structure-settings{part.slug}",
            part.titled("Intruders at equal score"),
            part.rows,
            palette,
            _PER_100,
            value="intruders_per_100_vectors",
            low="low",
            high="high",
            order=by_method_and_rank(part.rows["setting"]),
            caption="Mean over seeds with its 95 % interval, where there are several.",
        )


def _over_epsilon(finding: Finding, palette: Palette) -> Iterator[Chart]:
    for part in parts(finding.tables.get("Intruders over epsilon")):
        rows = part.rows.assign(middle=(part.rows["at_least_per_100"] + part.rows["at_most_per_100"]) / 2)
        yield Chart(
            f"structure-over-epsilon{part.slug}",
            part.titled("Intruders over epsilon"),
            Axis("epsilon", "epsilon"),
            _PER_100,
            in_order(
                lines(rows, palette, "epsilon", "middle", low="at_least_per_100", high="at_most_per_100", band=True)
            ),
            caption="Away from the audit's own epsilon some counts are open: a band shows from how many to how many.",
        )  # fmt: skip


def _over_k(finding: Finding, palette: Palette) -> Iterator[Chart]:
    for part in parts(finding.tables.get("Intruders over k")):
        yield Chart(
            f"structure-over-k{part.slug}",
            part.titled("Intruders over k"),
            Axis("k", "k, leading vectors examined", marks=sorted(set(values(part.rows["k"])))),
            Axis("intruders_per_matrix", "intruders per matrix", from_zero=True),
            in_order(lines(part.rows, palette, "k", "intruders_per_matrix")),
        )
