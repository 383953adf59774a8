"""``intruders report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_AUDIT...",
            help="A study's folder; or saved audits (.json or .parquet), or folders that hold audit.json.",
        ),
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
    scale: Annotated[
        Path | None,
        typer.Option(
            help="Critical scales to show with one audit: what `intruders scale --json` wrote. A scale.json "
            "beside the audit is shown without this."
        ),
    ] = None,
) -> None:
    """Make a report that can be shown: one HTML file, figures, or both."""
    from ..reports.report import write_report

    for path in write_report(results, out, png, compare, scale):
        typer.echo(str(path))
