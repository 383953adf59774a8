"""Low-rank matrices ``left @ right`` through their factors, without forming them."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .products import Batched, times_transpose
from .svd import Components, significant


@dataclass(frozen=True)
class LowRank(Batched):
    """One matrix ``left @ right``, or a batch of them: an operator as those of :mod:`intruders.linalg.operators`.

    >>> update = LowRank(torch.ones(4, 1), torch.tensor([[3.0, 4.0]]))  # (4, 1) @ (1, 2)
    >>> update.shape, update.rank, update.norm()
    (torch.Size([4, 2]), 1, 10.0)
    >>> update.svd.values
    tensor([10.], dtype=torch.float64)
    """

    left: Tensor  # (*batch, m, r)
    right: Tensor  # (*batch, r, n)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.left.shape[:-1], self.right.shape[-1]))

    @property
    def dtype(self) -> torch.dtype:
        return self.left.dtype

    @property
    def device(self) -> torch.device:
        return self.left.device

    @property
    def rank(self) -> int:
        """The number of columns of ``left``, whether the matrix needs them or not."""
        return self.left.shape[-1]

    def apply(self, rows: Tensor) -> Tensor:
        return (rows @ self.right.mT) @ self.left.mT

    def apply_transpose(self, rows: Tensor) -> Tensor:
        return times_transpose(rows, self.left.mT) @ self.right

    def dense(self) -> Tensor:
        return self.left @ self.right

    def rows(self, index: Tensor | slice) -> "LowRank":
        return LowRank(self.left[index], self.right)

    @cached_property
    def svd(self) -> Components:
        """Thin singular value decomposition, computed once.

        A QR of each factor and an SVD of the r x r core, in double precision: exact to rounding, at O((m + n)
        r^2). When r exceeds min(m, n), there are min(m, n) values.
        """
        q_left, r_left = torch.linalg.qr(self.left.double())
        q_right, r_right = torch.linalg.qr(self.right.double().mT)
        u, values, v = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
        return Components(values, (q_left @ u).mT, (q_right @ v.mT).mT)

    def singular_values(self) -> Tensor:
        """``(*batch, min(r, m, n))`` in descending order and double precision: as :attr:`svd`, without its vectors."""
        r_left = torch.linalg.qr(self.left.double(), mode="r").R
        r_right = torch.linalg.qr(self.right.double().mT, mode="r").R
        values: Tensor = torch.linalg.svdvals(r_left @ r_right.mT)
        return values

    def norm(self) -> float:
        """``||D||_F`` of one matrix, in double precision."""
        return math.sqrt(max(0.0, self.inner(self)))

    def inner(self, other: "LowRank") -> float:
        """Frobenius inner product ``tr(D^T other)`` of one matrix, in double precision."""
        across = self.left.double().mT @ other.left.double()
        return float((across * (self.right.double() @ other.right.double().mT)).sum())

    def plus(self, other: "LowRank") -> "LowRank":
        return LowRank(torch.cat([self.left, other.left], -1), torch.cat([self.right, other.right], -2))

    def scaled(self, factor: float | Tensor) -> "LowRank":
        """``factor`` times it; a tensor has a number for each matrix, ``(*batch, 1, 1)``."""
        return LowRank(factor * self.left, self.right)

    def cut(self, rank: int | None = None) -> "tuple[LowRank, float]":
        """One matrix with as few columns as it needs, or with ``rank``; and the error, as a share of its norm.

        Both new factors are in double precision and carry the square roots of the singular values, so that neither is
        much larger than the other. With ``rank`` it is the best approximation of that rank (Eckart and Young 1936),
        and columns that the matrix does not need are zero. Without, columns are kept down to rounding, and at least
        one. The error is in the Frobenius norm, 0 where nothing was cut off.
        """
        svd = self.svd
        needed = max(1, significant(svd.values))
        kept = needed if rank is None else min(rank, needed)
        roots = svd.values[:kept].sqrt()
        total = svd.values.square().sum().sqrt()
        rest = svd.values[kept:].square().sum().sqrt() if kept < needed else torch.zeros_like(total)
        left, right = (svd.left[:kept] * roots.unsqueeze(-1)).mT, svd.right[:kept] * roots.unsqueeze(-1)
        error = float(rest / total) if total > 0 else 0.0
        return LowRank(left, right).padded(kept if rank is None else rank), error

    def padded(self, rank: int) -> "LowRank":
        """The same with columns of zeros up to ``rank``."""
        missing, pad = rank - self.rank, torch.nn.functional.pad
        if missing <= 0:
            return self
        return LowRank(pad(self.left, (0, missing)), pad(self.right, (0, 0, 0, missing)))
