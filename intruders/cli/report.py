"""``intruders report`` and ``intruders card``: what saved results say, as a page and in a model card."""

from pathlib import Path

from . import options
from .from_verb import argument, command
from .output import say

_RESULTS = "The folder of a study; or saved audits (.json or .parquet), or folders that contain audit.json."
_CARD = "The model card, a Markdown file. It is made if it does not exist."
RESULTS = argument("results", list[Path], _RESULTS, metavar="RUN_OR_AUDIT...")
OUT = options.file(
    "out", "Write the report to this HTML file. [default: report.html in the folder of a study]", panel=None
)
PNG = options.folder(
    "png",
    "Write the figures to this folder, as PNG, SVG and the numbers as CSV. [default: not written]",
    panel=None,
)
SCALE = options.file(
    "scale",
    "Critical scales to show with one audit: a file that intruders scale --json wrote. [default: scale.json beside the "
    "audit]",
    panel=None,
)


@command(RESULTS, OUT, PNG, SCALE)
def report(*, results: list[Path], out: Path | None, png: Path | None, scale: Path | None) -> None:
    """Write an HTML report or figures from saved results.

    Examples:
      # Write the report of one saved audit
      intruders report audit.json --out report.html
      # Compare two runs in one report, and save the figures
      intruders report runs/rank1 runs/full --out compare.html --png figures
    """
    from ..reports.write_report import write_report

    say(map(str, write_report(results, out, png, scale)), whole=True)


@command(
    argument("audit", Path, "A saved audit (.json or .parquet)."),
    argument("readme", Path, _CARD, Path("README.md")),
)
def card(*, audit: Path, readme: Path) -> None:
    """Write what an audit found into a model card.

    The section replaces the one of an earlier call. Everything else in the card stays as it is.

    Examples:
      # Describe an adapter's audit in its model card
      intruders card audit.json my-adapter/README.md
      # Describe it in README.md of this folder
      intruders card audit.parquet
    """
    from ..reports.model_card import write_card

    say([str(write_card(audit, readme))], whole=True)
