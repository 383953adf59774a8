"""Reports as ``intruders report`` writes them, that of a study by claims."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from intruders.data.task import names_given
from intruders.reports import write_report as without_claims
from intruders.reports.write_report import AnyPath, study_among

from .study_page import write_study_report


def write_report(
    paths: AnyPath | Sequence[AnyPath],
    out: AnyPath | None = None,
    figures: AnyPath | None = None,
    scale: AnyPath | None = None,
) -> list[Path]:
    """Write a report as :func:`intruders.write_report` does; the folder of a study gets a page by claims.

    Args:
      paths: The folder of one study; or saved audits, or folders that contain audit.json or audit.parquet.
      out: Path of the HTML report (default: report.html in the folder of a study; none for audits).
      figures: Folder for the figures as PNG, SVG and CSV (default: no figures).
      scale: File of critical scales to show with one audit.

    Returns:
      The paths of the written files.

    Raises:
      SettingError, ResultFileError, MissingDependencyError: as :func:`intruders.write_report`.
    """
    paths = names_given(paths)
    study = study_among(paths, scale)
    if study is not None:
        return write_study_report(study, out, figures)
    return without_claims.write_report(paths, out, figures, scale)
