"""Matrices as values that know their own products.

Algorithms in this folder never ask what kind of matrix they work on. They multiply thin blocks of *rows* by
it, since a row block times a matrix runs over contiguous memory either way, where a product of a transposed
view with a few columns is several times slower. Every operator may carry leading batch dimensions: a batch
of equal-shaped matrices is one operator.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .low_rank import LowRank
from .products import selected, times_transpose


@dataclass(frozen=True)
class Dense:
    """A batch of matrices held as they are, or some of one: a copy of these would cost more than several products."""

    matrix: Tensor  # (*batch, m, n)
    places: tuple[int, ...] | None = None  # of these in a batch with one batch dimension; None for all

    @property
    def shape(self) -> torch.Size:
        shape = self.matrix.shape
        return shape if self.places is None else torch.Size((len(self.places), *shape[-2:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.matrix.dtype

    @property
    def device(self) -> torch.device:
        return self.matrix.device

    def apply(self, rows: Tensor) -> Tensor:
        """``rows @ W.mT``: ``W v`` for every row v; ``(*batch, b, n)`` to ``(*batch, b, m)``."""
        return times_transpose(rows, self.matrix, self.places)

    def apply_transpose(self, rows: Tensor) -> Tensor:
        """``rows @ W``: ``W.T y`` for every row y; ``(*batch, b, m)`` to ``(*batch, b, n)``."""
        return times_transpose(rows, self.matrix.mT, self.places)

    def dense(self) -> Tensor:
        if self.places is None:
            return self.matrix
        return selected(self.matrix, torch.tensor(self.places, device=self.device))

    def select(self, index: Tensor) -> "Dense":
        """The matrices at ``index`` (a vector of integers) of a batch with one batch dimension."""
        places = range(len(self.matrix)) if self.places is None else self.places
        return Dense(self.matrix, tuple(places[i] for i in index.tolist()))

    def double(self) -> "Dense":
        return Dense(self.dense().double())

    def norm(self) -> float:
        return float(self.matrix.double().square().sum().sqrt())

    def inner(self, other: LowRank) -> float:
        return float(((other.left.double().mT @ self.matrix.double()) * other.right.double()).sum())

    def plus(self, other: "Update") -> "Dense":
        return Dense(self.matrix + other.dense())

    def scaled(self, factor: float | Tensor) -> "Dense":
        return Dense(factor * self.matrix)


# An update D = W - W0, by what is known of it; both have norm, inner, plus and scaled.
Update = Dense | LowRank


@dataclass(frozen=True)
class Sum:
    """``base + update``, never formed: a product costs one with each, which for a low-rank update is thin."""

    base: "Operator"
    update: "Operator"

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
        return self.base.apply(rows) + self.update.apply(rows)

    def apply_transpose(self, rows: Tensor) -> Tensor:
        return self.base.apply_transpose(rows) + self.update.apply_transpose(rows)

    def dense(self) -> Tensor:
        return self.base.dense() + self.update.dense()

    def select(self, index: Tensor) -> "Sum":
        return Sum(self.base.select(index), self.update.select(index))


# A batch of matrices that is known through its products with thin blocks of rows.
Operator = Dense | LowRank | Sum
