"""What a report prints, as text."""

from collections.abc import Callable

from rich.console import Console

from intruders.reports.terminal import Page


def on_console(show: Callable[[Page], object], width: int = 80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        show(Page(console))
    return captured.get()
