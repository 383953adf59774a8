"""Leading singular directions rewound to the base's (arXiv 2508.16546 and 2509.12235)."""

from __future__ import annotations

from dataclasses import dataclass

from ...audits.result.records import AuditedMatrix
from ...engine.components import Components
from ...linalg.low_rank import LowRank
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
    rank_after = "at most r + 2k"

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

    def sentence(self, vectors: int) -> str:
        return f"the {self.k} leading directions of every matrix rewound to the base's"
