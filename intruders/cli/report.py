"""``intruders report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .command import examples
from .output import refuse_given, say

ONE_OF_BOTH = "leave one of the two out"


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
Verdicts = Annotated[
    bool,
    typer.Option(
        "--verdicts",
        help="Print one Markdown table of the verdicts of one or several studies; write no file.",
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Publish the tables of a study to this folder, without its models; write no report. "
        "[default: not written]",
    ),
]
Forest = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.svg",
        help="Draw all effects of a folder of published studies, for light and for dark pages, and print them "
        "as a Markdown table. [default: not written]",
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


@examples(
    ("Write the report of one saved audit", "intruders report audit.json --out report.html"),
    (
        "Compare two runs in one report, and save the figures",
        "intruders report runs/rank1 runs/full --out compare.html --png figures",
    ),
)
def report(
    results: Results,
    out: Out = None,
    png: Png = None,
    verdicts: Verdicts = False,
    data: Data = None,
    forest: Forest = None,
    scale: Scale = None,
) -> None:
    """Write an HTML report or figures from saved results."""
    of_pages: dict[str, object] = {"out": out, "png": png, "scale": scale}
    if data is not None:
        others = of_pages | {"forest": forest, "verdicts": verdicts or None}
        refuse_given(others, "has no effect beside --data", ONE_OF_BOTH)
        from ..studies.published.publish import publish_study

        say(map(str, publish_study(_only(results, "--data publishes one study"), data)), whole=True)
        return
    if forest is not None:
        others = of_pages | {"verdicts": verdicts or None}
        refuse_given(others, "has no effect beside --forest", ONE_OF_BOTH)
        from ..reports.effects.write_effects import write_forest

        paths, table = write_forest(_only(results, "--forest draws the effects of one folder"), forest)
        say([*table, "", *map(str, paths)], whole=True)
        return
    if verdicts:
        refuse_given(of_pages, "has no effect beside --verdicts", ONE_OF_BOTH)
        from ..reports.study.verdict_table import verdict_table

        say(verdict_table(results), whole=True)
        return

    from ..reports.write_report import write_report

    say(map(str, write_report(results, out, png, scale)), whole=True)


def _only(paths: list[Path], what: str) -> Path:
    """Return the only path, or refuse none and several."""
    from ..errors import SettingError

    if len(paths) != 1:
        raise SettingError(f"{what}, and {len(paths)} paths were given; pass one")
    return paths[0]
