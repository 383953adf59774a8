"""What is scaled: the intruders, or what a control puts in their place.

An intervention shows a cause only against what else could explain its effect. Every control is applied at the same
scale, to the same matrices, and to as many directions:

- shrink: the whole update, uniformly, to the Frobenius norm that the update has after the mitigation, matrix by
  matrix. Did it matter which directions shrank?
- random: as many of the top k singular vectors that are no intruders, drawn by seed. Did it matter that they
  were intruders?
- neighbours: for each intruder the vector nearest to it in rank that is none. The same, at like singular values.
- update: as many leading singular directions of the update D, instead of those of W. Did it matter where the
  directions were looked for?
"""

from __future__ import annotations

import math
import random

from ...audits.records import AuditedMatrix
from ...errors import SettingError

INTRUDERS = "intruders"

CONTROLS = ("shrink", "random", "neighbours", "update")


def check_control(control: object) -> None:
    if control not in (INTRUDERS, *CONTROLS):
        raise SettingError(
            f"control is {control!r}; expected one of {', '.join(CONTROLS)}, or {INTRUDERS} for no control"
        )


def intruder_places(matrix: AuditedMatrix) -> list[int]:
    """Places of the intruders in the descending order of W's singular values; ambiguous ones as they were counted."""
    return [vector.index for vector in matrix.vectors if vector.intruder]


def scaled_places(matrix: AuditedMatrix, control: str, seed: int) -> list[int]:
    """Places of W's singular vectors that the control scales: of ``random`` and ``neighbours``, others than intruders.

    Fewer than there are intruders, when the audit examined fewer others.
    """
    intruders = intruder_places(matrix)
    others = [vector.index for vector in matrix.vectors if not vector.intruder]
    if control == "random":
        drawn = random.Random(f"{seed} {matrix.name}").sample(others, min(len(intruders), len(others)))
        return sorted(drawn)
    if control == "neighbours":
        chosen: list[int] = []
        for place in intruders:
            left = [other for other in others if other not in chosen]
            if left:
                chosen.append(min(left, key=lambda other: (abs(other - place), other)))
        return sorted(chosen)
    return intruders


def check_scale(scale: object) -> None:
    number = isinstance(scale, int | float) and not isinstance(scale, bool)
    if not number or not math.isfinite(scale) or scale < 0:  # type: ignore[arg-type, operator]
        raise SettingError(
            f"scale is {scale!r}; expected the share of the intruders to keep: 0 removes them, 1 changes nothing"
        )
