"""Leading directions of the base: rewound to, or taken off the updates."""

from dataclasses import dataclass

from torch import Tensor

from ...audits.result.records import AuditedMatrix
from ...linalg.low_rank import LowRank
from ...linalg.svd import Components
from ...settings import setting
from .changes import Change
from .remedy import Case, PublishedRemedy, WantedTriplets


@dataclass(frozen=True)
class Directions(PublishedRemedy):
    """``W' = W + sum_{i <= k} s_i (x_i z_i^T - y_i v_i^T)``: the base's vectors at the tuned singular values.

    x and z are singular vectors of W0; s, y and v are of W. The authors' script takes k = 100, their paper 20 % of
    all. In their code the base is the best checkpoint on other tasks; here it is the base that is given.
    """

    name = "directions"
    strength = "k"
    strengths = (10, 30, 100)
    source = "arXiv 2508.16546, 2509.12235"
    in_words = "the {k} leading directions of every matrix rewound to the base's"

    k: int = setting(100, "Number of leading directions to rewind, 1 or more.", least=1)

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        count = min(self.k, *matrix.shape)
        return WantedTriplets.leading("base", count), WantedTriplets.leading("tuned", count)

    def change(self, case: Case) -> Change:
        base, tuned = (self.rewound(case.parts[need], case) for need in self.needs(case.matrix))
        rewound = LowRank(*base.with_values(tuned.values).factors(1.0))
        return Change(added=rewound.plus(LowRank(*tuned.factors(-1.0))))

    def rewound(self, part: Components, case: Case) -> Components:
        """Choose the triplets to rewind among those that it needs."""
        return part


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
    in_words = "updates taken off the base's {k} leading directions"

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
        dense = case.update.dense().double()
        rows = first @ dense  # X^T D
        columns = dense @ second.mT - first.mT @ (rows @ second.mT)  # (I - X X^T) D Z
        # -(X X^T D + D Z Z^T - X X^T D Z Z^T), of 2 k columns where the update itself has no low rank.
        return Change(added=LowRank(first.mT, -rows).plus(LowRank(-columns, second)))

    def frames(self, case: Case) -> tuple[Tensor, Tensor]:
        """X^T (k, m) and Z^T (k, n)."""
        base = self.components(case)
        return base.left, base.right
