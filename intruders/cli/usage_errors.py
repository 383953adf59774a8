"""Wrong options as one line: what was typed, what was expected, and where the help is."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any


def is_usage_error(error: BaseException) -> bool:
    """Whether typer refused the command line; which package has its errors differs between versions of typer."""
    return callable(getattr(error, "format_message", None)) and hasattr(error, "exit_code")


def asks_for_help(error: BaseException) -> bool:
    """Whether the error is that nothing was typed at all, which the help answers."""
    return type(error).__name__ == "NoArgsIsHelpError"


def in_one_line(error: Any) -> str:
    """The error in one line, with the value that was typed and the command whose help tells the others."""
    message = " ".join(str(error.format_message()).split()).rstrip(".")
    parameter = getattr(error, "param", None)
    typed = None if parameter is None else _typed(parameter.opts, sys.argv)
    if typed is not None:
        message = message.replace("Invalid value for", f"'{typed}' is not a value of", 1)
    context = getattr(error, "ctx", None)
    command = "intruders" if context is None else _path(context)
    return f"{message}; see '{command} --help'"


def _path(context: Any) -> str:
    """The command as people type it, also where Python was asked to run the package."""
    return f"intruders {context.info_name}" if context.parent is not None else "intruders"


def _typed(names: Sequence[str], words: Sequence[str]) -> str | None:
    """What follows the last of an option's names; None for an argument, or where it was not typed."""
    typed = None
    for word, following in zip(words, [*words[1:], None], strict=True):
        name, is_joined, value = word.partition("=")
        if name in names and name.startswith("-"):
            typed = value if is_joined else following
    return typed
