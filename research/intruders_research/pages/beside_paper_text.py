"""The paper's own figures beside a study's, as text for a terminal."""

from __future__ import annotations

import math

from ..published.beside_paper import BesidePaper


def beside_paper_lines(table: BesidePaper) -> list[str]:
    """Return one table as text."""
    shown = table.frame.map(_cell).to_string(index=False)
    of = f"{table.known} of {len(table.frame)} with a run of this study"
    return [f"{table.title} (the paper's {table.source}; {of})", table.meaning, *shown.splitlines()]


def _cell(value: object) -> str:
    """Return a cell for people; a missing number is a dash."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
