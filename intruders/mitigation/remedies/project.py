"""Updates taken off the base's leading directions (after OPLoRA; arXiv 2510.13003)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...audits.result.records import AuditedMatrix
from ...linalg.low_rank import LowRank
from ...settings import setting
from .changes import Change
from .remedy import Case, PublishedRemedy, WantedTriplets


@dataclass(frozen=True)
class Project(PublishedRemedy):
    """``W' = W0 + (I - X_k X_k^T) D (I - Z_k Z_k^T)``, with the k leading singular vectors X and Z of W0.

    The k leading triplets of W0 are triplets of W' too. OPLoRA trains under these projections, with k 16 or 128;
    to apply them after training is this package's.
    """

    name = "project"
    strength = "k"
    strengths = (16, 64, 128)
    source = "OPLoRA, arXiv 2510.13003; after training: ours"
    rank_after = "at most r"

    k: int = setting(
        16, "Number of the base's leading directions that updates leave alone, 1 or more.", least=1
    )

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        return (WantedTriplets.leading("base", min(self.k, *matrix.shape)),)

    def change(self, case: Case) -> Change:
        first, second = self.frames(case)
        if isinstance(case.update, LowRank):
            update = case.update.double()
            left = update.left - first.mT @ (first @ update.left)
            right = update.right - (update.right @ second.mT) @ second
            return Change(share=0.0, added=LowRank(left, right))
        return Change(added=_within(first, second, case))

    def frames(self, case: Case) -> tuple[Tensor, Tensor]:
        """X^T (k, m) and Z^T (k, n)."""
        [base] = (case.parts[need] for need in self.needs(case.matrix))
        return base.left, base.right

    def sentence(self, vectors: int) -> str:
        return f"updates taken off the base's {self.k} leading directions"


def _within(first: Tensor, second: Tensor, case: Case) -> LowRank:
    """``-(X X^T D + D Z Z^T - X X^T D Z Z^T)``, of 2 k columns where the update itself has no low rank."""
    update = case.update.dense().double()
    rows = first @ update  # X^T D
    columns = update @ second.mT - first.mT @ (rows @ second.mT)  # (I - X X^T) D Z
    return LowRank(first.mT, -rows).plus(LowRank(-columns, second))
