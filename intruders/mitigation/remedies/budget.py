"""Updates kept below the size at which they bring an intruder (after arXiv 2607.23711)."""

from __future__ import annotations

from dataclasses import dataclass

from ...audits.result.records import AuditedMatrix
from ...settings import setting
from .changes import Change
from .remedy import Case, PublishedRemedy, WantedTriplets


@dataclass(frozen=True)
class Budget(PublishedRemedy):
    """``W' = W0 + min(1, kappa theta / sigma_1(D)) D`` with theta from the base's spectrum alone.

    theta is the spiked threshold (``intruders/linalg/spiked_threshold.py``) at the audit's k and epsilon: the size at
    which a rank-one term in random directions becomes an intruder. The paper limits alpha layer by layer; kappa 1 is
    this package's default.
    """

    name = "budget"
    strength = "kappa"
    strengths = (2.0, 1.0, 0.5, 0.25)
    source = "arXiv 2607.23711; the rule in detail: ours"
    rank_after = "r"
    needs_threshold = True
    scales_whole_updates = True

    kappa: float = setting(
        1.0, "Multiple of the spiked threshold that an update may reach, 0 or more.", least=0
    )

    def needs(self, matrix: AuditedMatrix) -> tuple[WantedTriplets, ...]:
        return (WantedTriplets.leading("update", 1),)

    def change(self, case: Case) -> Change:
        [largest] = (case.parts[need] for need in self.needs(case.matrix))
        assert case.threshold is not None
        size = float(largest.values[0])
        return Change(share=min(1.0, self.kappa * case.threshold / size) if size > 0 else 1.0)

    def sentence(self, vectors: int) -> str:
        return f"updates limited to {self.kappa:g} times their matrix's spiked threshold"
