"""Numbers and names as people read them."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from intruders.system.words import duration, interval, number, percent, plural, printable, shorten


@pytest.mark.parametrize(
    ("say", "value", "text"),
    [
        (percent, 0, "0 %"),
        (percent, 1e-9, "<0.1 %"),
        (percent, 0.0449, "4.5 %"),
        (percent, 0.99999, "99.9 %"),
        (percent, 1, "100 %"),
        (percent, 2.5, "250 %"),
        (percent, math.nan, "-"),
        (number, 0, "0"),
        (number, 0.00123456, "0.00123"),
        (number, 12.345, "12.3"),
        (number, 98765.4, "98800"),
        (number, 1e-7, "1.00e-07"),
        (number, math.inf, "-"),
        (duration, 0.04, "0.0 s"),
        (duration, 59.9, "59.9 s"),
        (duration, 59.99, "1 min 0 s"),
        (duration, 125, "2 min 5 s"),
        (duration, 3840, "1 h 4 min"),
        (duration, math.nan, "-"),
    ],
)
def test_numbers(say: Callable[[float], str], value: float, text: str) -> None:
    assert say(value) == text


def test_plural_and_interval() -> None:
    assert plural(1, "matrix", "matrices") == "1 matrix"
    assert plural(2100, "vector") == "2,100 vectors"
    assert interval(0.1, 0.1) == "0.10"
    assert interval(0.1, 0.25) == "0.10-0.25"


@given(st.text(), st.integers(1, 30))
def test_a_shortened_name_fits(name: str, width: int) -> None:
    short = shorten(name, width)
    assert len(short) <= max(width, 1)
    assert short == name if len(name) <= width else "…" in short


def test_control_characters_are_replaced_and_spaces_stay() -> None:
    assert printable("a\x1b[2Jb\u202ec\nd") == "a\ufffd[2Jb\ufffdc\ufffdd"
    spaces = "0.2\N{NO-BREAK SPACE}[0.1,\N{NARROW NO-BREAK SPACE}0.3]\N{IDEOGRAPHIC SPACE}x"
    assert printable(spaces) == spaces
