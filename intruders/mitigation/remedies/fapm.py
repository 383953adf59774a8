"""Entries that are large, and not large for their weight (FAPM; arXiv 2509.08255)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...settings import setting
from .changes import Change, largest_entries
from .remedy import Case, EntryRemedy


@dataclass(frozen=True)
class FAPM(EntryRemedy):
    """``W' = W0 + mask * D``, where the mask keeps the largest ``|D| - mean|W0| |D| / |W0|``.

    A large change of a small weight counts against an entry. The share of 0.1 is from a summary of the paper.
    """

    name = "fapm"
    strength = "density"
    strengths = (0.5, 0.2, 0.1)
    source = "FAPM, arXiv 2509.08255"

    density: float = setting(
        0.1, "Share of an update's entries that stays, above 0 and at most 1.", above=0, most=1
    )

    def change(self, case: Case) -> Change:
        def entries(base: Tensor, update: Tensor) -> Tensor:
            weights = base.abs()
            relative = update.abs() / weights.clamp_min(torch.finfo(weights.dtype).tiny)
            return update * largest_entries(update.abs() - weights.mean() * relative, self.density)

        return Change(entries=entries)

    def sentence(self, vectors: int) -> str:
        return f"updates trimmed to {self.density:.1%} of their entries, large ones of large weights first"
