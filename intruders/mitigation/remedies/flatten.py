"""Every update spread evenly over its directions (a report on LoRA adapters of 2026, not peer reviewed)."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...linalg.low_rank import LowRank
from ...settings import setting
from .changes import Change
from .remedy import Case, SpectralRemedy


@dataclass(frozen=True)
class Flatten(SpectralRemedy):
    """``W' = W0 + c sum_i p_i q_i^T``: all r singular values of D become one value c.

    ``c = sum_i d_i / r`` keeps the nuclear norm of D (the default), ``c = ||D||_F / sqrt(r)`` the Frobenius norm.
    ``strength`` multiplies c; 1 is the report's. A rank-one update stays as it is at strength 1.
    """

    name = "flatten"
    strength = "factor"
    strengths = (1.0, 0.8, 0.6, 0.4)
    source = "report on 18 LoRA adapters, 2026, not peer reviewed"
    rank_after = "r"

    factor: float = setting(1.0, "Multiple of the flat singular value, 0 or more.", least=0)
    norm: str = setting(
        "nuclear", "Norm of the update that factor 1 keeps.", choices=("nuclear", "frobenius")
    )

    def refusal(self, name: str, shape: tuple[int, int], rank: int | None) -> str | None:
        if rank is not None:
            return None
        return (
            f"remedy 'flatten' cannot change '{name}', whose update has no low rank to spread over; pass an adapter, "
            "or choose another remedy"
        )

    def change(self, case: Case) -> Change:
        part = self.directions(case)
        values = part.values
        if len(values) == 0:
            return Change()  # D is zero, and stays
        flat = values.mean() if self.norm == "nuclear" else values.square().mean().sqrt()
        level = part.with_values(torch.full_like(values, self.factor * float(flat)))
        return Change(share=0.0, added=LowRank(*level.factors(1.0)))

    def sentence(self, vectors: int) -> str:
        times = "" if self.factor == 1 else f", times {self.factor:g}"
        return f"every update's singular values made equal at its {self.norm} norm{times}"
