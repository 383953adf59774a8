"""``intruders report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .command import examples
from .output import say

Results = Annotated[
    list[Path],
    typer.Argument(
        metavar="RUN_OR_AUDIT...",
        help="The folder of a study; or saved audits (.json or .parquet), or folders that contain "
        "audit.json.",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the report to this HTML file. [default: report.html in the folder of a study]",
    ),
]
Png = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Write the figures to this folder, as PNG, SVG and the numbers as CSV. [default: not written]",
    ),
]
Scale = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Critical scales to show with one audit: a file that intruders scale --json wrote. "
        "[default: scale.json beside the audit]",
    ),
]


EXAMPLES = (
    ("Write the report of one saved audit", "intruders report audit.json --out report.html"),
    (
        "Compare two runs in one report, and save the figures",
        "intruders report runs/rank1 runs/full --out compare.html --png figures",
    ),
)


@examples(*EXAMPLES)
def report(
    results: Results,
    out: Out = None,
    png: Png = None,
    scale: Scale = None,
) -> None:
    """Write an HTML report or figures from saved results."""
    from ..reports.write_report import write_report

    say(map(str, write_report(results, out, png, scale)), whole=True)
