"""A page of text in a terminal: what its columns and characters allow, and lines that are safe to print."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..system.words import printable, shorten

WIDTH = 80


@dataclass(frozen=True)
class Column:
    """A column of a table: of text, or of numbers on its right edge. Its cells stay in one line with ``no_wrap``."""

    title: str
    of_numbers: bool = False
    no_wrap: bool = False


def lined_up(
    columns: Sequence[Column],
    rows: Sequence[Sequence[str]],
    *,
    padding: tuple[int, int] = (1, 1),
    header_style: str = "",
    styles: Sequence[str] = (),
) -> Table:
    """Return a table without lines whose cells are text: none is read as markup, and none steers the terminal.

    Args:
      columns: their titles, of one line or several.
      rows: a cell for every column.
      padding: spaces left and right of every cell; there are none at the edges of the table.
      header_style: the style of the titles.
      styles: the style of every row.
    """
    left, right = padding
    table = Table(box=None, pad_edge=False, header_style=header_style, padding=(0, right, 0, left))
    for column in columns:
        title = "\n".join(map(printable, column.title.split("\n")))
        table.add_column(
            Text(title), justify="right" if column.of_numbers else "left", no_wrap=column.no_wrap
        )
    for row, style in zip(rows, styles or [""] * len(rows), strict=True):
        table.add_row(*(Text(printable(cell)) for cell in row), style=style)
    return table


@dataclass(frozen=True)
class Page:
    """The console, and what its columns and characters allow."""

    console: Console

    @property
    def width(self) -> int:
        return max(1, min(self.console.width, WIDTH))  # some terminals say that they have 0 columns

    @property
    def plain(self) -> bool:
        """True if the output's encoding is ASCII only."""
        return self.console.options.ascii_only

    @property
    def mark(self) -> str:
        return "..." if self.plain else "…"

    def known(self, text: str) -> str:
        """Replace what a terminal cannot show: names come from files and may contain control characters."""
        shown = printable(text)
        return shown.encode("ascii", "replace").decode() if self.plain else shown

    def end_of(self, text: str, width: int) -> str:
        """Return the end of a path that is too long, after a mark."""
        if len(text) <= width:
            return text
        room = max(0, width - len(self.mark))
        return self.mark + text[len(text) - room :]

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of plain strings and (string, style) pairs, neither wrapped nor read as markup."""
        styled = [(part, "") if isinstance(part, str) else part for part in parts]
        line = Text.assemble(*((self.known(text), style) for text, style in styled))
        line.rstrip()
        self.console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def prose(self, line: str) -> None:
        """Print a line that the terminal wraps at its own width, with every character that it may show."""
        self.console.print(Text(printable(line)), soft_wrap=False)

    def command(self, command: str) -> None:
        """Print a command in one line however long it is, so that it can be copied from the terminal."""
        self.console.print(Text(printable(f"  {command}")), soft_wrap=True)

    def say_beside(self, title: str, text: str, style: str = "") -> None:
        """Print a title and, to the right of it, text in as many lines as it needs."""
        indent = " " * len(title) if len(title) < self.width // 2 else ""
        for line in textwrap.wrap(title + text, self.width, subsequent_indent=indent):
            self.say((line, style))

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Print a column of names, which is shortened to fit, and columns of numbers, which are not."""
        columns = list(zip(titles, *rows, strict=True))
        widths = [max(map(len, column)) for column in columns]
        widths[0] = min(widths[0], max(1, self.room([titles, *rows])))
        self.say((self._row(titles, widths), "bold"))
        for row, style in zip(rows, styles or [""] * len(rows), strict=True):
            self.say((self._row(row, widths), style))

    def room(self, rows: Sequence[Sequence[str]]) -> int:
        """Return the width that the columns of numbers leave to the names; below 1 in a narrow terminal."""
        numbers = list(zip(*rows, strict=True))[1:]
        return self.width - sum(2 + max(map(len, column)) for column in numbers)

    def _row(self, cells: Sequence[str], widths: Sequence[int]) -> str:
        first = shorten(cells[0], widths[0], self.mark).ljust(widths[0])
        return "  ".join(
            [first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        )
