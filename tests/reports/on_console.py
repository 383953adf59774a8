"""What a report prints, as text."""

from collections.abc import Callable

from rich.console import Console


def on_console(show: Callable[[Console], object], width: int = 80) -> str:
    console = Console(width=width, force_terminal=False)
    with console.capture() as captured:
        show(console)
    return captured.get()
