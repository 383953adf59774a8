"""The paper's intervention: scale the intruder dimensions of the tuned matrix.

``W' = W + (scale - 1) sum_j s_j y_j v_j^T`` over the intruders j, with the singular value decomposition of the tuned
matrix W (Shuttleworth et al. 2024, section 5; the authors confirm that it is that of W, not of the update). The paper's
own experiments scale one intruder of each matrix, the one with the largest singular value.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...audits.result.records import AuditedMatrix
from ...linalg.low_rank import LowRank
from .changes import Change
from .remedy import Case, ScaledRemedy, WantedTriplets
from .remedy_table import ALL, INTRUDERS


@dataclass(frozen=True)
class ScaledIntruders(ScaledRemedy):
    """Every intruder times ``scale``, or the strongest one of each matrix."""

    name = INTRUDERS
    strengths = (0.75, 0.5, 0.25, 0.0)

    def scaled(self, matrix: AuditedMatrix) -> WantedTriplets:
        return intruders_of(matrix, self.which)

    def change(self, case: Case) -> Change:
        return Change(added=LowRank(*case.parts[self.scaled(case.matrix)].factors(self.scale - 1.0)))

    def sentence(self, vectors: int) -> str:
        whose = "" if self.which == ALL else ", the strongest of each matrix,"
        return f"{vectors:,} intruders{whose} scaled by {self.scale:g}"


def intruders_of(matrix: AuditedMatrix, which: str = ALL) -> WantedTriplets:
    """The singular triplets of the intruders of W, or of the one with the largest singular value."""
    return WantedTriplets("tuned", intruder_indices(matrix, which))


def intruder_indices(matrix: AuditedMatrix, which: str = ALL) -> tuple[int, ...]:
    """Return the intruders' indices, in the descending order of W's singular values; ambiguous ones as counted."""
    indices = tuple(vector.index for vector in matrix.vectors if vector.intruder)
    return indices if which == ALL else indices[:1]
