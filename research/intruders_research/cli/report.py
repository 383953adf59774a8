"""``intruders report``, with the page of a study by claims; and what else is made of studies."""

from pathlib import Path

from intruders.cli.from_verb import argument, command
from intruders.cli.output import say
from intruders.cli.report import OUT, PNG, RESULTS, SCALE


@command(RESULTS, OUT, PNG, SCALE)
def report(*, results: list[Path], out: Path | None, png: Path | None, scale: Path | None) -> None:
    """Write an HTML report or figures from saved results.

    Examples:
      # Write the report of one saved audit
      intruders report audit.json --out report.html
      # Compare two runs in one report, and save the figures
      intruders report runs/rank1 runs/full --out compare.html --png figures
    """
    from intruders.reports.write_report import study_among, write_report

    study = study_among(results, scale)
    if study is None:
        files = write_report(results, out, png, scale)
    else:
        from ..pages.study_page import write_study_report  # with every claim, which takes seconds

        files = write_study_report(study, out, png)
    say(map(str, files), whole=True)


@command(argument("studies", list[Path], "The folders of studies.", metavar="RUN..."))
def print_verdicts(*, studies: list[Path]) -> None:
    """Print one Markdown table of the verdicts of one or several studies.

    Examples:
      # Compare the verdicts of two studies
      intruders verdicts runs/one runs/two
    """
    from ..pages.verdict_table import verdict_table

    say(verdict_table(studies), whole=True)


@command(
    argument("study", Path, "The folder of a study.", metavar="RUN"),
    argument("out", Path, "A new folder, or one of the same study.", metavar="FOLDER"),
)
def publish(*, study: Path, out: Path) -> None:
    """Publish the tables of a study, without its models.

    Examples:
      # Publish the tables of a study
      intruders publish runs/quickstart data/quickstart
    """
    from ..published.publish import publish_study

    say(map(str, publish_study(study, out)), whole=True)


@command(
    argument("folder", Path, "A folder of published studies."),
    argument("out", Path, "The picture, an SVG file.", metavar="FILE"),
)
def draw_forest(*, folder: Path, out: Path) -> None:
    """Draw all effects of published studies, for light and for dark pages, and print them as a Markdown table.

    Examples:
      # Draw all effects of published studies
      intruders forest docs/results/data effects.svg
    """
    from ..effects.write_effects import write_forest

    paths, table = write_forest(folder, out)
    say([*table, "", *map(str, paths)], whole=True)
