"""What the engine decides about a batch of matrices, and the dense way to decide it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..linalg.exact import Decomposition, exact_cosines
from ..linalg.pair import Pair
from ..linalg.svd import DenseSVD
from .base_space import KnownBase
from .update_size import MeasuredUpdate


@dataclass(frozen=True)
class Decisions:
    """About the k leading vectors of each matrix of a stack."""

    values: Tensor  # (batch, k): singular values of the tuned matrices
    lower: Tensor  # (batch, k): proved interval of the max cosine
    upper: Tensor  # (batch, k)
    intruder: Tensor  # (batch, k), bool
    certificate: list[list[str]]  # [batch][k]
    ambiguous: Tensor  # (batch, k), bool
    base_values: Tensor  # (batch, d): leading singular values of the base matrices
    similarity: Tensor  # (batch, d, k): |<x_i, y_j>| of leading vectors
    known: KnownBase | None  # what was computed of the bases alone

    def with_rows(self, index: Tensor, other: Decisions) -> Decisions:
        """The same with ``other``'s about the matrices at ``index``, but for what is known of bases."""
        certificate = list(self.certificate)
        for row, place in enumerate(index.tolist()):
            certificate[place] = other.certificate[row]
        tensors = {
            name: value.index_copy(0, index, getattr(other, name).to(value.dtype))
            for name, value in self._tensors().items()
        }
        return Decisions(certificate=certificate, known=self.known, **tensors)

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def decide_dense(
    stack: Pair, k: int, epsilon: float, shown: int, decompose: Decomposition, known: KnownBase | None = None
) -> Decisions:
    """Every max cosine in double precision. ``known`` spares the bases' decompositions where it holds them."""
    parts = []
    for i, base in enumerate(stack.base):
        base_svd = None
        if known is not None and known.is_complete:
            left = known.basis[i].double()
            base_svd = DenseSVD(known.values[i], left, left.new_zeros(0, base.shape[-1]))
        parts.append(exact_cosines(base, stack.select(i).dense(), k, epsilon, decompose, base_svd))
    cosines = torch.stack([part.max_cosines for part in parts])
    base_left = torch.stack([part.base_left for part in parts])
    base_values = torch.stack([part.base_values for part in parts])
    tuned_left = torch.stack([part.left for part in parts])
    return Decisions(
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


@dataclass(frozen=True)
class Detection(Decisions):
    """What was found about the k leading vectors of each matrix of a stack, and about its updates."""

    update: MeasuredUpdate
