"""What the engine decides about a batch of matrices, and the dense way to decide it."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..linalg.exact import Decomposition, exact_cosines
from ..linalg.pair import Pair
from ..linalg.ritz import Triplets
from ..linalg.svd import DenseSVD
from .known_base import KnownBase
from .spectral_change import SpectralChange, spectral_change
from .update_size import MeasuredUpdate


@dataclass(frozen=True)
class Decisions:
    """The decisions about the k leading vectors of each matrix of a batch."""

    values: Tensor  # (batch, k): singular values of the tuned matrices
    lower: Tensor  # (batch, k): proved interval of the max cosine
    upper: Tensor  # (batch, k)
    intruder: Tensor  # (batch, k), bool
    certificate: list[list[str]]  # [batch][k]
    ambiguous: Tensor  # (batch, k), bool
    base_values: Tensor  # (batch, d): leading singular values of the base matrices
    similarity: Tensor  # (batch, d, k): |<x_i, y_j>| of leading vectors
    change: SpectralChange  # how the k leading triplets moved
    update: MeasuredUpdate  # how large the updates are
    known: KnownBase | None  # what was computed of the bases alone

    def with_rows(self, index: Tensor, other: Decisions) -> Decisions:
        """Replace the decisions at ``index`` by ``other``'s, and keep what is known of bases and updates."""
        certificate = list(self.certificate)
        for row, position in enumerate(index.tolist()):
            certificate[position] = other.certificate[row]
        tensors = {
            name: value.index_copy(0, index, getattr(other, name).to(value.dtype))
            for name, value in self._tensors().items()
        }
        change = self.change.with_rows(index, other.change)
        return Decisions(
            certificate=certificate, change=change, update=self.update, known=self.known, **tensors
        )

    def _tensors(self) -> dict[str, Tensor]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def decide_dense(
    batch: Pair,
    k: int,
    epsilon: float,
    base_count: int,
    update: MeasuredUpdate,
    decompose: Decomposition,
    known: KnownBase | None = None,
) -> Decisions:
    """Compute every max cosine in double precision, from the bases' decompositions in ``known`` where it has them."""
    parts, rights = [], []
    for i, base in enumerate(batch.base):
        base_svd = None
        if known is not None and known.is_complete:
            left = known.basis[i].double()
            base_svd = DenseSVD(known.values[i], left, left.new_zeros(0, base.shape[-1]))
        tuned = batch.select(i).dense()
        part = exact_cosines(base, tuned, k, epsilon, decompose, base_svd)
        parts.append(part)
        rights.append((part.base_left[:k] @ base.double(), part.left @ tuned.double()))
    cosines = torch.stack([part.max_cosines for part in parts])
    base_left = torch.stack([part.base_left for part in parts])
    base_values = torch.stack([part.base_values for part in parts])
    tuned_left = torch.stack([part.left for part in parts])
    tuned_values = torch.stack([part.values for part in parts])
    next_values = torch.stack([part.next_value for part in parts]).unsqueeze(-1)
    before, after = (torch.stack(side) for side in zip(*rights, strict=True))
    change = spectral_change(
        _exact_triplets(base_left[:, :k], before, base_values[:, : k + 1]),
        _exact_triplets(tuned_left, after, torch.cat([tuned_values, next_values], -1)),
        batch.update,
        k,
    )
    return Decisions(
        values=tuned_values,
        lower=cosines,
        upper=cosines,
        intruder=cosines < epsilon,
        certificate=[["exact"] * k for _ in parts],
        ambiguous=torch.stack([part.ambiguous for part in parts]),
        base_values=base_values[:, :base_count],
        similarity=(base_left[:, :base_count] @ tuned_left.mT).abs(),
        change=change,
        update=update,
        known=KnownBase.from_decomposition(base_left.to(batch.base.dtype), base_values, batch.base.shape[-1]),
    )


def _exact_triplets(left: Tensor, products: Tensor, values: Tensor) -> Triplets:
    """Build triplets of left vectors ``(batch, k, m)``, products ``(batch, k, n)`` and values, one more."""
    known = values[:, : left.shape[-2], None]
    right = products / known.clamp_min(torch.finfo(values.dtype).tiny)
    none = torch.zeros_like(values)
    return Triplets(values, left, right, none, none)
