"""The report of an attribution as one HTML file: shares of forgetting, and intruders, by matrix."""

from __future__ import annotations

import os

import numpy as np

from ...charts.chart import Axis, Grid
from ...experiments.attribution import Attribution, MeasuredRise
from ..page.html_page import render_figures, write_page
from ..shared.layer_grid import layer_grid
from .attribution_text import kinds_of, remarks, rise_line

_COLORED = 0.98  # of the matrices, by the size of their shares, are told apart by color
_LEAST_END = 0.1  # per cent


def write_attribution_report(attribution: Attribution, file: str | os.PathLike[str]) -> None:
    """Write the page.

    Raises:
      ResultFileError: it cannot be written.
      MissingDependencyError: a package of the extra ``report`` is missing.
    """
    write_page(file, lambda: render_attribution(attribution))


def render_attribution(attribution: Attribution) -> str:
    """Return the HTML text of the page."""
    return render_figures(
        "attribution.html.j2",
        attribution_grids(attribution),
        attribution=attribution,
        kinds=kinds_of(attribution),
        lines=[*(rise_line(rise) for rise in attribution.rises), *remarks(attribution)],
    )


def attribution_grids(attribution: Attribution) -> list[Grid]:
    """Return a map of the parts of every rise, and one of the intruders, as layers x kinds of module."""
    grids = [
        _parts(number, rise, attribution)
        for number, rise in enumerate(attribution.rises)
        if rise.rise.estimate
    ]
    counts = {
        share.name: float(share.intruders) for share in attribution.matrices if share.intruders is not None
    }
    if any(counts.values()):
        grids.append(
            layer_grid(
                "intruders",
                "Intruders",
                Axis("intruders", "intruders"),
                counts,
                "Each cell is the number of intruders in one matrix of the tuned model; of several matrices, such as "
                "experts, it is their sum.",
                is_count=True,
            )
        )
    return grids


def _parts(number: int, rise: MeasuredRise, attribution: Attribution) -> Grid:
    """Return the map of one rise."""
    shares = {
        share.name: 100 * share.parts[rise.name].estimate / rise.rise.estimate
        for share in attribution.matrices
    }
    # One matrix can have more than all others together, which would leave these without a color.
    end = max(float(np.quantile(np.abs(list(shares.values())), _COLORED)), _LEAST_END)
    return layer_grid(
        f"parts-{number}",
        f"Shares of the change on {rise.name}",
        Axis("share", "share of the change (%)", limits=(-end, end)),
        shares,
        f"Each cell is the share that one matrix has of the change of {rise.rise.estimate:+.3f} nats per token; "
        "several of a cell are their mean. Below zero the matrix works against the change. Shares beyond "
        f"{end:.1f} % have the last color.",
        signed=True,
    )
