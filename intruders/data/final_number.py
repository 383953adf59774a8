"""The number that an answer in words ends with."""

from __future__ import annotations

import math
import re

_UNSIGNED = r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"
_NUMBER = re.compile(
    rf"(?P<sign>-?)(?:\\[dt]?frac\{{(?P<above>-?{_UNSIGNED})\}}\{{(?P<below>-?{_UNSIGNED})\}}"
    rf"|(?P<first>{_UNSIGNED})(?:/(?P<divisor>{_UNSIGNED}))?)"
)


def final_number(text: str) -> float | None:
    r"""Return the last number in ``text``, without thousands separators; None if it has no number.

    A fraction, written ``a/b`` or as LaTeX does, is one number.

    >>> final_number("8 / 2 = 4, so 1,204.50"), final_number(r"\frac{1}{2}"), final_number("-3/4"), final_number("none")
    (1204.5, 0.5, -0.75, None)
    """
    numbers = [*_NUMBER.finditer(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))]
    if not numbers:
        return None
    last = numbers[-1]
    value = float(last["above"] or last["first"])
    divisor = float(last["below"] or last["divisor"] or 1)
    if divisor == 0 or not math.isfinite(value):
        return None
    return -value / divisor if last["sign"] else value / divisor
