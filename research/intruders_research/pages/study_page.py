"""The report of a study, by the paper's claims, as one HTML file and as figures."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from intruders.charts.chart import Chart, Grid
from intruders.charts.drawing import write_drawings
from intruders.errors import ResultFileError
from intruders.reports.study import (
    failures,
    page_table,
    results_to_report,
    run_table,
    settings_text,
)
from intruders.studies.results import Results
from intruders.studies.study_folder import PUBLISHED, REPORT, RunRecord, StudyFolder
from intruders.system.files import user_path, write_atomically
from intruders.system.words import number, plural

from ..claims.every_claim import charts_of, every_claim
from ..claims.shared.claim import Finding
from ..claims.shared.pictures import by_method_and_rank, slug
from ..published.beside_paper import beside_paper
from ..published.publish import DEVIATIONS
from ..published.published_study import PublishedStudy
from .effect_rows import effect_groups, effect_text, interval_text, leading_effects, parts_text
from .similarities import SimilarityRow, similarity_rows
from .study_words import study_words

# Tables that say which runs and matrices a figure shows, and no more.
_NOT_SHOWN = ("Similarity matrices",)


def write_study_report(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write the report of the study in `folder`: HTML to `out`, figures to the folder `figures`, or both.

    Without either, HTML goes to report.html in the study's own folder.

    Returns:
      The paths of the written files.

    Raises:
      SettingError: the study has no runs yet.
      ResultFileError, MissingDependencyError: as :func:`intruders.write_report`.
    """
    from ..claims.every_claim import analyse_all

    if out is None and figures is None:
        out = user_path(folder) / REPORT
    results = results_to_report(folder, out)
    findings = analyse_all(results, StudyFolder(results.folder).document().get("analyses"))
    written = []
    if out is not None:
        write_atomically(out, render_study(results, findings).encode())
        written.append(user_path(out))
    if figures is not None:
        written += write_drawings(study_drawings(results, findings), figures)
        written += _write_tables(results, findings, user_path(figures) / "tables")
    return written


def render_study(results: Results, findings: Sequence[Finding]) -> str:
    """Return the HTML text of the report of a study."""
    from intruders.reports.html_page import render_page

    charts = charts_of(findings)
    titles = {claim.name: claim.title for claim in every_claim()}
    drawn: list[Chart | Grid] = []
    sections = []  # figures by their position among all of the page's
    for finding in findings:
        own = charts.get(finding.name, [])
        tables = [
            page_table(title, _in_order(frame))
            for title, frame in finding.tables.items()
            if title not in _NOT_SHOWN and not frame.empty
        ]
        sections.append(
            {
                "finding": finding,
                "title": titles.get(finding.name, finding.name),
                "support": results.support.get(finding.name, ""),
                "figures": range(len(drawn), len(drawn) + len(own)),
                "tables": tables,
            }
        )
        drawn += own
    rows = _similarities(results, findings)
    versions = rows[0].audits[0].versions if rows else {}  # that made the audits
    payload: dict[str, Any] = {
        "figures": [chart.payload() for chart in drawn],
        "similarities": [row.payload() for row in rows],
    }
    return render_page(
        "study.html.j2",
        ["plots.js", "charts.js", "sorting.js", "study.js"],
        payload,
        own=Path(__file__).parent,
        words=study_words(results, findings),
        sections=sections,
        figures=drawn,
        failures=failures(results.runs),
        similarities=rows,
        runs=run_table(results.runs),
        settings=settings_text(results.folder),
        folder=str(results.folder),
        versions=", ".join(f"{key} {value}" for key, value in versions.items()),
        published=_published_words(results.folder),
        beside_paper=[(table, page_table(table.title, table.frame)) for table in beside_paper(results)],
        effect_groups=effect_groups,
        effect_text=effect_text,
        interval_text=interval_text,
        leading_effects=leading_effects,
        number=number,
        parts_text=parts_text,
    )


def _in_order(frame: pd.DataFrame) -> pd.DataFrame:
    """Sort rows by setting, in the order of the figures."""
    if "setting" not in frame:
        return frame
    at = {setting: i for i, setting in enumerate(by_method_and_rank(frame["setting"].astype(str)))}
    return frame.sort_values("setting", key=lambda names: names.astype(str).map(at), kind="stable")


def study_drawings(results: Results, findings: Sequence[Finding]) -> list[Chart | Grid]:
    """Return every figure of the report for papers, similarity matrices among them."""
    from intruders.reports.compare_audits import similarities

    drawings = [chart for charts in charts_of(findings).values() for chart in charts]
    for row in _similarities(results, findings):
        name = f"structure-similarities{slug(row.title)}" if row.title else "structure-similarities"
        grids = zip(row.labels, similarities(row.audits, row.labels), strict=True)
        drawings += [replace(grid, name=f"{name}{slug(label)}") for label, grid in grids]
    return drawings


def _write_tables(results: Results, findings: Sequence[Finding], folder: Path) -> list[Path]:
    """Write the findings' tables that have rows, and the paper's with the study's own figures, as CSV."""
    tables = {
        f"{finding.name}{slug(title)}": frame
        for finding in findings
        for title, frame in finding.tables.items()
        if not frame.empty
    }
    tables |= {f"paper{slug(table.source)}": table.frame for table in beside_paper(results)}
    folder.mkdir(parents=True, exist_ok=True)
    for name, frame in tables.items():
        write_atomically(folder / f"{name}.csv", frame.to_csv(index=False).encode())
    return [folder / f"{name}.csv" for name in tables]


def _similarities(results: Results, findings: Sequence[Finding]) -> list[SimilarityRow]:
    tables = next((finding.tables for finding in findings if finding.name == "structure"), {})
    return similarity_rows(results, tables.get("Similarity matrices"))


def _published_words(folder: Path) -> tuple[str, list[str]] | None:
    """Return sentences and deviations to tell of published tables, or of runs taken over; None for neither.

    Raises:
      ResultFileError: published tables are damaged.
    """
    if not (folder / PUBLISHED).is_file():
        taken = sum(RunRecord(run.parent).is_taken_over for run in folder.glob("runs/*/run.json"))
        told = f"The rows of {plural(taken, 'run')} were taken over from published tables."
        return (told, []) if taken else None
    published, file = PublishedStudy.load(folder), folder / DEVIATIONS
    try:
        written = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    except (OSError, UnicodeDecodeError) as error:
        raise ResultFileError(f"cannot read '{file}': {error}; save it as UTF-8 text") from error
    own = [line.strip().removeprefix("- ") for line in written if line.strip()]
    deviations = [*published.deviations, *own]
    sentences = (
        f"Published on {published.date}, with {plural(len(published.runs), 'finished run')}. The SHA-256 of the study "
        f"file is {published.study_digest}."
    )
    if not deviations:
        sentences += " The records show no deviation from the file."
    return sentences, deviations
