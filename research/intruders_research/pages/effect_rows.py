"""The effects of a finding as text."""

from intruders.system.words import number

from ..claims.shared.claim import CONTRADICTED, SUPPORTED, UNDECIDED, Effect, Finding


def effect_groups(finding: Finding) -> dict[str, list[Effect]]:
    """Return the effects by base, task and part of the runs, those that the claim speaks of first.

    These are there also where they were not measured.
    """
    reported = [effect for effect in finding.effects if effect.expected is None]
    groups: dict[str, list[Effect]] = {}
    for effect in [*finding.answers, *reported]:
        groups.setdefault(effect.where, []).append(effect)
    return groups


def parts_text(finding: Finding) -> str:
    """Return how the effects of a claim were decided: 2 supported, 10 undecided of 12 effects; empty for one word."""
    decisions = [answer.decision for answer in finding.answers]
    if len(set(decisions)) < 2:
        return ""
    counts = [
        f"{decisions.count(word)} {word}"
        for word in (SUPPORTED, CONTRADICTED, UNDECIDED)
        if word in decisions
    ]
    return f"{', '.join(counts)} of {len(decisions)} effects"


def effect_text(effect: Effect) -> str:
    """Return an estimate with its interval: 0.82 [0.61, 0.93]."""
    ends = f"[{interval_text(effect)}]" if effect.interval.has_ends else "(no interval)"
    return f"{number(effect.estimate)} {ends}"


def interval_text(effect: Effect) -> str:
    """Return both ends, or none: one seed gives no interval."""
    return f"{number(effect.low)}, {number(effect.high)}" if effect.interval.has_ends else "none"


def leading_effects(finding: Finding) -> list[Effect]:
    """Return the effect of the verdict, for every base and task that it was measured on."""
    if not finding.effects:
        return []
    first = finding.effects[0]
    return [effect for effect in finding.effects if (effect.what, effect.over) == (first.what, first.over)]
