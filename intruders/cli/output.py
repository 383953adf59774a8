"""Results as lines for a person, and as JSON in a file or on standard output."""

import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from ..errors import IntrudersError, MissingDependencyError, SettingError
from ..system.files import check_writable, write_atomically
from ..system.progress import Progress, silent
from ..system.result_protocol import json_bytes
from ..system.this_process import ExitStatus
from ..system.words import printable

if TYPE_CHECKING:
    from rich.console import Console

    from ..reports.terminal import Page
    from ..system.result_protocol import Result


Given = TypeVar("Given", bound="Result")

STANDARD_OUTPUT = "-"
_folded = partial(textwrap.fill, break_long_words=False, break_on_hyphens=False)


def terminal_width() -> int:
    """Return the columns of the terminal, or of ``$COLUMNS``; if there is neither, enough that nothing is cut."""
    return shutil.get_terminal_size((1000, 24)).columns


def say(lines: Iterable[str], *, whole: bool = False) -> None:
    """Print lines without control characters; prose that is too long is folded, no ``whole`` line."""
    width = terminal_width()
    for line in map(printable, lines):
        start = re.match(r" *(?:- )?", line)
        indent = " " * (len(start[0]) if start else 0)
        is_a_row = "  " in line.strip()
        if not (len(line) <= width or is_a_row or whole):
            line = _folded(line, max(width, len(indent) + 1), subsequent_indent=indent)
        print(line)


def check_nats(name: str, nats: float | None) -> None:
    """Raise SettingError for nats that are negative or not finite."""
    if nats is not None and not 0 <= nats < float("inf"):
        raise SettingError(f"{name} is {nats}; expected nats per token, 0 or more; pass 0.1 to allow a tenth")


def note(text: str) -> None:
    """Print one line beside the result, to standard error; control characters in it are replaced."""
    print(printable(text), file=sys.stderr)


def refuse_given(given: Mapping[str, object], why: str, instead: str) -> None:
    """Raise SettingError for an option without effect; ``why`` is as "is for a model to write". None: not given."""
    for name, value in given.items():
        if value is not None:
            shown = "given" if value is True else repr(str(value) if isinstance(value, Path) else value)
            raise SettingError(f"{name.replace('_', '-')} is {shown}, which {why}; {instead}")


@contextmanager
def progress_bar(console: "Console | None" = None) -> Iterator[Progress]:
    """Show a bar on standard error, which a call of the yielded function moves; nothing where that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield silent
        return
    text, bar = TextColumn("{task.description}", markup=False), BarColumn(bar_width=None)
    columns = (text, bar, MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)
        yield lambda stage, done, total: bars.update(task, description=stage, completed=done, total=total)


@dataclass(frozen=True)
class Outputs:
    """Where the results of a command go, as its options say."""

    json: str | None = None
    html: Path | None = None
    parquet: Path | None = None
    sarif: Path | None = None

    def check(self) -> None:
        """Refuse a file that cannot be made or written, before the work that fills it."""
        from ..reports.html_page import check_can_write_html

        for file in (None if self.json == STANDARD_OUTPUT else self.json, self.parquet):
            if file is not None:
                check_writable(file)
        if self.html is not None:
            check_can_write_html(self.html)

    @contextmanager
    def work(self, kept: str = "", folder: Path | None = None, source: str = "") -> Iterator[Progress]:
        """Check them, and show the progress of the work that fills them; on Ctrl-C say what is kept in a folder.

        An error is written as a SARIF result of the ``source`` too, if a file of these is wanted.
        """
        if self.sarif is not None:
            check_writable(self.sarif)
        keeping = nullcontext() if folder is None else resumable(kept.format(folder), folder)
        try:
            self.check()
            with keeping, progress_bar() as progress:
                yield progress
        except IntrudersError as error:
            if self.sarif is not None:
                from ..reports.sarif import refusal, write_sarif

                write_sarif([refusal(source, error)], self.sarif, is_refused=True)
            raise

    def put(
        self,
        result: Given,
        show: "Callable[[Given, Page], None]",
        render: Callable[[Given], str] | None = None,
    ) -> None:
        """Write the result as JSON, then its report, whose fault loses nothing; and show what it says to a person."""
        from ..reports.terminal import Page

        is_printed = put_json(result.to_document(), self.json)
        if self.html is not None and render is not None:
            write_atomically(self.html, render(result).encode())
        if not is_printed:
            show(result, Page())


def put_json(document: Mapping[str, Any] | Sequence[Any], json: str | None) -> bool:
    """Write the document to the file of ``--json``, or to standard output for ``-``; return whether it went there."""
    from json import dumps

    if json == STANDARD_OUTPUT:
        # Another encoding than UTF-8 lacks characters, and a replaced one would be another name.
        is_utf8 = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
        sys.stdout.write(dumps(document, allow_nan=False, ensure_ascii=not is_utf8) + "\n")
    elif json is not None:
        write_atomically(json, json_bytes(document))
    return json == STANDARD_OUTPUT


@contextmanager
def report_if_possible() -> Iterator[None]:
    """Print why no report is written where a package for it is missing: the tables do not need it."""
    try:
        yield
    except MissingDependencyError as error:
        note(f"no report is written: {error}")


@contextmanager
def resumable(kept: str, folder: Path | None = None) -> Iterator[None]:
    """Print on Ctrl-C what the same command resumes from, if its folder exists, and end with status 130."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None and not folder.exists():
            raise
        note(f"interrupted; {kept}; run the same command again to resume")
        raise typer.Exit(ExitStatus.INTERRUPTED) from None
