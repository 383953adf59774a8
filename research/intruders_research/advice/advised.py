"""Advice: changes to a fine-tuning, each with evidence from a study's own numbers, as JSON and as text."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

from intruders.system.plain_values import plain
from intruders.version import __version__

SCHEMA = 1
_WIDTH = 80


@dataclass(frozen=True)
class Advice:
    """One thing to change, and why."""

    topic: str  # rank, alpha, scale, mitigation, ...
    change: str
    evidence: list[str]


@dataclass(frozen=True)
class Advised:
    """All advice on one study; empty if no number calls for a change."""

    source: str
    advice: list[Advice]
    notes: list[str] = field(default_factory=list)  # what was looked at and gave no advice

    def to_document(self) -> dict[str, Any]:
        """Return the advice as plain JSON values."""
        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "source": self.source,
            "advice": plain(self.advice),
            "notes": self.notes,
        }


def advice_lines(advised: Advised) -> list[str]:
    """Return the text for a person, in 80 columns."""
    lines = [f"advice on {advised.source} (study)"]
    if not advised.advice:
        lines += ["", "No advice: no number here speaks for a change."]
    for advice in advised.advice:
        lines += ["", *_wrapped(f"{advice.topic}: {advice.change}", "")]
        for evidence in advice.evidence:
            lines += _wrapped(evidence, "  - ")
    if advised.notes:
        lines.append("")
        for note in advised.notes:
            lines += _wrapped(note, "- ")
    return lines


def _wrapped(text: str, start: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_long_words=False,
        break_on_hyphens=False,
    )
