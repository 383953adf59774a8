"""Warnings as a person reads them: one plain line, without Python's file and line."""

from __future__ import annotations

import warnings


def show_warnings_as_notes() -> None:
    """Print every warning of this process as one line, ``note: TEXT``; commands and their workers call this."""
    warnings.formatwarning = as_note


def as_note(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Return a warning as one line; a kind that Python itself has, as libraries use it, is named after the text.

    >>> as_note("nothing is kept", UserWarning, "base_cache.py", 32)
    'note: nothing is kept\\n'
    """
    kind = "" if category is UserWarning else f" ({category.__name__})"
    return f"note: {' '.join(str(message).split())}{kind}\n"
