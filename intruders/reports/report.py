"""Saved audits in, report out: what `intruders report` does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ..detection.files import ResultFileError
from ..detection.table import Audit
from ..errors import SettingError
from .compare import common_matrices, labels_for

AUDIT_NAMES = ("audit.json", "audit.parquet")


def find_audits(paths: Sequence[str | os.PathLike[str]]) -> list[Audit]:
    """The saved audits at `paths`: files, and of a folder its own audit or else those of its subfolders.

    Raises ResultFileError for a path without an audit, or with a broken one.
    """
    return [Audit.load(file) for path in paths for file in _audit_files(Path(path))]


def write_report(
    paths: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    figures: str | os.PathLike[str] | None = None,
    compare: bool = False,
) -> list[Path]:
    """Write the report of the audits at `paths`: HTML to `out`, figures to the folder `figures`, or both.

    One audit gets a report of its own; several, or `compare`, are put side by side. Gives the files written.
    Raises SettingError where neither output is asked for or the audits cannot be compared, ResultFileError
    where a file cannot be read or written, MissingDependencyError without the packages of the extra `report`.
    """
    if out is None and figures is None:
        raise SettingError(
            "nothing to write: give --out FILE for the HTML report, --png DIR for figures, or both"
        )
    if out is not None:
        from .html import check_can_write_html

        check_can_write_html(out)
    audits = find_audits(paths)
    side_by_side = compare or len(audits) > 1
    written = []
    if out is not None:
        _write_html(audits, Path(out), side_by_side)
        written.append(Path(out))
    if figures is not None:
        written += _write_figures(audits, Path(figures), side_by_side)
    return written


def _write_html(audits: list[Audit], out: Path, side_by_side: bool) -> None:
    from .html import write_comparison_html, write_html

    if side_by_side:
        write_comparison_html(audits, out)
    else:
        write_html(audits[0], out)


def _write_figures(audits: list[Audit], folder: Path, side_by_side: bool) -> list[Path]:
    from .compare_figures import comparison_drawings
    from .drawing import write_drawings
    from .figures import audit_drawings

    if side_by_side:
        return write_drawings(comparison_drawings(common_matrices(audits), labels_for(audits)), folder)
    return write_drawings(audit_drawings(audits[0]), folder)


def _audit_files(path: Path) -> list[Path]:
    if not path.exists():
        raise ResultFileError(f"'{path}' is not there; give an audit that `intruders audit --json` wrote")
    if not path.is_dir():
        return [path]
    for folders in ([path], sorted(inner for inner in path.iterdir() if inner.is_dir())):
        found = [next((f / name for name in AUDIT_NAMES if (f / name).is_file()), None) for f in folders]
        if files := [file for file in found if file is not None]:
            return files
    raise ResultFileError(f"the folder '{path}' holds no {' or '.join(AUDIT_NAMES)}, nor do its subfolders")
