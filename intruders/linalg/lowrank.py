"""Low-rank matrices ``left @ right`` through their factors, without forming them."""

from __future__ import annotations

import torch
from torch import Tensor

from .svd import DenseSVD


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
