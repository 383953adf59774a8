"""Numbers and names as people read them."""

import math
import unicodedata


def percent(share: float) -> str:
    """A share of 1 as text; a tiny one is not rounded to nothing, nor nearly all to all."""
    if not math.isfinite(share):
        return "-"
    value = 100 * share
    if value in (0, 100) or value > 100:
        return f"{value:.0f} %"
    return "<0.1 %" if value < 0.1 else f"{min(value, 99.9):.1f} %"


def number(value: float) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if not math.isfinite(value):
        return "-"
    if value == 0 or 0.001 <= abs(value) < 1e5:
        return f"{float(f'{value:.3g}'):g}"
    return f"{value:.2e}"


def duration(seconds: float) -> str:
    """Seconds as people say them: 4.3 s, 2 min 5 s, 1 h 4 min."""
    if not math.isfinite(seconds):
        return "-"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plural(count: int, singular: str, plural_form: str | None = None) -> str:
    """`count` with its noun: 1 matrix, 2,100 matrices."""
    return f"{count:,} {singular if count == 1 else plural_form or singular + 's'}"


def interval(lower: float, upper: float) -> str:
    """A proved interval with two decimals, as one number where that is all there is to see."""
    return f"{lower:.2f}" if upper - lower < 0.005 else f"{lower:.2f}-{upper:.2f}"


def printable(text: str) -> str:
    """`text` without control characters: names come from files, and a terminal would obey them."""
    # "Zs" are the spaces within a line, such as those that no line breaks at.
    shown = (
        c if c.isprintable() or unicodedata.category(c) == "Zs" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return "".join(shown)


def shorten(name: str, width: int, mark: str = "…") -> str:
    """`name` in at most `width` characters, cut in the middle, since both ends tell most."""
    if len(name) <= width:
        return name
    left = max(0, width - len(mark)) // 2
    right = max(0, width - len(mark) - left)
    return name[:left] + mark + name[len(name) - right :]
