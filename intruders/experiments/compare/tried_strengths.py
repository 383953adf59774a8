"""Every remedy at the strengths that are tried."""

from __future__ import annotations

from ...mitigation.remedies.every_remedy import known_remedies, published_remedy
from ...mitigation.remedies.intruders import INTRUDERS, ScaledIntruders
from ...mitigation.remedies.remedy import PublishedRemedy, Remedy, ScaledRemedy


def at_strengths(name: str, count: int, seed: int) -> list[Remedy]:
    """Return a remedy at ``count`` of its strengths, evenly spread, from the mildest."""
    if name == INTRUDERS:
        return [ScaledIntruders(scale) for scale in _spread(ScaledIntruders.strengths, count)]
    cls = known_remedies()[name]
    if not cls.strengths:  # of a plugin that names none
        return [published_remedy(name, seed=seed)]
    return [published_remedy(name, strength, seed) for strength in _spread(cls.strengths, count)]


def strength_of(remedy: Remedy) -> float | None:
    """Return the number that expresses a remedy's strength; None if it has none."""
    if isinstance(remedy, ScaledRemedy):
        return remedy.scale
    return float(getattr(remedy, remedy.strength)) if isinstance(remedy, PublishedRemedy) else None


def strength_name(name: str) -> str:
    """Return the name of that number."""
    return "scale" if name == INTRUDERS else known_remedies()[name].strength


def source_of(name: str) -> str:
    """Return the paper of a remedy."""
    return "Shuttleworth et al., arXiv 2410.21228" if name == INTRUDERS else known_remedies()[name].source


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
