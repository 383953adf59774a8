"""Controls: what is changed in the intruders' place, to test whether the intruders mattered.

An intervention shows a cause only against what else could explain its effect. Every control is applied at the same
scale, to the same matrices, and to as many directions. Controls of any remedy are in ``matched.py``.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from torch import Tensor

from ...audits.result.records import AuditedMatrix
from ...linalg.low_rank import LowRank
from .changes import Change
from .intruders import ScaledIntruders, intruder_indices, intruders_of
from .remedy import Case, ScaledRemedy, WantedTriplets

# Norms that agree to this share of their square are equal.
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Complement(ScaledRemedy):
    """``W' = W0 + (1 - a) D + a Y Y^T D``: the update shrunk outside of the intruders' left singular vectors Y.

    a gives it the norm that scaling the intruders leaves: ``(1 - a)^2 = (||D'||^2 - ||Y^T D||^2) / (||D||^2 - ||Y^T
    D||^2)``. That exists where ``||Y^T D|| <= ||D'|| <= ||D||``; other matrices stay as they are. Would removing the
    rest do as well?
    """

    name = "complement"

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets:
        return intruders_of(matrix, self.which)

    def exists(self, case: Case) -> bool:
        return self._share_outside(case) is not None

    def change(self, case: Case) -> Change:
        share = self._share_outside(case)
        if share is None:
            return Change()
        left = case.parts[self.scaled(case.matrix)].left  # Y^T, (c, m)
        return Change(share, LowRank((1 - share) * left.mT, _inside(case, left)))

    def sentence(self, vectors: int) -> str:
        return (
            f"control: updates shrunk outside of {vectors:,} intruders, to the norms that scaling these by "
            f"{self.scale:g} leaves"
        )

    def _share_outside(self, case: Case) -> float | None:
        """1 - a."""
        left = case.parts[self.scaled(case.matrix)].left
        if len(left) == 0:
            return None
        whole = case.update.norm() ** 2
        inside = float(_inside(case, left).square().sum())
        wanted = _mitigation(self).change(case).norm_of(case.update) ** 2
        outside = whole - inside
        if (
            outside <= _ROUNDING * whole
            or not -_ROUNDING * whole <= wanted - inside <= outside + _ROUNDING * whole
        ):
            return None
        return math.sqrt(min(1.0, max(0.0, (wanted - inside) / outside)))


def _mitigation(control: ScaledRemedy) -> ScaledIntruders:
    """The intruders that a control is matched to, scaled."""
    return ScaledIntruders(control.scale, which=control.which)


def _inside(case: Case, left: Tensor) -> Tensor:
    """Y^T D, (c, n)."""
    return case.update.double().apply_transpose(left.to(case.update.device))


@dataclass(frozen=True)
class RandomVectors(ScaledIntruders):
    """The same number of top-k singular vectors that are not intruders, drawn by seed; fewer if necessary.

    Did it matter that they were intruders?
    """

    name = "random"

    def exists(self, case: Case) -> bool:
        return _has_others(self, case.matrix)

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets:
        count, others = len(intruder_indices(matrix, self.which)), _other_indices(matrix)
        drawn = random.Random(f"{self.seed} {matrix.name}").sample(others, min(count, len(others)))
        return WantedTriplets("tuned", tuple(sorted(drawn)))

    def sentence(self, vectors: int) -> str:
        return f"control: {vectors:,} random vectors that are not intruders scaled by {self.scale:g}"


@dataclass(frozen=True)
class Neighbours(ScaledIntruders):
    """For each intruder the vector nearest to it in rank that is not an intruder; fewer if there are fewer.

    Did it matter that they were intruders, at similar singular values?
    """

    name = "neighbours"

    def exists(self, case: Case) -> bool:
        return _has_others(self, case.matrix)

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets:
        left, chosen = _other_indices(matrix), []
        for intruder in intruder_indices(matrix, self.which):
            if left:
                chosen.append(min(left, key=lambda other: (abs(other - intruder), other)))
                left.remove(chosen[-1])
        return WantedTriplets("tuned", tuple(sorted(chosen)))

    def sentence(self, vectors: int) -> str:
        return f"control: {vectors:,} vectors next in rank to intruders scaled by {self.scale:g}"


@dataclass(frozen=True)
class UpdateDirections(ScaledIntruders):
    """The same number of leading singular directions of the update D, instead of those of W.

    Did it matter where the directions were looked for?
    """

    name = "update"

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets:
        return WantedTriplets("update", tuple(range(len(intruder_indices(matrix, self.which)))))

    def sentence(self, vectors: int) -> str:
        return f"control: {vectors:,} leading directions of the update scaled by {self.scale:g}"


def _has_others(control: ScaledRemedy, matrix: AuditedMatrix) -> bool:
    """Return whether a control scales a vector in the place of the intruders; all of the top k may be intruders."""
    wanted = control.scaled(matrix)
    return bool(wanted and wanted.indices) or not intruder_indices(matrix, control.which)


def _other_indices(matrix: AuditedMatrix) -> list[int]:
    return [vector.index for vector in matrix.vectors if not vector.intruder]
