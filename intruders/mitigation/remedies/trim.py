"""The largest entries of every update alone (TIES' trimming; Yadav et al. 2023, arXiv 2306.01708)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ...settings import setting
from .changes import Change, largest_entries
from .remedy import Case, EntryRemedy


@dataclass(frozen=True)
class Trim(EntryRemedy):
    """``W' = W0 + mask * D``, where the mask keeps the entries of D with the largest absolute values.

    The share that stays is of every matrix, as in PEFT; TIES takes it of the whole model. 0.2 is the paper's.
    """

    name = "trim"
    strength = "density"
    strengths = (0.5, 0.2, 0.1)
    source = "TIES, arXiv 2306.01708"

    density: float = setting(
        0.2, "Share of an update's entries that stays, above 0 and at most 1.", above=0, most=1
    )

    def change(self, case: Case) -> Change:
        def entries(base: Tensor, update: Tensor) -> Tensor:
            return update * largest_entries(update.abs(), self.density)

        return Change(entries=entries)

    def sentence(self, vectors: int) -> str:
        return f"updates trimmed to the {self.density:.1%} of their entries that are largest"
