"""Advice as text for a terminal."""

from __future__ import annotations

import textwrap

from ...charts.text import shell_lines
from ...studies.advice.advice import Advised
from ...studies.advice.steps import INTERPRETATION

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
