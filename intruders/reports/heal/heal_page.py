"""The report of a healing as one HTML file."""

from __future__ import annotations

import os

from ...charts.text import number, percent
from ...experiments.healing import BASE, INTERPOLATION, TUNED, Healing
from ..page.html_page import render_figures, write_page
from .heal_charts import healing_charts
from .heal_text import check_command, dose_line, intruder_lines, rows, verdict


def write_heal_report(healing: Healing, file: str | os.PathLike[str]) -> None:
    """Write the page.

    Raises:
      ResultFileError: it cannot be written.
      MissingDependencyError: a package of the extra ``report`` is missing.
    """
    write_page(file, lambda: render_healing(healing))


def render_healing(healing: Healing) -> str:
    """Return the HTML text of the page."""
    return render_figures(
        "heal.html.j2",
        healing_charts(healing),
        healing=healing,
        verdict=verdict(healing),
        facts=[dose_line(healing), *intruder_lines(healing)],
        rows=rows(healing),
        command=check_command(healing) if healing.out is not None else None,
        is_end=lambda point: point.name in (BASE, TUNED),
        is_line=lambda point: point.name in (BASE, TUNED, INTERPOLATION),
        percent=percent,
        number=number,
    )
