"""A progress bar over the matrices of an audit, with the running count of intruders."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Update = Callable[[int, int, int], None]  # (matrices done, matrices in all, intruders so far)


@contextmanager
def audit_progress(console: Console | None = None) -> Iterator[Update]:
    """A bar on standard error, moved by calling what this yields; silent where that is not a terminal.

        with audit_progress() as update:
            update(1, 210, 0)

    It removes itself when done, so that only the result stays on the screen.
    """
    console = console or Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda done, total, intruders: None
        return
    columns = (
        TextColumn("auditing"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TextColumn("matrices, {task.fields[intruders]:,} intruders"),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("audit", total=None, intruders=0)

        def update(done: int, total: int, intruders: int) -> None:
            progress.update(task, completed=done, total=total, intruders=intruders)

        yield update
