"""The last certificate: the dense decompositions of a stack of matrices, one by one."""

from __future__ import annotations

import torch

from ..linalg.exact import Decomposition, exact_cosines
from ..linalg.svd import DenseSVD
from .findings import Findings
from .known import KnownBase
from .stack import Stack


def detect_dense(
    stack: Stack, k: int, epsilon: float, shown: int, decompose: Decomposition, known: KnownBase | None = None
) -> Findings:
    """Every max cosine in double precision. ``known`` spares the bases' decompositions where it holds them."""
    parts = []
    for i, base in enumerate(stack.base):
        base_svd = None
        if known is not None and known.is_complete:
            left = known.basis[i].double()
            base_svd = DenseSVD(known.values[i], left, left.new_zeros(0, base.shape[-1]))
        parts.append(exact_cosines(base, stack.tuned_dense(i), k, epsilon, decompose, base_svd))
    cosines = torch.stack([part.max_cosines for part in parts])
    base_left = torch.stack([part.base_left for part in parts])
    base_values = torch.stack([part.base_values for part in parts])
    tuned_left = torch.stack([part.left for part in parts])
    return Findings(
        values=torch.stack([part.values for part in parts]),
        lower=cosines,
        upper=cosines,
        intruder=cosines < epsilon,
        certificate=[["exact"] * k for _ in parts],
        ambiguous=torch.stack([part.ambiguous for part in parts]),
        base_values=base_values[:, :shown],
        similarity=(base_left[:, :shown] @ tuned_left.mT).abs(),
        known=KnownBase.from_decomposition(base_left.to(stack.base.dtype), base_values, stack.base.shape[-1]),
    )
