"""Callback for progress: how far long work is."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]  # (what is being done, how much of it is done, how much there is)


def silent(stage: str, done: int, in_all: int) -> None:
    """A progress that nobody watches."""
