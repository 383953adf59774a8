"""A page of text in a terminal: what its columns and characters allow, and lines that are safe to print."""

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..system.words import printable, shorten

if TYPE_CHECKING:
    from ..measures.intervals import Interval

WIDTH = 80
WIDE = 150  # columns of a terminal in which every interval fits


def in_columns(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Return rows as lines whose cells stand below one another: the first ``left`` of a row to the left, others right.

    >>> in_columns([["module", "norm"], ["q", "2.5"]])
    ['module  norm', 'q        2.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at < left else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def estimate_text(value: "Interval", is_wide: bool, form: str = ".3f") -> str:
    """Return an estimate, with its interval in a wide terminal."""
    return value.text(form) if is_wide else f"{value.estimate:{form}}"


@dataclass(frozen=True)
class Page:
    """The console, and what its columns and characters allow."""

    console: Console = field(default_factory=Console)

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
        start = len(text) - max(0, width - len(self.mark))
        return text if len(text) <= width else self.mark + text[start:]

    def say(self, *parts: str | tuple[str, str]) -> None:
        """Print one line of plain strings and (string, style) pairs, neither wrapped nor read as markup."""
        styled = [(part, "") if isinstance(part, str) else part for part in parts]
        line = Text.assemble(*((self.known(text), style) for text, style in styled))
        line.rstrip()
        self.console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def folded(self, text: str, style: str = "", indent: str = "") -> None:
        """Print text in as many lines as it needs; those after the first begin with ``indent``."""
        for line in self.lines_of(text, indent):
            self.say((line, style))

    def lines_of(self, text: str, indent: str = "") -> list[str]:
        return textwrap.wrap(
            text, self.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )

    def prose(self, *lines: str) -> None:
        """Print lines that the terminal wraps at its own width, with every character that it may show."""
        for line in lines:
            self.console.print(Text(printable(line)), soft_wrap=False)

    def say_beside(self, title: str, text: str, style: str = "") -> None:
        """Print a title and, to the right of it, text in as many lines as it needs."""
        indent = " " * len(title) if len(title) < self.width // 2 else ""
        for line in textwrap.wrap(title + text, self.width, subsequent_indent=indent):
            self.say((line, style))

    def table(self, titles: Sequence[str], rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Print a column of names, which is shortened to fit, and columns of numbers, which are not."""
        room = max(1, self.room([titles, *rows]))
        shown = [[shorten(name, room, self.mark), *numbers] for name, *numbers in (titles, *rows)]
        for line, style in zip(in_columns(shown), ["bold", *(styles or [""] * len(rows))], strict=True):
            self.say((line, style))

    def columns(
        self,
        titles: Sequence[str],
        rows: Sequence[Sequence[str]],
        *,
        texts: Collection[int] = (0,),
        wrapped: Collection[int] = (),
        padding: tuple[int, int] = (1, 1),
        header_style: str = "",
        styles: Sequence[str] = (),
        width: int | None = None,
    ) -> None:
        """Print a table without lines whose cells are text: none is read as markup, and none steers the terminal.

        Args:
          titles: of the columns, of one line or several.
          texts: positions of columns of text; others are of numbers, and end at their right edge.
          wrapped: positions of columns whose cells may take several lines in a narrow terminal.
          padding: spaces left and right of every cell; there are none at the edges of the table.
          styles: of every row.
        """
        left, right = padding
        table = Table(box=None, pad_edge=False, header_style=header_style, padding=(0, right, 0, left))
        for at, title in enumerate(titles):
            shown = Text("\n".join(map(printable, title.split("\n"))))
            table.add_column(shown, justify="left" if at in texts else "right", no_wrap=at not in wrapped)
        for row, style in zip(rows, styles or [""] * len(rows), strict=True):
            table.add_row(*(Text(printable(cell)) for cell in row), style=style)
        self.console.print(table, width=width)

    def room(self, rows: Sequence[Sequence[str]]) -> int:
        """Return the width that the columns of numbers leave to the names; below 1 in a narrow terminal."""
        numbers = list(zip(*rows, strict=True))[1:]
        return self.width - sum(2 + max(map(len, column)) for column in numbers)
