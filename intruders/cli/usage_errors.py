"""Wrong options as one line: the typed value, the expected one, and the command that prints the help."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def is_usage_error(error: BaseException) -> bool:
    """Return whether typer refused the command line; the home of its errors differs between versions of typer."""
    return callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code")


def asks_for_help(error: BaseException) -> bool:
    """Return whether nothing was typed at all, which the help answers."""
    return type(error).__name__ == "NoArgsIsHelpError"


def usage_error_line(error: Any) -> str:
    """Return the error in one line, with the typed value and the command whose help lists the others."""
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    parameter = getattr(error, "param", None)
    typed = None if parameter is None else _typed(parameter.opts, sys.argv)
    if typed is not None:
        message = message.replace("Invalid value for", f"'{typed}' is not a value of", 1)
    context = getattr(error, "ctx", None)
    command = "intruders" if context is None else _path(context)
    return f"{message}; see '{command} --help'"


def _path(context: Any) -> str:
    """Return the command as people type it, also if Python was asked to run the package."""
    return f"intruders {context.info_name}" if context.parent is not None else "intruders"


def _typed(names: Sequence[str], words: Sequence[str]) -> str | None:
    """Return the word after the last of an option's names; None for an argument, or if it was not typed."""
    typed = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        name, is_joined, value = word.partition("=")
        if name in names and name.startswith("-"):
            typed = value if is_joined else following
    return typed
