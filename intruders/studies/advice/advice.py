"""Advice: changes to a fine-tuning, each with evidence from the user's own numbers."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ...system.plain_values import from_plain, plain
from ...system.result_protocol import JsonResult
from ...version import __version__
from .steps import Step

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
