"""Verdicts in words: numbers as people read them, always with their interval and the number of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...evaluation.bootstrap import Interval
from ..findings import Effect, Finding


def effect(name: str, interval: Interval) -> Effect:
    return Effect(name, interval.estimate, interval.low, interval.high)


def said(interval: Interval | Effect, digits: int = 2, signed: bool = True) -> str:
    """``+0.42 [+0.31, +0.53]``; without the bracket where there is no interval."""
    sign = "+" if signed else ""
    if math.isnan(interval.estimate):
        return "-"
    text = f"{interval.estimate:{sign}.{digits}f}"
    if not math.isfinite(interval.low) or not math.isfinite(interval.high):
        return f"{text} (no interval)"
    return f"{text} [{interval.low:{sign}.{digits}f}, {interval.high:{sign}.{digits}f}]"


def seeds_said(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def judged(intervals: Sequence[Interval | Effect], expected: int) -> bool | None:
    """Whether effects of the expected sign (+1 or -1) are shown: True where all are clear and have it.

    False where one has an interval that holds zero or lies on the other side; None where none has an interval.
    """
    known = [one for one in intervals if math.isfinite(one.low) and math.isfinite(one.high)]
    if not known:
        return None
    return all((one.low > 0) if expected > 0 else (one.high < 0) for one in known)


def opening(shown: bool | None, seeds: int) -> str:
    """How a verdict begins."""
    if shown:
        return ""
    return "not shown: " if shown is False or seeds != 1 else "not shown beyond one seed: "


def together(*answers: bool | None) -> bool | None:
    """True where all parts of a claim are shown, False where one is not, None where one cannot be told."""
    if False in answers:
        return False
    return None if None in answers or not answers else True


def missing(name: str, question: str, claim: str, needed: str, notes: Sequence[str] = ()) -> Finding:
    """The finding where the study holds nothing to answer from; ``needed`` says what would have to be in it."""
    return Finding(name, question, claim, f"not shown: {needed}", None, notes=list(notes))


def left_out_said(left_out: int, of: int) -> str:
    return f"{left_out} of {of} runs did not reach the common score and are left out" if left_out else ""
