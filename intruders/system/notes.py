"""What a terminal is told besides results: warnings as one plain line, and no log of another library."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def show_warnings_as_notes() -> None:
    """Print the warnings of this process as :func:`each_note_once` has them; commands and their workers call this."""
    warnings.formatwarning = each_note_once()


def each_note_once() -> Callable[..., str]:
    """Return a function that gives a warning as one line, ``note: TEXT``, and nothing where it has given that before.

    A kind that Python itself has, as libraries use it, is named after the text. A file is read by several steps of a
    run, each of which warns of it. Python's own memory of what it has shown is lost whenever a library changes the
    filters.

    >>> each_note_once()("nothing is kept", UserWarning, "base_cache.py", 32)
    'note: nothing is kept\\n'
    """
    given = set[str]()

    def once(message: Warning | str, category: type[Warning], *where: Any) -> str:
        kind = "" if category is UserWarning else f" ({category.__name__})"
        note = f"note: {' '.join(str(message).split())}{kind}\n"
        is_new = note not in given
        given.add(note)
        return note if is_new else ""

    return once


@contextmanager
def errors_only(library: str) -> Iterator[None]:
    """Let the logger of a library log errors only within the block; restore its level afterwards."""
    logger = logging.getLogger(library)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
