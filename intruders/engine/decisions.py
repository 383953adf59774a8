"""What the engine decides about a batch of matrices, the dense way to decide it, and how large the updates are."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..linalg.exact import Decomposition, ExactCosines, exact_cosines
from ..linalg.krylov import BLOCK, KrylovSpace, converge
from ..linalg.low_rank import LowRank
from ..linalg.pair import Pair
from ..linalg.products import Batched
from ..linalg.ritz import Triplets
from ..linalg.spectrum import effective_rank, estimate_effective_rank, stable_rank
from ..linalg.svd import Components, dense_svd, gram_svd
from .known_base import KnownBase
from .spectral_change import SpectralChange, spectral_change

# Below this smaller side all singular values of a dense update are computed, rather than their entropy estimated.
_DENSE_BELOW = 256
# Block steps into a dense update. The quadrature of its effective rank is then right to a few per cent at worst, on
# updates of real fine-tuning, where 12 steps are off by up to a fifth.
_STEPS = 20
_MAX_ROUNDS = 8


@dataclass(frozen=True)
class MeasuredUpdate(Batched):
    """Sizes of the updates D of a batch, and D's leading singular vectors."""

    frobenius: Tensor  # (batch), as the next three
    spectral: Tensor
    effective_rank: Tensor
    effective_rank_error: Tensor
    left: Tensor  # (batch, d, m)
    right: Tensor  # (batch, d, n)

    @property
    def stable_rank(self) -> Tensor:
        return stable_rank(self.frobenius, self.spectral)


def measure_update(batch: Pair, k: int, exact: bool = False) -> MeasuredUpdate:
    """Norms and ranks of the updates, exactly; of a dense one the effective rank is estimated, unless ``exact``."""
    update = batch.update
    if isinstance(update, LowRank):
        svd = update.svd
        values, left, right = svd.values, svd.left[:, : 2 * k], svd.right[:, : 2 * k]
    else:
        if not exact and min(update.shape[-2:]) >= _DENSE_BELOW:
            # Row norms first: a copy of the whole matrix in double precision would be the peak of the audit's memory.
            frobenius = torch.linalg.vector_norm(update.matrix, dim=-1).double().norm(dim=-1)
            space = KrylovSpace.from_random_block(update, BLOCK, _STEPS)
            rank, error = estimate_effective_rank(space, BLOCK, 2 * k, frobenius)
            # The norm follows from the largest Ritz value to second order in its residual; 1e-3 there is 1e-6 of the
            # norm.
            leading = converge(space, 1, 2 * k, 1e-3, _MAX_ROUNDS)
            spectral = leading.values[:, 0].double()
            return MeasuredUpdate(frobenius, spectral, rank, error, leading.left, leading.right)
        svd = dense_svd(update.matrix) if exact else gram_svd(update.matrix)
        values, left, right = svd.values, svd.left[:, :k], svd.right[:, :k]
    dtype = batch.base.dtype
    frobenius, spectral = values.square().sum(-1).sqrt(), values[:, 0]
    rank, error = effective_rank(values), torch.zeros_like(spectral)
    return MeasuredUpdate(frobenius, spectral, rank, error, left.to(dtype), right.to(dtype))


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

    def with_rows(self, index: Tensor, other: "Decisions") -> "Decisions":
        """Replace the decisions at ``index`` by ``other``'s, and keep what is known of bases and updates."""
        certificate = list(self.certificate)
        for row, position in enumerate(index.tolist()):
            certificate[position] = other.certificate[row]
        tensors: dict[str, Any] = {
            name: value.index_copy(0, index, getattr(other, name).to(value.dtype))
            for name, value in vars(self).items()
            if isinstance(value, Tensor)
        }
        change = self.change.with_rows(index, other.change)
        return replace(self, certificate=certificate, change=change, **tensors)


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
    parts: list[ExactCosines] = []
    rights: list[tuple[Tensor, Tensor]] = []
    for i, base in enumerate(batch.base):
        base_svd = None
        if known is not None and known.is_complete:
            left = known.basis[i].double()
            base_svd = Components(known.values[i], left, left.new_zeros(0, base.shape[-1]))
        tuned = batch.select(i).dense()
        part = exact_cosines(base, tuned, k, epsilon, decompose, base_svd)
        parts.append(part)
        rights.append((part.base_left[:k] @ base.double(), part.left @ tuned.double()))
    all_of = ExactCosines(
        *(torch.stack([getattr(part, column.name) for part in parts]) for column in fields(ExactCosines))
    )
    base_left, base_values = all_of.base_left, all_of.base_values
    before, after = (torch.stack(side) for side in zip(*rights, strict=True))
    change = spectral_change(
        _exact_triplets(base_left[:, :k], before, base_values[:, : k + 1]),
        _exact_triplets(all_of.left, after, torch.cat([all_of.values, all_of.next_value.unsqueeze(-1)], -1)),
        batch.update,
        k,
    )
    return Decisions(
        values=all_of.values,
        lower=all_of.max_cosines,
        upper=all_of.max_cosines,
        intruder=all_of.max_cosines < epsilon,
        certificate=[["exact"] * k for _ in parts],
        ambiguous=all_of.ambiguous,
        base_values=base_values[:, :base_count],
        similarity=(base_left[:, :base_count] @ all_of.left.mT).abs(),
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
