"""What a cell of a table is sorted by."""

from __future__ import annotations

import math


def sort_key(value: float | None) -> str:
    """Return a number as JavaScript reads it; empty, and so the last, for what is missing.

    >>> sort_key(0.25), sort_key(math.inf), sort_key(-math.inf), sort_key(math.nan), sort_key(None)
    ('0.25', 'Infinity', '-Infinity', '', '')
    """
    if value is None or math.isnan(value):
        return ""
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return f"{value:.7g}"
