"""Single entries of every update: TIES' trimming (arXiv 2306.01708), DARE (2311.03099) and FAPM (2509.08255)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ...settings import setting
from .changes import drawn_entries, largest_entries
from .remedy import EntryRemedy


@dataclass(frozen=True)
class Trim(EntryRemedy):
    """``W' = W0 + mask * D``, where the mask keeps the entries of D with the largest absolute values.

    The share that stays is of every matrix, as in PEFT; TIES takes it of the whole model. 0.2 is the paper's.
    """

    name = "trim"
    strength = "density"
    strengths = (0.5, 0.2, 0.1)
    source = "TIES, arXiv 2306.01708"
    in_words = "updates trimmed to the {density:.1%} of their entries that are largest"

    density: float = setting(
        0.2, "Share of an update's entries that stays, above 0 and at most 1.", above=0, most=1
    )

    def left(self, name: str, base: Tensor, update: Tensor) -> Tensor:
        return update * largest_entries(update.abs(), self.density)


@dataclass(frozen=True)
class Drop(EntryRemedy):
    """``W' = W0 + mask * D / (1 - p)``: every entry of D is dropped with the probability p, drawn by seed.

    The mean over masks is D. 0.9 is the paper's.
    """

    name = "drop"
    strength = "probability"
    strengths = (0.5, 0.7, 0.9)
    source = "DARE, arXiv 2311.03099"
    in_words = "{probability:.0%} of the updates' entries dropped at random, the others scaled up"

    probability: float = setting(
        0.9, "Probability of an entry to be dropped, 0 or more and below 1.", least=0, below=1
    )
    seed: int = setting(0, "Seed of the entries that are drawn.")

    def left(self, name: str, base: Tensor, update: Tensor) -> Tensor:
        kept = drawn_entries(f"{self.seed} {name}", update) >= self.probability
        return update * kept / (1 - self.probability)


@dataclass(frozen=True)
class FAPM(EntryRemedy):
    """``W' = W0 + mask * D``, where the mask keeps the largest ``|D| - mean|W0| |D| / |W0|``.

    A large change of a small weight counts against an entry. The share of 0.1 is from a summary of the paper.
    """

    name = "fapm"
    strength = "density"
    strengths = (0.5, 0.2, 0.1)
    source = "FAPM, arXiv 2509.08255"
    in_words = "updates trimmed to {density:.1%} of their entries, large ones of large weights first"

    density: float = setting(
        0.1, "Share of an update's entries that stays, above 0 and at most 1.", above=0, most=1
    )

    def left(self, name: str, base: Tensor, update: Tensor) -> Tensor:
        weights = base.abs()
        relative = update.abs() / weights.clamp_min(torch.finfo(weights.dtype).tiny)
        return update * largest_entries(update.abs() - weights.mean() * relative, self.density)
