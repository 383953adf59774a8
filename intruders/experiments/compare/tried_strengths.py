"""Every remedy at the strengths that are tried."""

from __future__ import annotations

from ...mitigation.remedies.every_remedy import known_remedies, published_remedy
from ...mitigation.remedies.intruders import ScaledIntruders
from ...mitigation.remedies.remedy import Remedy
from ...mitigation.remedies.remedy_table import INTRUDERS


def at_strengths(name: str, count: int, seed: int, which: str) -> list[Remedy]:
    """Return a remedy at ``count`` of its strengths, evenly spread, from the mildest; ``which`` intruders it scales."""
    strengths = _spread(_kind_of(name).strengths, count)
    if name == INTRUDERS:
        return [ScaledIntruders(scale, which=which) for scale in strengths]
    if not strengths:  # of a plugin that names none
        return [published_remedy(name, seed=seed)]
    return [published_remedy(name, strength, seed) for strength in strengths]


def strength_name(name: str) -> str:
    """Return the name of that number."""
    return _kind_of(name).strength


def source_of(name: str) -> str:
    """Return the paper of a remedy."""
    return _kind_of(name).source


def _kind_of(name: str) -> type[Remedy]:
    return ScaledIntruders if name == INTRUDERS else known_remedies()[name]


def _spread(strengths: tuple[float, ...], count: int) -> list[float]:
    """Pick ``count`` strengths, evenly spaced, ends included; a single one is the middle one.

    >>> _spread((1.0, 2.0, 3.0, 4.0, 5.0), 3), _spread((1.0, 2.0, 3.0), 1), _spread((1.0, 2.0), 9)
    ([1.0, 3.0, 5.0], [2.0], [1.0, 2.0])
    """
    if count >= len(strengths):
        return list(strengths)
    if count == 1:
        return [strengths[len(strengths) // 2]]
    last = len(strengths) - 1
    return [strengths[round(position * last / (count - 1))] for position in range(count)]
