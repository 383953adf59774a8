"""Matrices as values that know their own products.

Algorithms in this folder never ask what kind of matrix they work on. They multiply thin blocks of *rows* by
it, since a row block times a matrix runs over contiguous memory either way, where a product of a transposed
view with a few columns is several times slower. Every operator may carry leading batch dimensions: a stack
of equal-shaped matrices is one operator.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .products import times_transpose


class Operator(Protocol):
    """A stack of matrices ``W``, each m x n, known through its products with thin blocks of rows."""

    @property
    def shape(self) -> torch.Size:
        """``(*batch, m, n)``."""
        ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def device(self) -> torch.device: ...

    def apply(self, rows: Tensor) -> Tensor:
        """``rows @ W.mT``: ``W v`` for every row v; ``(*batch, b, n)`` to ``(*batch, b, m)``."""
        ...

    def apply_transpose(self, rows: Tensor) -> Tensor:
        """``rows @ W``: ``W.T y`` for every row y; ``(*batch, b, m)`` to ``(*batch, b, n)``."""
        ...

    def dense(self) -> Tensor:
        """The matrices themselves, ``(*batch, m, n)``."""
        ...

    def select(self, index: Tensor) -> Operator:
        """The matrices at ``index`` (a vector of integers) of a stack with one batch dimension."""
        ...

    def double(self) -> Operator:
        """The same matrices with products in double precision."""
        ...


@dataclass(frozen=True)
class Dense:
    """A stack of matrices held as they are."""

    matrix: Tensor  # (*batch, m, n)

    @property
    def shape(self) -> torch.Size:
        return self.matrix.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def apply(self, rows: Tensor) -> Tensor:
        return times_transpose(rows, self.matrix)

    def apply_transpose(self, rows: Tensor) -> Tensor:
        return times_transpose(rows, self.matrix.mT)

    def dense(self) -> Tensor:
        return self.matrix

    def select(self, index: Tensor) -> Dense:
        if torch.equal(index, torch.arange(len(self.matrix), device=index.device)):
            return self  # all of them: a copy would cost more than many products
        return Dense(self.matrix[index])

    def double(self) -> Dense:
        return Dense(self.matrix.double())


@dataclass(frozen=True)
class LowRankUpdate:
    """``base + left @ right``, never summed: a product costs one with the base and two thin ones."""

    base: Operator  # (*batch, m, n)
    left: Tensor  # (*batch, m, r)
    right: Tensor  # (*batch, r, n)

    @property
    def shape(self) -> torch.Size:
        return self.base.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def device(self) -> torch.device:
        return self.base.device

    def apply(self, rows: Tensor) -> Tensor:
        return self.base.apply(rows) + (rows @ self.right.mT) @ self.left.mT

    def apply_transpose(self, rows: Tensor) -> Tensor:
        return self.base.apply_transpose(rows) + (rows @ self.left) @ self.right

    def dense(self) -> Tensor:
        return self.base.dense() + self.left @ self.right

    def select(self, index: Tensor) -> LowRankUpdate:
        return LowRankUpdate(self.base.select(index), self.left[index], self.right[index])

    def double(self) -> LowRankUpdate:
        return LowRankUpdate(self.base.double(), self.left.double(), self.right.double())
