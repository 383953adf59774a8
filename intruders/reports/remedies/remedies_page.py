"""The report of a comparison of remedies: the sentence, the figures, the table, and the controls."""

from __future__ import annotations

import os
from pathlib import Path

from ...charts.drawing import write_drawings
from ...charts.figure import draw_chart
from ...charts.text import number
from ...experiments.remedy_comparison import RemedyComparison, strength_name
from ...system.files import user_path
from ..page.html_page import render_figures, write_page
from .remedies_charts import comparison_charts
from .remedies_text import control_margin, controls_of, headline, measured_rows, remarks

REPORT, FIGURES = "report.html", "figures"


def write_remedies_report(comparison: RemedyComparison, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the page and its figures (PNG, SVG, CSV) into a folder that exists, and return their paths.

    Raises:
      ResultFileError: a file cannot be written.
      MissingDependencyError: a package of the extra ``report`` is missing.
    """
    page = user_path(folder) / REPORT
    write_page(page, lambda: render_remedies(comparison))
    drawings = [draw_chart(chart) for chart in comparison_charts(comparison)]
    return [page, *write_drawings(drawings, user_path(folder) / FIGURES)]


def render_remedies(comparison: RemedyComparison) -> str:
    """Return the HTML text of the page."""
    return render_figures(
        "remedies.html.j2",
        comparison_charts(comparison),
        comparison=comparison,
        headline=headline(comparison),
        sentence=comparison.sentence(),
        command=comparison.command(),
        remarks=remarks(comparison),
        controls=controls_of(comparison.remedies),
        margin=control_margin,
        measured=measured_rows(comparison),
        share=lambda value: "-" if value is None else f"{value:.2f}",
        decimals=lambda value: "-" if value is None else number(value),
        strength_name=strength_name,
    )
