"""A page of text in a terminal: names from files neither steer it nor are read as markup, in prose and in tables."""

from collections.abc import Callable

import pytest

from intruders.reports.terminal import Page
from tests.reports.on_console import on_console

# It colors what follows, turns the direction of the text, and is a style of rich.
NAME = "up_\x1b[31m\u202eproj [bold] :smile: größe"
# As it may be shown, with one mark for every character that steers a terminal.
SHOWN = "up_\N{REPLACEMENT CHARACTER}[31m\N{REPLACEMENT CHARACTER}proj [bold] :smile: größe"


@pytest.mark.parametrize(
    ("show", "text"),
    [(lambda page: page.prose(NAME), f"{SHOWN}\n"), (lambda page: page.say(NAME), f"{SHOWN}\n")],
)
def test_a_line_shows_a_name_that_steers_no_terminal(show: Callable[[Page], None], text: str) -> None:
    assert on_console(show) == text


def test_the_terminal_wraps_prose_and_no_command() -> None:
    assert on_console(lambda page: page.prose("one two three"), width=8) == "one two \nthree\n"
    assert on_console(lambda page: page.say("one two three"), width=8) == "one two three\n"


def test_titles_and_cells_of_a_table_are_text() -> None:
    rows = [[NAME, "1"], ["b\nc", NAME]]
    shown = on_console(lambda page: page.columns([NAME, "task\nloss\x1b"], rows, wrapped=(0, 1)))
    head, under, first, second = (line.rstrip() for line in shown.splitlines())
    room = len(SHOWN)
    assert head == f"{'':{room}}  {'task':>{room}}"
    assert under == f"{SHOWN}  {'loss' + chr(0xFFFD):>{room}}"
    assert first == f"{SHOWN}  {'1':>{room}}"
    # A cell of several lines would look like several rows.
    assert second == f"{'b' + chr(0xFFFD) + 'c':{room}}  {SHOWN}"
