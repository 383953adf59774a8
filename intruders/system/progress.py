"""Callback for progress: how far long work is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is being done, how much of it is done, how much there is)


def silent(*told: object) -> None:
    """A progress that nobody watches, and lines that nobody reads."""
