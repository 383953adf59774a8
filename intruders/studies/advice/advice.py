"""Advice: changes to a fine-tuning, each with evidence from the user's own numbers."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass, field
from typing import Any

from ...charts.text import shell_lines
from ...version import __version__
from .steps import INTERPRETATION, Step

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
    """All advice on one base, adapter, audit or study; empty if no number calls for a change."""

    source: str
    kind: str  # base, audit, run or study
    advice: list[Advice]
    # What was looked at and gave no advice, and what was not measured.
    notes: list[str] = field(default_factory=list)
    # What to do with a tuned model, in order.
    steps: list[Step] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """Return the advice as plain JSON values."""
        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "source": self.source,
            "kind": self.kind,
            "advice": [
                {"topic": advice.topic, "change": advice.change, "evidence": advice.evidence}
                for advice in self.advice
            ],
            "notes": self.notes,
            "steps": [{"sentence": step.sentence, "command": step.line} for step in self.steps],
        }

    def lines(self) -> list[str]:
        """Return the text for a person, in 80 columns."""
        lines = [f"advice on {self.source} ({self.kind})"]
        if not self.advice:
            lines += ["", "No advice: no number here speaks for a change."]
        for advice in self.advice:
            lines += ["", *_wrapped(f"{advice.topic}: {advice.change}", "")]
            for evidence in advice.evidence:
                lines += _wrapped(evidence, "  - ")
        if self.notes:
            lines.append("")
            for note in self.notes:
                lines += _wrapped(note, "- ")
        if self.steps:
            lines += ["", "what to do, in this order"]
            for position, step in enumerate(self.steps, start=1):
                lines += _wrapped(step.sentence, f"{position}. ")
                lines += [f"     {line}" for line in shell_lines(step.command or (), _WIDTH - 5)]
            lines += ["", f"What each number means: {INTERPRETATION}"]
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
