"""The report of a study: its settings compared, its failures and its runs, as one HTML file or as CSV."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import SettingError
from ...studies.compare_settings import compare_settings, settings_frame
from ...studies.results import Results, load_results
from ...studies.study_folder import REPORT, StudyFolder
from ...system.files import user_path, write_atomically
from .page_tables import failures, page_table, run_table

# What is said where verdicts would be.
WITHOUT_VERDICTS = "verdicts on claims come from the package intruders-research: pip install ./research"


def is_study(path: str | os.PathLike[str]) -> bool:
    """Return whether `path` is the folder of a study."""
    return StudyFolder(user_path(path)).is_study


def results_to_report(folder: str | os.PathLike[str], out: str | os.PathLike[str] | None) -> Results:
    """Return the tables of a study; what would refuse its page at `out` is found before.

    Raises:
      SettingError: the study has no runs yet.
      ResultFileError, MissingDependencyError: as :func:`intruders.write_report`.
    """
    if out is not None:
        from ..page.html_page import check_can_write_html

        check_can_write_html(out)
    results = load_results(Path(folder))
    if results.runs.empty:
        raise SettingError(f"the study in '{folder}' has no runs yet; run it with `intruders study`")
    return results


def settings_text(folder: Path) -> str | None:
    """Return the study's own file as it was given; None if it cannot be read."""
    try:
        return (folder / "study.yaml").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def write_study_report(
    folder: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
) -> list[Path]:
    """Write the report of the study in `folder`: HTML to `out`, the table of settings to the folder `figures`, or both.

    Without either, HTML goes to report.html in the study's own folder.

    Returns:
      The paths of the written files.

    Raises:
      SettingError, ResultFileError, MissingDependencyError: as :func:`results_to_report`.
    """
    if out is None and figures is None:
        out = user_path(folder) / REPORT
    results = results_to_report(folder, out)
    written = []
    if out is not None:
        write_atomically(out, render_study(results).encode())
        written.append(user_path(out))
    if figures is not None:
        written.append(user_path(figures) / "settings.csv")
        written[-1].parent.mkdir(parents=True, exist_ok=True)
        content = settings_frame(compare_settings(results)).to_csv(index=False)
        write_atomically(written[-1], content.encode())
    return written


def render_study(results: Results) -> str:
    """Return the HTML text of the report of a study."""
    from ..page.html_page import render_figures

    name = results.name or results.folder.name
    done = int((results.runs["status"] == "finished").sum())
    frame = settings_frame(compare_settings(results))
    return render_figures(
        "study.html.j2",
        [],
        title=f"Study {name}: {done} of {len(results.runs)} runs finished",
        without_verdicts=WITHOUT_VERDICTS,
        failures=failures(results.runs),
        compared=page_table("Settings", frame, most=len(frame)),
        runs=run_table(results.runs),
        settings=settings_text(results.folder),
        folder=str(results.folder),
    )
