"""Verdicts in words: numbers as people read them, always with their interval and the number of seeds."""

import math
from collections.abc import Iterable, Sequence

from intruders.measures.intervals import Interval

# An effect that the runs hold nothing about.
NOT_MEASURED = Interval(math.nan, -math.inf, math.inf, 0)


def said(interval: Interval, digits: int = 2, signed: bool = True) -> str:
    """Format an interval as ``+0.42 [+0.31, +0.53]``; without the bracket if it has no ends."""
    sign = "+" if signed else ""
    if math.isnan(interval.estimate):
        return "-"
    form = f"{sign}.{digits}f"
    return interval.text(form) if interval.has_ends else f"{interval.estimate:{form}} (no interval)"


def points_said(lost: Interval) -> str:
    """Say how many points of task score were lost or gained: ``gains +1.3 [-4.9, +7.6] points``."""
    if math.isnan(lost.estimate):
        return "has no measured task score"
    if lost.estimate < 0:
        return f"gains {said(lost.turned(), 1)} points of task score"
    return f"loses {said(lost, 1)} points of task score"


def seeds_said(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def table_lines(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return a table in Markdown."""
    return [
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
        for cells in (headings, ["---"] * len(headings), *rows)
    ]
