"""Low-rank matrices ``left @ right`` through their factors, without forming them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .svd import DenseSVD

# Singular values below this share of the largest are what rounding leaves of zeros.
_ZERO = 1e-12


def lowrank_svd(left: Tensor, right: Tensor) -> DenseSVD:
    """Thin singular value decomposition of ``left @ right``, of ``(*batch, m, r)`` and ``(*batch, r, n)``
    factors.

    A QR of each factor and an SVD of the r x r core, in double precision: exact to rounding, at O((m + n)
    r^2). When r exceeds min(m, n), there are min(m, n) values.
    """
    q_left, r_left = torch.linalg.qr(left.double())
    q_right, r_right = torch.linalg.qr(right.double().mT)
    u, values, v = torch.linalg.svd(r_left @ r_right.mT, full_matrices=False)
    return DenseSVD(values, (q_left @ u).mT, (q_right @ v.mT).mT)


@dataclass(frozen=True)
class Refactored:
    """Factors of a low-rank matrix D, or of its best approximation of a lower rank."""

    left: Tensor  # (m, r), double
    right: Tensor  # (r, n), double
    relative_error: float  # ||D - left @ right||_F / ||D||_F; 0 where nothing was cut off
    frobenius: float  # ||D||_F


def refactored(left: Tensor, right: Tensor, rank: int | None = None) -> Refactored:
    """``left @ right``, of ``(m, q)`` and ``(q, n)`` factors, with as few columns as it needs, or with ``rank``.

    Both new factors carry the square roots of the singular values, so that neither is much larger than the
    other. With ``rank`` it is the best approximation of that rank (Eckart and Young 1936), and columns that the
    matrix does not need are zero. Without, columns are kept down to rounding, and at least one.
    """
    svd = lowrank_svd(left, right)
    needed = max(1, int((svd.values > _ZERO * svd.values[0]).sum()))
    kept = needed if rank is None else min(rank, needed)
    roots = svd.values[:kept].sqrt()
    total = svd.values.square().sum().sqrt()
    rest = svd.values[kept:].square().sum().sqrt() if kept < needed else torch.zeros_like(total)
    new_left, new_right = (svd.left[:kept] * roots.unsqueeze(-1)).mT, svd.right[:kept] * roots.unsqueeze(-1)
    if rank is not None and rank > kept:
        new_left = torch.cat([new_left, new_left.new_zeros(len(new_left), rank - kept)], dim=1)
        new_right = torch.cat([new_right, new_right.new_zeros(rank - kept, new_right.shape[1])], dim=0)
    error = float(rest / total) if total > 0 else 0.0
    return Refactored(new_left, new_right, error, float(total))


def lowrank_inner(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Frobenius inner product ``tr(A^T B)`` of A = ``left @ right`` and B alike, in double precision."""
    (a, b), (c, d) = first, second
    return ((a.double().mT @ c.double()) * (b.double() @ d.double().mT)).sum((-2, -1))
