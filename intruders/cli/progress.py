"""Progress bars for the commands; silent where standard error is not a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function of (stage, done, total) that moves a bar; the bar disappears at the end."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr)
    if not console.is_terminal:
        yield lambda stage, done, total: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(compact=True),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)

        def update(stage: str, done: int, total: int) -> None:
            bar.update(task, description=stage, completed=done, total=total)

        yield update


AuditProgress = Callable[[int, int, int], None]  # (matrices done, matrices in all, intruders so far)


@contextmanager
def audit_progress(console: Console | None = None) -> Iterator[AuditProgress]:
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
