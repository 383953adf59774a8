"""A fleet as text for a terminal: the totals, the adapters with most intruders, and those that were refused."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..audits.fleet_result import FleetAudit
from ..charts.text import duration, number, percent, plural, shorten

WIDTH = 80
ROWS_SHOWN = 20  # adapters, unless verbose
REFUSED_SHOWN = 5


def print_fleet(fleet: FleetAudit, console: Console, verbose: bool = False) -> None:
    """Print `fleet` to `console`, the adapters with most intruders first; with `verbose` every adapter."""
    table = fleet.adapters
    audited = table[table["status"] == "audited"]
    width = min(WIDTH, console.width)
    _print(console, f"{plural(fleet.intruders, 'intruder dimension')} in {plural(len(audited), 'adapter')} of "
           f"{fleet.base_source}; {len(table) - len(audited):,} refused; {duration(fleet.seconds)}")  # fmt: skip
    ordered = audited.sort_values(["intruders", "energy_share"], ascending=False, kind="stable")
    shown = ordered if verbose else ordered.head(ROWS_SHOWN)
    if len(shown):
        console.print()
        console.print(_rows(shown, width), width=width)
    if len(shown) < len(ordered):
        _print(
            console, f"and {plural(len(ordered) - len(shown), 'adapter')} more with at most as many intruders"
        )
    refused = list(fleet.refused.items())
    for source, reason in refused if verbose else refused[:REFUSED_SHOWN]:
        _print(console, f"refused: {source}: {reason}")
    if not verbose and len(refused) > REFUSED_SHOWN:
        _print(console, f"and {len(refused) - REFUSED_SHOWN:,} refused more; --verbose lists all")


def _rows(shown: object, width: int) -> Table:
    found = Table(box=None, pad_edge=False, header_style="", padding=(0, 2, 0, 0))
    found.add_column("adapter", no_wrap=True)
    for title in ("rank", "matrices", "intruders", "energy", "relative", "unusual"):
        found.add_column(title, justify="right", no_wrap=True)
    for row in shown.itertuples():  # type: ignore[attr-defined]
        found.add_row(
            Text(shorten(str(row.adapter), max(16, width - 52))),
            _ranks(row.rank_min, row.rank_max),
            f"{row.matrices:,}",
            f"{row.intruders:,}",
            percent(row.energy_share),
            percent(row.update_relative_median),
            number(row.unusual),
        )
    return found


def _ranks(least: object, most: object) -> str:
    text = str(least).replace("<NA>", "-")
    return text if least is most or text == str(most).replace("<NA>", "-") else f"{text}-{most}"


def _print(console: Console, text: str) -> None:
    console.print(Text(text), soft_wrap=True)
