"""Verdicts in words: numbers as people read them, always with their interval and the number of seeds."""

from __future__ import annotations

import math

from ....evaluation.intervals import Interval
from ..claim import Answer, Effect
from .statistics import MOST_SEEDS, seeds_needed, spread_of

# An effect that the runs hold nothing about.
NOT_MEASURED = Interval(math.nan, -math.inf, math.inf)


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


def points_said(lost: Interval) -> str:
    """What was lost of the task score, or gained where that is below zero: ``gains +1.3 [-4.9, +7.6] points``."""
    if math.isnan(lost.estimate):
        return "has no measured task score"
    if lost.estimate < 0:
        return f"gains {said(Interval(-lost.estimate, -lost.high, -lost.low), 1)} points of task score"
    return f"loses {said(lost, 1)} points of task score"


def seeds_said(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"{seeds} seeds"


def unknown(one: Interval) -> Interval:
    """The estimate without its interval."""
    return Interval(one.estimate, -math.inf, math.inf)


def answer(
    where: str, what: str, found: Interval, *, expected: int = 1, seeds: int, lacking: str | None = None
) -> Answer:
    """What an effect says on its claim. ``lacking``: what would decide it, where more seeds would not."""
    return Answer(
        where,
        what,
        found.estimate,
        found.low,
        found.high,
        expected,
        seeds,
        _needed(found, seeds) if lacking is None else lacking,
    )


def _needed(found: Interval, seeds: int) -> str | int:
    """How many seeds would decide the sign of a mean over seeds, if effect and spread stay as they are."""
    if seeds < 2:
        return "more than one seed"
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        return "a spread over seeds"
    needed = seeds_needed(found.estimate, spread_of(found, seeds))
    if needed is None:
        most = max(abs(found.low), abs(found.high))
        return f"more than {MOST_SEEDS} seeds, since the effect is within {most:.2g} of zero"
    # The formula asks for a power of 80 %, which an interval that just holds zero may have already.
    return max(needed, seeds + 1)
