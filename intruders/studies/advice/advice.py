"""Advice: what to change, each piece with the user's own numbers that speak for it."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

from ...version import __version__

SCHEMA = 1
# What to do where scaling intruders clearly loses against interpolation.
DOWN_INSTEAD = (
    "turn the complete update down instead of its intruders: a share of it has a lower loss on text at the same task "
    "loss; intruders remedies BASE TUNED finds the share"
)
_WIDTH = 80


@dataclass(frozen=True)
class Advice:
    """One thing to change, and why."""

    topic: str  # rank, alpha, scale, mitigation, ...
    change: str
    evidence: list[str]


@dataclass(frozen=True)
class Advised:
    """All advice on one base, adapter, audit or study; none where the numbers speak for none."""

    source: str
    kind: str  # base, audit, run or study
    advice: list[Advice]
    notes: list[str] = field(
        default_factory=list
    )  # what was looked at and gave no advice, and what was not measured

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "source": self.source,
            "kind": self.kind,
            "advice": [
                {"topic": one.topic, "change": one.change, "evidence": one.evidence} for one in self.advice
            ],
            "notes": self.notes,
        }

    def lines(self) -> list[str]:
        """What a person reads, in 80 columns."""
        found = [f"advice on {self.source} ({self.kind})"]
        if not self.advice:
            found += ["", "No advice: no number here speaks for a change."]
        for one in self.advice:
            found += ["", *_wrapped(f"{one.topic}: {one.change}", "")]
            for evidence in one.evidence:
                found += _wrapped(evidence, "  - ")
        if self.notes:
            found.append("")
            for note in self.notes:
                found += _wrapped(note, "- ")
        return found


def _wrapped(text: str, start: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
