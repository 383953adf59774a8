"""``intruders report``, with the page of a study by claims, and what else is made of published studies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from intruders.cli.command import examples
from intruders.cli.output import refuse_given, say
from intruders.cli.report import EXAMPLES, Out, Png, Results, Scale

ONE_OF_BOTH = "leave one of the two out"

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


@examples(*EXAMPLES)
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
        publish(_only(results, "--data publishes one study"), data)
    elif forest is not None:
        others = of_pages | {"verdicts": verdicts or None}
        refuse_given(others, "has no effect beside --forest", ONE_OF_BOTH)
        draw_forest(_only(results, "--forest draws the effects of one folder"), forest)
    elif verdicts:
        refuse_given(of_pages, "has no effect beside --verdicts", ONE_OF_BOTH)
        print_verdicts(results)
    else:
        from ..pages.write_report import write_report

        say(map(str, write_report(results, out, png, scale)), whole=True)


def _only(paths: list[Path], what: str) -> Path:
    """Return the only path, or refuse none and several."""
    from intruders.errors import SettingError

    if len(paths) != 1:
        raise SettingError(f"{what}, and {len(paths)} paths were given; pass one")
    return paths[0]


Study = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a study.")]
Studies = Annotated[list[Path], typer.Argument(metavar="RUN...", help="The folders of studies.")]


@examples(("Compare the verdicts of two studies", "intruders verdicts runs/one runs/two"))
def print_verdicts(studies: Studies) -> None:
    """Print one Markdown table of the verdicts of one or several studies."""
    from ..pages.verdict_table import verdict_table

    say(verdict_table(studies), whole=True)


@examples(("Publish the tables of a study", "intruders publish runs/quickstart data/quickstart"))
def publish(
    study: Study,
    out: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new folder, or one of the same study.")],
) -> None:
    """Publish the tables of a study, without its models."""
    from ..published.publish import publish_study

    say(map(str, publish_study(study, out)), whole=True)


@examples(("Draw all effects of published studies", "intruders forest docs/results/data effects.svg"))
def draw_forest(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of published studies.")],
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The picture, an SVG file.")],
) -> None:
    """Draw all effects of published studies, for light and for dark pages, and print them as a Markdown table."""
    from ..effects.write_effects import write_forest

    paths, table = write_forest(folder, out)
    say([*table, "", *map(str, paths)], whole=True)
