"""The synthetic matrices of the benchmarks. No claim is made that they are those of any model.

What they share with the weights of language models is what costs an iterative method time: a bulk without gaps, columns
of unequal scale, a few hundred directions that stand out of the bulk and fall off as a power law.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair

SPIKES = 200
LARGEST = 6.0  # singular value of the first spike; the bulk ends between 1.4 and 2.2 in these shapes
DECAY = 0.4
RANK = 16
# Spectral norm of the update over LARGEST: one that leaves every leading vector, and one that brings new ones.
MILD, HOT = 0.05, 1.0

DESCRIPTION = (
    f"Gaussian bulk, columns scaled by uniform numbers from 0.2 to 1.2, plus {SPIKES} spikes in random directions with "
    f"singular values {LARGEST:g} i^-{DECAY:g}; the update is B A of rank {RANK} with Gaussian B and A, rows of A "
    f"scaled by i^-0.5, of spectral norm {MILD:g} (no intruders) or {HOT:g} (intruders) times the first spike"
)


@dataclass(frozen=True)
class Lora:
    """One base matrix and its low-rank update ``left @ right``."""

    base: Tensor  # (m, n)
    left: Tensor  # (m, r)
    right: Tensor  # (r, n)

    def stack(self) -> Pair:
        return Pair(self.base.unsqueeze(0), LowRank(self.left.unsqueeze(0), self.right.unsqueeze(0)))

    def tuned(self) -> Tensor:
        return self.base + self.left @ self.right


def llm_like(m: int, n: int, seed: int) -> Tensor:
    """A base matrix ``(m, n)`` as in :data:`DESCRIPTION`, with fewer spikes where a side is below 400."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(m, n, generator=generator)
    matrix *= (0.2 + torch.rand(n, generator=generator)) / n**0.5
    count = min(SPIKES, min(m, n) // 2)
    left, right = (torch.linalg.qr(torch.randn(side, count, generator=generator))[0] for side in (m, n))
    values = LARGEST * torch.arange(1, count + 1) ** -DECAY
    return matrix.addmm_(left * values, right.mT)


def lora_update(m: int, n: int, strength: float, seed: int, rank: int = RANK) -> tuple[Tensor, Tensor]:
    """Factors ``(m, r)`` and ``(r, n)`` of spectral norm ``strength * LARGEST``."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(m, rank, generator=generator)
    right = torch.randn(rank, n, generator=generator) * (torch.arange(1, rank + 1) ** -0.5).unsqueeze(-1)
    return left * (strength * LARGEST / spectral_norm(left, right)), right


def spectral_norm(left: Tensor, right: Tensor) -> float:
    """Of ``left @ right``, through the QR factors of both."""
    core = torch.linalg.qr(left)[1] @ torch.linalg.qr(right.mT)[1].mT
    return float(torch.linalg.matrix_norm(core, 2))


def lora(m: int, n: int, strength: float, seed: int = 0) -> Lora:
    return Lora(llm_like(m, n, seed), *lora_update(m, n, strength, seed + 1))
