"""The controls of one remedy: what else could explain what it does to a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from ...mitigation.remedies.at_random import RANDOM, at_random
from ...mitigation.remedies.controls import Complement, EqualNorm, EqualOutput, EqualSize, Neighbours
from ...mitigation.remedies.intruders import ScaledIntruders
from ...mitigation.remedies.remedy import Case, Remedy
from ...mitigation.remedies.remedy_table import SHRINK_OUTPUT, TOP

_DRAWS = 3  # of the control random
_IS_SHRINK = "the remedy itself scales complete updates"


def controls_of(
    remedy: Remedy, cases: Sequence[Case], inputs: Mapping[str, Tensor], seed: int
) -> tuple[dict[str, Remedy], dict[str, str]]:
    """Return the controls by label, and the reasons of missing ones; draws are not fitted to the model yet.

    Args:
      remedy: at the strength that was chosen.
      cases: the matrices that it changes.
      inputs: (tokens, n), a sample of the base's inputs, by matrix.
      seed: seed of the random draws.
    """
    controls: dict[str, Remedy] = {}
    missing: dict[str, str] = {}
    matched = {
        "shrink": EqualNorm(remedy),
        SHRINK_OUTPUT: EqualOutput(remedy, inputs),
        "resized": EqualSize(remedy),
    }
    if remedy.scales_whole_updates:
        missing = dict.fromkeys(matched, _IS_SHRINK)
    else:
        controls |= matched
    if not inputs:
        controls.pop(SHRINK_OUTPUT, None)
        missing[SHRINK_OUTPUT] = "the inputs of no matrix are known"
    if isinstance(remedy, ScaledIntruders):
        in_their_place: list[Remedy] = [Complement(remedy.scale, which=remedy.which)]
        if remedy.which == TOP:  # the paper's own control of it
            in_their_place.append(Neighbours(remedy.scale, which=TOP))
        for matching in in_their_place:
            without = sum(not matching.exists(case) for case in cases)
            if without < len(cases) or not cases:
                controls[matching.name] = matching
            if without:
                missing[matching.name] = f"{without} of {len(cases)} matrices with intruders have none"
    drawn = [
        control for draw in range(_DRAWS) if (control := at_random(remedy, seed + draw, cases)) is not None
    ]
    if drawn and cases and not any(drawn[0].exists(case) for case in cases):
        missing[RANDOM] = "every vector that an audit examines is an intruder in every matrix"
        return controls, missing
    controls |= {f"{RANDOM} {number}": control for number, control in enumerate(drawn, start=1)}
    if not drawn:
        missing[RANDOM] = "the remedy makes no choice that can be drawn"
    return controls, missing


def is_draw(label: str) -> bool:
    """Return whether a control is one of the random draws."""
    return label.startswith(f"{RANDOM} ")
