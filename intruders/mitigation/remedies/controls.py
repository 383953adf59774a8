"""Controls: what is changed in the intruders' place, to test whether the intruders mattered.

An intervention shows a cause only against what else could explain its effect. Every control is applied at the same
scale, to the same matrices, and to as many directions.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from ...audits.records import AuditedMatrix
from ..changes import Change
from .intruders import ScaledIntruders, intruder_indices
from .remedy import Case, ScaledRemedy, Triplets


@dataclass(frozen=True)
class Shrink(ScaledRemedy):
    """The whole update times one number a matrix, which gives it the norm that it has after the mitigation.

    Did it matter which directions shrank?
    """

    name = "shrink"
    is_control = True

    def scaled(self, matrix: AuditedMatrix) -> Triplets:
        return self._mitigation.scaled(matrix)

    def change(self, case: Case) -> Change:
        return Change(share=self._mitigation.change(case).norm_of(case.update) / case.update.norm())

    def sentence(self, vectors: int) -> str:
        return f"control: updates shrunk to the norms that scaling their intruders by {self.scale:g} leaves"

    @property
    def _mitigation(self) -> ScaledIntruders:
        return ScaledIntruders(self.scale)


@dataclass(frozen=True)
class RandomVectors(ScaledIntruders):
    """As many of the top-k singular vectors that are not intruders, drawn by seed; fewer if there are fewer.

    Did it matter that they were intruders?
    """

    name = "random"
    is_control = True

    def scaled(self, matrix: AuditedMatrix) -> Triplets:
        count, others = len(intruder_indices(matrix)), _other_indices(matrix)
        drawn = random.Random(f"{self.seed} {matrix.name}").sample(others, min(count, len(others)))
        return Triplets("tuned", tuple(sorted(drawn)))

    def sentence(self, vectors: int) -> str:
        return f"control: {vectors:,} random vectors that are not intruders scaled by {self.scale:g}"


@dataclass(frozen=True)
class Neighbours(ScaledIntruders):
    """For each intruder the vector nearest to it in rank that is not an intruder; fewer if there are fewer.

    Did it matter that they were intruders, at similar singular values?
    """

    name = "neighbours"
    is_control = True

    def scaled(self, matrix: AuditedMatrix) -> Triplets:
        left, chosen = _other_indices(matrix), []
        for intruder in intruder_indices(matrix):
            if left:
                chosen.append(min(left, key=lambda other: (abs(other - intruder), other)))
                left.remove(chosen[-1])
        return Triplets("tuned", tuple(sorted(chosen)))

    def sentence(self, vectors: int) -> str:
        return f"control: {vectors:,} vectors next in rank to intruders scaled by {self.scale:g}"


@dataclass(frozen=True)
class UpdateDirections(ScaledIntruders):
    """As many leading singular directions of the update D, instead of those of W.

    Did it matter where the directions were looked for?
    """

    name = "update"
    is_control = True

    def scaled(self, matrix: AuditedMatrix) -> Triplets:
        return Triplets("update", tuple(range(len(intruder_indices(matrix)))))

    def sentence(self, vectors: int) -> str:
        return f"control: {vectors:,} leading directions of the update scaled by {self.scale:g}"


def _other_indices(matrix: AuditedMatrix) -> list[int]:
    return [vector.index for vector in matrix.vectors if not vector.intruder]
