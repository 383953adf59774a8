"""Single values of a data file: which of them are missing, and which are text."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from ..errors import SettingError
from ..system.files import as_utf8, is_utf8

_SHOWN = 8  # rows that an error names


def is_missing(value: Any) -> bool:
    """Return whether a value is null, or the NaN that represents it in a table of numbers."""
    return value is None or (isinstance(value, float) and value != value)


def is_list(value: Any) -> bool:
    """Return whether a value is a list, as JSON and Parquet have them."""
    return isinstance(value, list | tuple | np.ndarray)


def as_text(value: Any, name: str, origin: str) -> str:
    """Return a text or a number of column ``name`` as text. SettingError for anything else."""
    if isinstance(value, str | bool | int | float | Decimal | np.generic):
        return whole(str(value), f"column {name!r} of {origin}")
    raise SettingError(
        f"column {name!r} of {origin} is {described(value)}; expected text or a number in every row"
    )


def whole(text: str, where: str) -> str:
    """Return a text that UTF-8 can write. SettingError for half a character, which JSON can escape (``\\ud83d``)."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SettingError(
            f"{where} has half a character, {text[error.start]!r}, which no tokenizer reads; expected complete ones; "
            "fix what wrote the file"
        ) from error
    return text


def require_utf8(name: str, kind: str) -> None:
    """Raise SettingError for a file whose name no result can say, before anything is measured on it."""
    if not is_utf8(name):
        raise SettingError(
            f"{kind} '{as_utf8(name)}' is not UTF-8, as results must be; rename the file or folder"
        )


def empty_value(name: str, origin: str, others: Sequence[str] = ()) -> SettingError:
    """Return the error for a value that is missing; ``others`` are the further rows that lack one.

    >>> print(empty_value("answer", "line 2 of a.csv", ["line 5 of a.csv", "line 9 of a.csv"]))
    column 'answer' of line 2 of a.csv is empty; expected a value in every row; 2 further rows lack one: line 5, line 9
    """
    said = f"column {name!r} of {origin} is empty; expected a value in every row"
    if others:
        shown = ", ".join(other.partition(" of ")[0] for other in others[:_SHOWN])
        more = ", ..." if len(others) > _SHOWN else ""
        rows = "1 further row lacks" if len(others) == 1 else f"{len(others):,} further rows lack"
        said += f"; {rows} one: {shown}{more}"
    return SettingError(said)


def described(value: Any) -> str:
    """Say in words what a value is that is not a text."""
    if is_list(value):
        return "a list"
    return "an object" if isinstance(value, dict) else f"a value of type {type(value).__name__}"
