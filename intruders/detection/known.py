"""What is known of base matrices alone, and so worth keeping from one audit to the next."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..linalg.krylov import KrylovSpace
from ..linalg.operators import Operator
from ..linalg.orthonormal import orthonormalize


@dataclass(frozen=True)
class KnownBase:
    """Leading spaces of a stack of base matrices with their products, or all their left vectors where they are small.

    The spaces are orthonormal rows with exact products, whatever their own convergence: an audit that starts from
    them computes its residuals and bounds anew, and so proves its answer as if it had started from nothing.
    """

    basis: Tensor  # (batch, d, p), p = min(m, n); all left vectors (batch, p, m) where these are kept
    products: Tensor  # (batch, d, q), q = max(m, n); d = 0 rows where all left vectors are kept
    squares: Tensor  # (batch, d, p)
    values: Tensor  # (batch, p), double: all singular values; p = 0 where only a space is kept
    floor: Tensor  # (batch), double: proved lower bound on the eigenvalues of W^T W, 0 for none

    @classmethod
    def from_decomposition(cls, left: Tensor, values: Tensor, columns: int) -> KnownBase:
        """All left singular vectors ``(batch, p, m)`` and values ``(batch, p)`` of matrices of that many columns."""
        batch, _, m = left.shape
        none = left.new_zeros(batch, 0, max(m, columns))
        return cls(left, none, left.new_zeros(batch, 0, min(m, columns)), values, values.new_zeros(batch))

    @property
    def is_complete(self) -> bool:
        """Whether all left vectors are kept."""
        return self.values.shape[-1] > 0

    def left(self, shape: torch.Size) -> Tensor:
        """Orthonormal left rows ``(batch, d, m)`` of matrices ``(*, m, n)``: of the kept space, or all left vectors."""
        is_left = shape[-2] < shape[-1]
        return self.basis if is_left or self.is_complete else orthonormalize(self.products)

    def space(self, operator: Operator) -> KrylovSpace:
        """The space to go on from; no pass over the matrices."""
        return KrylovSpace(operator, self.basis, self.products, self.squares)

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, index: Tensor) -> KnownBase:
        """What is known of the matrices at ``index``."""
        return KnownBase(**{name: tensor[index] for name, tensor in self.tensors().items()})

    @classmethod
    def joined(cls, members: list[KnownBase], device: torch.device) -> KnownBase:
        """A stack of what is known of its matrices; all members have equal shapes."""
        names = [field.name for field in fields(cls)]
        return cls(
            **{name: torch.cat([getattr(member, name) for member in members]).to(device) for name in names}
        )
