"""What counts as a number in an argument: Python's and numpy's, and never true or false."""

from __future__ import annotations

from numbers import Integral, Real


def is_whole(value: object) -> bool:
    """Return whether it is a whole number.

    >>> is_whole(3), is_whole(True), is_whole(3.0), is_whole("3")
    (True, False, False, False)
    """
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """Return whether it is a real number.

    >>> is_number(0.5), is_number(True), is_number("0.5")
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)
