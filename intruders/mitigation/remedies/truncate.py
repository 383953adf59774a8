"""The leading directions of every update alone (arXiv 2606.07596)."""

from __future__ import annotations

from dataclasses import dataclass

from ...engine.components import Components
from ...linalg.low_rank import LowRank
from ...linalg.svd import ZERO_SHARE
from ...settings import setting
from .changes import Change
from .remedy import Case, SpectralRemedy


@dataclass(frozen=True)
class Truncate(SpectralRemedy):
    """``W' = W0 + sum_{i <= r'} d_i p_i q_i^T``: the fewest leading terms of D with a share of ``sum_i d_i^2``.

    The paper names no share that could be read; 0.9 is this package's default.
    """

    name = "truncate"
    strength = "energy"
    strengths = (0.95, 0.9, 0.75, 0.5)
    source = "arXiv 2606.07596"
    rank_after = "at most r"

    energy: float = setting(
        0.9,
        "Share of the update's squared singular values that stays, above 0 and at most 1.",
        above=0,
        most=1,
    )

    @property
    def changes_nothing(self) -> bool:
        return self.energy == 1

    def change(self, case: Case) -> Change:
        part = self.components(case)
        squares = part.values.square()
        # A share that a sum of leading squares has exactly may not cost a term more by rounding.
        wanted = self.energy * squares.sum() * (1 - 1e-12)
        count = int((squares.cumsum(0) < wanted).sum()) + 1
        if not bool((part.values[count:] > ZERO_SHARE * part.values[0]).any()):
            return Change()  # every term stays, as the only one of a rank-one update does
        left, right = self.kept(part, count, case.matrix.name).factors(1.0)
        return Change(share=0.0, added=LowRank(left, right))

    def kept(self, part: Components, count: int, name: str) -> Components:
        """``count`` terms of the update of a matrix."""
        return part.first(count)

    def sentence(self, vectors: int) -> str:
        return f"updates cut to the leading directions with {self.energy:.1%} of their energy"
