"""What is known of base matrices: their leading spaces, or all of their vectors."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..linalg.batched import Batched
from ..linalg.krylov import KrylovSpace
from ..linalg.operators import Operator
from ..linalg.orthonormal import orthonormalize
from ..linalg.products import is_shared
from ..linalg.small_cores import eigvalsh
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
    def from_decomposition(cls, left: Tensor, values: Tensor, columns: int) -> KnownBase:
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
    def from_whole(cls, whole: WholeBase) -> KnownBase:
        """Keep complete decompositions."""
        known = cls.from_decomposition(whole.left, whole.values, whole.right.shape[-1])
        return replace(known, right=whole.right, errors=torch.stack([whole.off, whole.rounded], -1))

    @classmethod
    def decomposed(cls, matrix: Tensor) -> KnownBase:
        """Decompose ``(batch, m, n)`` matrices completely, and keep all of it."""
        return cls.from_whole(WholeBase.of(matrix))

    @classmethod
    def of_tensors(cls, tensors: dict[str, Tensor]) -> KnownBase:
        """Build from :meth:`tensors`; those of version 0.2 and before have no complete base."""
        basis, floor = tensors["basis"], tensors["floor"]
        none = {
            "right": basis.new_zeros(len(basis), 0, 0),
            "errors": floor.new_zeros(len(floor), 0),
        }
        return cls(**(none | tensors))

    def whole(self) -> WholeBase | None:
        """Return all singular triplets, where these are kept."""
        if self.errors.shape[-1] == 0:
            return None
        return WholeBase(self.values, self.basis, self.right, *self.errors.unbind(-1))

    @property
    def is_complete(self) -> bool:
        """Whether all left vectors are kept."""
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

    def select(self, index: Tensor) -> KnownBase:
        """Return the matrices at ``index``; for one that is there several times no copies are made."""
        if not is_shared(self.basis):
            return super().select(index)
        first = KnownBase(**{name: tensor[:1] for name, tensor in self.tensors().items()})
        return replace(first.repeated(len(index)), floor=self.floor[index])

    def space(self, operator: Operator) -> KrylovSpace:
        """Return the space to continue from, without a pass over the matrices."""
        return KrylovSpace(operator, self.basis, self.products, self.squares)

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def joined(cls, members: list[KnownBase], device: torch.device) -> KnownBase:
        """Join members of equal shapes to one batch; of a single one, which may be large, no copy is made."""
        together = members[0] if len(members) == 1 else cls.together(members)
        return cls(**{name: tensor.to(device) for name, tensor in together.tensors().items()})
