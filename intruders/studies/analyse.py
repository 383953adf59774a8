"""Every claim of the paper as a named analysis: the registry, and all of them on a study's tables."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import import_module

from ..errors import SettingError
from .findings import Finding
from .results import Results

# In the order in which a report tells the story.
ANALYSES = [
    "structure",
    "rank",
    "forgetting",
    "intervention",
    "sequence",
    "dynamics",
    "causes",
    "remedies",
    "threshold",
]


def analyse_all(results: Results, names: Sequence[str] | None = None) -> list[Finding]:
    """The findings of the analyses ``names``, in the order of ``ANALYSES``; all when None.

    Raises SettingError for a name that is none.
    """
    chosen = ANALYSES if names is None else check_analyses(names)
    return [
        import_module(f".analyses.{name}", __package__).analyse(results)
        for name in ANALYSES
        if name in chosen
    ]


def check_analyses(names: Sequence[str]) -> list[str]:
    """The names as given; SettingError with the nearest one where a name is no analysis."""
    for name in names:
        if name not in ANALYSES:
            near = difflib.get_close_matches(str(name), ANALYSES, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise SettingError(
                f"analysis '{name}' is not known; {hint}expected some of {', '.join(ANALYSES)}"
            )
    return list(names)
