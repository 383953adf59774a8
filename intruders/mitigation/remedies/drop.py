"""Random entries of every update dropped, the rest scaled up (DARE; Yu et al. 2023, arXiv 2311.03099)."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from ...settings import setting
from .changes import Change
from .remedy import Case, EntryRemedy


@dataclass(frozen=True)
class Drop(EntryRemedy):
    """``W' = W0 + mask * D / (1 - p)``: every entry of D is dropped with the probability p, drawn by seed.

    The mean over masks is D. 0.9 is the paper's.
    """

    name = "drop"
    strength = "probability"
    strengths = (0.5, 0.7, 0.9)
    source = "DARE, arXiv 2311.03099"

    probability: float = setting(
        0.9, "Probability of an entry to be dropped, 0 or more and below 1.", least=0, below=1
    )
    seed: int = setting(0, "Seed of the entries that are drawn.")

    def change(self, case: Case) -> Change:
        seed = random.Random(f"{self.seed} {case.matrix.name}").getrandbits(62)

        def entries(base: Tensor, update: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(seed)
            kept = torch.rand(update.shape, generator=generator, dtype=torch.float64) >= self.probability
            return update * kept.to(update.device) / (1 - self.probability)

        return Change(entries=entries)

    def sentence(self, vectors: int) -> str:
        return f"{self.probability:.0%} of the updates' entries dropped at random, the others scaled up"
