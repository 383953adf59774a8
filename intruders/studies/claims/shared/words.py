"""Verdicts in words: numbers as people read them, always with their interval and the number of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ....evaluation.intervals import Interval
from ..claim import Effect


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


def reverse(one: Interval) -> Interval:
    """The interval of the negative: for an effect that the claim expects below zero."""
    return Interval(-one.estimate, -one.high, -one.low)


def unknown(one: Interval) -> Interval:
    """The estimate without its interval."""
    return Interval(one.estimate, -math.inf, math.inf)


def decide(parts: Sequence[Interval], seeds: int) -> tuple[bool | None, str]:
    """Whether a claim is shown by effects that it expects above zero, and how the verdict begins.

    True where all are clearly above zero. False where one has an interval and is not. None where those that are not
    have no interval, as with one seed.
    """
    is_clear = [one.low > 0 for one in parts]
    if parts and all(is_clear):
        return True, ""
    if parts and all(one.high < 0 for one in parts):
        return False, "not shown, the opposite is: "
    others = [one for one, clear in zip(parts, is_clear, strict=True) if not clear]
    shown = False if any(math.isfinite(one.low) and math.isfinite(one.high) for one in others) else None
    if any(is_clear):
        return shown, "not shown in full: "
    return shown, "not shown beyond one seed: " if shown is None and seeds == 1 else "not shown: "
