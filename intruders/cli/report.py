"""``intruders report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    audits: Annotated[
        list[Path],
        typer.Argument(help="Saved audits (.json or .parquet), or folders that hold audit.json."),
    ],
    out: Annotated[Path | None, typer.Option(help="Write the report here, one HTML file.")] = None,
    png: Annotated[
        Path | None,
        typer.Option(help="Write the figures to this folder, as PNG, SVG and the numbers as CSV."),
    ] = None,
    compare: Annotated[
        bool,
        typer.Option("--compare", help="Put the audits side by side (always, when there are several)."),
    ] = False,
) -> None:
    """Make a report that can be shown: one HTML file, figures, or both."""
    from ..reports.report import write_report

    for path in write_report(audits, out, png, compare):
        typer.echo(str(path))
