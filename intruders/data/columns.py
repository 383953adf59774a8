"""The columns of a user's own data file, and which of them mean what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, and where the other splits are."""

    text: tuple[str, ...] = ()  # one, or two for a pair
    label: str | None = None
    prompt: str | None = None
    completion: str | None = None
    score: str | None = None  # of completions; exact if not given
    validation_file: str | None = None
    test_file: str | None = None
    no_header: bool = False  # columns are then called 0, 1, 2, ...
