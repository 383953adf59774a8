"""Measurements of a comparison that are counted, and stopped after some."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from intruders.experiments.bench import Bench


@dataclass
class Measurements:
    """How many were made, and how many may be made before Ctrl-C; no bound when negative."""

    left: int = -1
    made: int = 0


def counted_measurements(monkeypatch: pytest.MonkeyPatch) -> Measurements:
    """Count every measurement of a changed model until the test ends."""
    counts, measured = Measurements(), Bench.measured

    def counted(self: Bench, *given: object) -> object:
        if counts.left == 0:
            raise KeyboardInterrupt
        counts.left -= 1
        counts.made += 1
        return measured(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(Bench, "measured", counted)
    return counts
