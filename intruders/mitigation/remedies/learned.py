"""Updates that were learned, in the place of those of the tuned model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...audits.result.records import AuditedMatrix
from ...linalg.low_rank import LowRank
from .changes import Change
from .doses import Doses
from .remedy import Case, Position, Remedy, WantedTriplets


@dataclass(frozen=True)
class LearnedUpdates(Remedy):
    """``W' = W0 + D'`` with a learned update D' of every audited matrix; all else has its dose."""

    name = "learned updates"
    reach = "model"
    strength = "share"
    share = 1.0
    source = "intruders heal"
    rank_after = "r"

    updates: Mapping[str, LowRank | Tensor] = field(repr=False)  # by matrix: factors, or D' (m, n)
    doses: Doses

    @property
    def needs_base(self) -> bool:  # type: ignore[override]
        return any(isinstance(update, Tensor) for update in self.updates.values())

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        return ()

    def change(self, case: Case) -> Change:
        update = self.updates[case.matrix.name]
        if isinstance(update, LowRank):
            return Change(share=0.0, added=update)
        return Change(entries=lambda base, _: update.to(base))

    def share_elsewhere(self, name: str, position: Position | None) -> float:
        return self.doses.share_elsewhere(name, position)

    def sentence(self, vectors: int) -> str:
        return "every update as it was learned"

    def recorded(self) -> dict[str, Any]:
        return self.doses.recorded()
