"""The progress bar of the commands; silent where standard error is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from ..system.progress import Progress, silent


@contextmanager
def progress_bar(console: Console | None = None) -> Iterator[Progress]:
    """Show a bar on standard error, which a call of the yielded function moves.

        with progress_bar() as progress:
            progress("audit", 1, 210)

    It removes itself when done, so that only the result stays on the screen.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield silent
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("", total=None)

        def update(stage: str, done: int, in_all: int) -> None:
            bars.update(task, description=stage, completed=done, total=in_all)

        yield update
