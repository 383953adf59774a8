"""What is known of base matrices, their leading spaces or all of their vectors, and what a batch computes of them."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..linalg.krylov import BLOCK, KrylovSpace, may_hide_copies
from ..linalg.operators import Dense
from ..linalg.orthonormal import orthonormalize
from ..linalg.products import Batched, is_shared
from ..linalg.ritz import Triplets
from ..linalg.svd import CLUSTER_TOLERANCE, eigvalsh, gram_left_vectors
from ..linalg.whole_base import WholeBase


@dataclass(frozen=True)
class KnownBase(Batched):
    """Leading spaces of a batch of base matrices with their products, or all left vectors of small ones.

    The spaces are orthonormal rows with exact products, whatever their own convergence: an audit that starts from
    them computes its residuals and bounds again, and so proves its answer as if it had started from nothing.
    """

    basis: Tensor  # (batch, d, p), p = min(m, n); all left vectors (batch, p, m) where these are kept
    products: Tensor  # (batch, d, q), q = max(m, n); d = 0 rows where all left vectors are kept
    squares: Tensor  # (batch, d, p)
    values: Tensor  # (batch, p), double: all singular values; p = 0 where only a space is kept
    floor: Tensor  # (batch), double: proved lower bound on the eigenvalues of W^T W, 0 for none
    right: Tensor  # (batch, p, n): all right vectors too, where the base is known whole; or (batch, 0, 0)
    errors: Tensor  # (batch, 2), double: of a base known whole, see WholeBase; or (batch, 0)

    @classmethod
    def from_decomposition(cls, left: Tensor, values: Tensor, columns: int) -> "KnownBase":
        """All left singular vectors ``(batch, p, m)`` and values ``(batch, p)`` of matrices of that many columns."""
        batch, _, m = left.shape
        return cls(
            left,
            left.new_zeros(batch, 0, max(m, columns)),
            left.new_zeros(batch, 0, min(m, columns)),
            values,
            values.new_zeros(batch),
            left.new_zeros(batch, 0, 0),
            values.new_zeros(batch, 0),
        )

    @classmethod
    def decomposed(cls, matrix: Tensor) -> "KnownBase":
        whole = WholeBase.of(matrix)
        known = cls.from_decomposition(whole.left, whole.values, whole.right.shape[-1])
        return replace(known, right=whole.right, errors=torch.stack([whole.off, whole.rounded], -1))

    def whole(self) -> WholeBase | None:
        """Return all singular triplets, where these are kept."""
        if self.errors.shape[-1] == 0:
            return None
        return WholeBase(self.values, self.basis, self.right, *self.errors.unbind(-1))

    @property
    def is_complete(self) -> bool:
        return self.values.shape[-1] > 0

    def value(self, k: int) -> Tensor:
        """Return the k-th largest singular value ``(batch)``; of a kept space it is a lower bound, and 0 beyond it."""
        if self.is_complete:
            values = self.values
        else:  # by the Gram matrix, since a fleet asks for every batch
            products = self.products.double()
            values = eigvalsh(products @ products.mT).clamp_min(0.0).sqrt().flip(-1)
        return values[:, k - 1] if k <= values.shape[-1] else values.new_zeros(len(values))

    def left(self, shape: torch.Size) -> Tensor:
        """Orthonormal left rows ``(batch, d, m)`` of matrices ``(*, m, n)``: of the kept space, or all left vectors."""
        is_left = shape[-2] < shape[-1]
        return self.basis if is_left or self.is_complete else orthonormalize(self.products)


# Below this smaller side all base vectors are computed: their decomposition costs less than a Krylov space, which
# would be half the matrix.
COMPLETE_BELOW = 256

# Below this one all triplets are, for the certificate `coordinates`. The first audit of six matrices of rank 16, with
# and without intruders, took in milliseconds of one core of an AMD EPYC, by left vectors alone and by all triplets:
# 51 and 27 against 40 and 31 at a side of 140, 44 and 31 against 50 and 46 at 192. It must not become slower.
WHOLE_BELOW = 160

# Steps of the chain before the first look at its Ritz vectors, between two looks, and how often it goes on.
_STEPS, _FURTHER_STEPS, _FURTHER_LOOKS = 24, 4, 4

# Angle (as a sine) to which the leading vectors are computed in any case.
LOOSE_ANGLE = 0.2

# Where the largest value is so much above the last one asked about, the first rows of a chain, which hold a part of its
# vector, bring rounding of its square into the others' products: these are then computed once more.
_DOMINANT = 100

# Of vectors decomposed in double precision and kept in single.
_ROUNDING = 1e-6


def least_side(k: int) -> int:
    """The smaller side of a matrix from which on a chain for k leading vectors has room, and room to go on."""
    return BLOCK * (max(_STEPS, k) + _FURTHER_STEPS)


@dataclass(frozen=True)
class BaseVectors:
    """The computed vectors of a batch of bases; for one matrix that is there several times they are computed once."""

    space: KrylovSpace  # leading directions, to start from for the tuned matrices; of one matrix where it is shared
    all_vectors: KnownBase | None  # all left vectors, where they are computed
    floor: Tensor  # (batch), double: proved lower bound on the eigenvalues of W^T W, 0 for none
    is_shared: bool = False

    @classmethod
    def of(cls, operator: Dense, k: int, base_count: int, known: KnownBase | None) -> "BaseVectors":
        """Start from what is ``known``, or compute; ``base_count`` leading vectors are followed."""
        if is_shared(operator.matrix):
            at_first = torch.zeros(1, dtype=torch.long, device=operator.device)
            first = None if known is None else known.select(at_first)
            single = cls.of(Dense(operator.matrix[:1]), k, base_count, first)
            count = len(operator.matrix)
            all_vectors = None if single.all_vectors is None else single.all_vectors.repeated(count)
            return cls(single.space, all_vectors, single.floor.repeat(count), is_shared=True)
        no_floor = torch.zeros(operator.shape[0], dtype=torch.float64, device=operator.device)
        if known is None and min(operator.shape[-2:]) < COMPLETE_BELOW:
            values, left = gram_left_vectors(operator.matrix)
            known = KnownBase.from_decomposition(left.to(operator.dtype), values, operator.shape[-1])
        if known is not None and known.is_complete:
            space = KrylovSpace.empty(operator)
            leading = known.basis[:, : base_count + BLOCK]
            space.grow(leading if space.is_left else operator.apply_transpose(leading))
            return cls(space, known, no_floor)
        if known is not None:
            space = KrylovSpace(operator, known.basis, known.products, known.squares)
            return cls(space, None, known.floor.clone())
        return cls(_leading_space(operator, k, base_count), None, no_floor)

    def select(self, index: Tensor) -> "BaseVectors":
        space = self.space if self.is_shared else self.space.select(index)
        all_vectors = None if self.all_vectors is None else self.all_vectors.select(index)
        return BaseVectors(space, all_vectors, self.floor[index], self.is_shared)

    def each_alone(self) -> "BaseVectors":
        """Give each matrix a space of its own, which then grows separately."""
        if not self.is_shared:
            return self
        return BaseVectors(self.space.repeated(len(self.floor)), self.all_vectors, self.floor)

    @property
    def is_complete(self) -> bool:
        return self.all_vectors is not None

    def triplets(self, base_count: int) -> Triplets:
        """Return the ``base_count`` leading triplets, or all of them without right vectors."""
        if self.all_vectors is None:
            triplets = self.space.ritz(base_count)[0]
            return triplets.repeated(len(self.floor)) if self.is_shared else triplets
        left, values = self.all_vectors.basis, self.all_vectors.values
        none = torch.zeros_like(values)
        return Triplets(values, left, left.new_zeros(len(left), 0, 0), none, none + _ROUNDING)

    def known(self, base_count: int) -> KnownBase:
        """Return what the next audit of these bases can start from."""
        kept = self.all_vectors
        if kept is None:
            space = self.space.compressed(base_count + BLOCK)
            none = self.floor.new_zeros(len(space.basis), 0)
            no_right = space.basis.new_zeros(len(space.basis), 0, 0)
            kept = KnownBase(space.basis, space.products, space.squares, none, none.sum(-1), no_right, none)
            kept = kept.repeated(len(self.floor)) if self.is_shared else kept
        return replace(kept, floor=self.floor)

    def is_unclear(self, base_count: int) -> Tensor:
        """Return a mask ``(batch)`` of matrices whose base vectors are not all certain.

        A singular value may have hidden copies. Of a complete base it may be the vectors of a left null space.
        """
        if self.all_vectors is None:
            return may_hide_copies(self.triplets(base_count))
        # Of a tall matrix without full rank some x_i are any vectors of the left null space.
        _, m, n = self.space.operator.shape
        values = self.all_vectors.values
        return (values[:, -1] <= CLUSTER_TOLERANCE * values[:, 0]) & (m > n)


def _leading_space(operator: Dense, k: int, base_count: int) -> KrylovSpace:
    """The ``base_count`` leading directions and a block more, from a chain of random rows.

    The chain goes on for matrices whose k leading vectors have not converged, without the others.
    """
    space = KrylovSpace.from_random_block(operator, BLOCK, max(_STEPS, k))
    kept = space.compressed(base_count + BLOCK)
    index = torch.arange(len(kept.basis), device=operator.device)
    for _ in range(_FURTHER_LOOKS):
        is_open = (space.ritz(base_count)[0].angles[:, :k] > LOOSE_ANGLE).any(-1)
        if not bool(is_open.any()) or len(space) + BLOCK * _FURTHER_STEPS > min(operator.shape[-2:]):
            break
        if not bool(is_open.all()):
            index, space = index[is_open], space.select(is_open.nonzero().squeeze(-1))
        space.grow_chain(BLOCK, _FURTHER_STEPS)
        kept = kept.with_rows(index, space.compressed(base_count + BLOCK))
    values = kept.ritz(base_count)[0].values
    if bool((values[:, 0] > _DOMINANT * values[:, k - 1]).any()):
        again = KrylovSpace.empty(operator)
        again.grow(kept.basis)
        return again
    return kept
