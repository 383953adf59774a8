"""Advice: changes to a fine-tuning, each with evidence from the user's own numbers, as a file and as text."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..system.commands import shell_lines
from ..system.plain_values import from_plain, plain
from ..system.result_protocol import JsonResult
from ..version import __version__
from .next_steps import INTERPRETATION, Step

SCHEMA = 1


@dataclass(frozen=True)
class Advice:
    """One thing to change, and why."""

    topic: str  # rank, alpha, scale, mitigation, ...
    change: str
    evidence: list[str]


@dataclass(frozen=True)
class Advised(JsonResult):
    """All advice on one base, adapter, audit or study; empty if no number calls for a change.

    Attributes:
      source: the base, adapter, audit or study that the advice is on.
      kind: "base", "audit", "run" or "study".
      advice: each number that calls for a change, with the evidence.
      notes: what was looked at and gave no advice, and what was not measured.
      steps: what to do with a tuned model, in order.
    """

    schema = SCHEMA
    what = "saved advice"
    written_by = "intruders advise --json"

    source: str
    kind: str
    advice: list[Advice]
    notes: list[str] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)

    def to_document(self) -> dict[str, Any]:
        """Return the advice as plain JSON values."""
        return {
            "schema": SCHEMA,
            "intruders_version": __version__,
            "source": self.source,
            "kind": self.kind,
            "advice": plain(self.advice),
            "notes": self.notes,
            "steps": [{"sentence": step.sentence, "command": step.line} for step in self.steps],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Advised:
        """Make it from its document."""
        steps = [
            Step(step["sentence"], None if step["command"] is None else tuple(shlex.split(step["command"])))
            for step in document["steps"]
        ]
        advice = from_plain(list[Advice], document["advice"])
        return cls(document["source"], document["kind"], advice, document["notes"], steps)


_WIDTH = 80


def advice_lines(advised: Advised) -> list[str]:
    """Return the text for a person, in 80 columns."""
    lines = [f"advice on {advised.source} ({advised.kind})"]
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
    if advised.steps:
        lines += ["", "what to do, in this order"]
        for position, step in enumerate(advised.steps, start=1):
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
