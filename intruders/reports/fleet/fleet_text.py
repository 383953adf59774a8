"""A fleet as text for a terminal: the totals, the adapters with most intruders, and those that were refused."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table

from ...audits.fleet.fleet_result import FleetAudit
from ...charts.text import duration, number, percent, plural, shorten
from ..shared.page import Column, Page, lined_up
from .opinions import with_opinions

ROWS_SHOWN = 20  # adapters, unless verbose
REFUSED_SHOWN = 5
PASSED_OVER_SHOWN = 5


def print_fleet(fleet: FleetAudit, console: Console, verbose: bool = False) -> None:
    """Print `fleet` to `console`, the adapters with most intruders first; with `verbose` every adapter."""
    table = with_opinions(fleet.adapters)
    audited = table[table["status"] == "audited"]
    page = Page(console)
    page.say(f"{plural(fleet.intruders, 'intruder dimension')} in {plural(len(audited), 'adapter')} of "
           f"{fleet.base_source}; {len(table) - len(audited):,} refused; {duration(fleet.seconds)}")  # fmt: skip
    ordered = audited.sort_values(["intruders", "energy_share"], ascending=False, kind="stable")
    shown = ordered if verbose else ordered.head(ROWS_SHOWN)
    if len(shown):
        console.print()
        console.print(_rows(shown, page), width=page.width)
    if len(shown) < len(ordered):
        page.say(f"and {plural(len(ordered) - len(shown), 'adapter')} more with at most as many intruders")
    refused = list(fleet.refused.items())
    for source, reason in refused if verbose else refused[:REFUSED_SHOWN]:
        page.say(f"refused: {source}: {reason}")
    if not verbose and len(refused) > REFUSED_SHOWN:
        page.say(f"and {len(refused) - REFUSED_SHOWN:,} refused more; --verbose lists all")
    if fleet.passed_over:
        page.say(_passed_over(fleet.passed_over, verbose))


def _passed_over(entries: Mapping[str, str], verbose: bool) -> str:
    """Return one line about the entries of the folders that are not adapters."""
    named = [f"{path} ({what})" for path, what in entries.items()]
    shown = named if verbose else named[:PASSED_OVER_SHOWN]
    more = f" and {len(named) - len(shown):,} more" if len(shown) < len(named) else ""
    return f"passed over {plural(len(named), 'entry', 'entries')}: {', '.join(shown)}{more}"


def _rows(shown: object, page: Page) -> Table:
    numbers = ("rank", "matrices", "intruders", "energy", "relative", "unusual")
    return lined_up(
        [
            Column("adapter", no_wrap=True),
            *(Column(title, of_numbers=True, no_wrap=True) for title in numbers),
        ],
        [
            [
                page.known(shorten(str(row.adapter), max(16, page.width - 52), page.mark)),
                _ranks(row.rank_min, row.rank_max),
                f"{row.matrices:,}",
                f"{row.intruders:,}",
                percent(row.energy_share),
                percent(row.update_relative_median),
                number(row.unusual),
            ]
            for row in shown.itertuples()  # type: ignore[attr-defined]
        ],
        padding=(0, 2),
    )


def _ranks(least: object, most: object) -> str:
    text = str(least).replace("<NA>", "-")
    return text if least is most or text == str(most).replace("<NA>", "-") else f"{text}-{most}"
