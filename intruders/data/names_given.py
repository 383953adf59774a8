"""One name of a task or corpus, or several."""

from __future__ import annotations

import os
from collections.abc import Iterable


def names_given(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return one name or path, or several, as a list of texts.

    >>> names_given("pydoc"), names_given(("pydoc", "notes.txt"))
    (['pydoc'], ['pydoc', 'notes.txt'])
    """
    if isinstance(given, str | os.PathLike):
        return [os.fspath(given)]
    return [os.fspath(name) for name in given]
