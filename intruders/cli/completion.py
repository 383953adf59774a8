"""Completion of values while they are typed; for all other values the shell offers names of files."""

from __future__ import annotations

from collections.abc import Callable, Collection

from ..checkpoints.stored.locate import DEMO_ADAPTERS, DEMO_MODELS


def one_of(choices: Collection[str]) -> Callable[[str], list[str]]:
    """Complete one of the choices, or the last of a comma-separated list."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{choice}" for choice in choices if choice.startswith(last)]

    return complete


def demo_model(incomplete: str) -> list[str]:
    """Complete the name of a demo model once it is begun; before, names of files help more."""
    return one_of([*DEMO_MODELS, *DEMO_ADAPTERS])(incomplete) if incomplete else []
