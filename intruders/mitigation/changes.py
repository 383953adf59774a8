"""An update D, and what an intervention adds to W: as factors where these exist."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.low_rank import lowrank_inner


@dataclass(frozen=True)
class Update:
    """D = W - W0 of one matrix, as factors or dense."""

    left: Tensor | None = None  # (m, r)
    right: Tensor | None = None  # (r, n)
    dense: Tensor | None = None  # (m, n)

    @property
    def rank(self) -> int | None:
        return None if self.left is None else self.left.shape[1]

    def factors(self) -> tuple[Tensor, Tensor] | None:
        return None if self.left is None or self.right is None else (self.left, self.right)

    def matrix(self) -> Tensor:
        """D itself (m, n), in the dtype it is kept in."""
        factors = self.factors()
        if factors is not None:
            return factors[0] @ factors[1]
        assert self.dense is not None
        return self.dense

    def inner(self, left: Tensor, right: Tensor) -> float:
        """``tr(D^T left right)`` in double precision, of (m, c) and (c, n) factors."""
        factors = self.factors()
        if factors is not None:
            return float(lowrank_inner(factors, (left, right)))
        assert self.dense is not None
        return float(((left.double().mT @ self.dense.double()) * right.double()).sum())

    def norm(self) -> float:
        """``||D||_F``."""
        factors = self.factors()
        if factors is not None:
            return math.sqrt(max(0.0, float(lowrank_inner(factors, factors))))
        assert self.dense is not None
        return float(self.dense.double().square().sum().sqrt())


@dataclass(frozen=True)
class Change:
    """One matrix under one intervention: ``W' = W0 + update_factor * D + left @ right``."""

    update_factor: float
    left: Tensor  # (m, c), double
    right: Tensor  # (c, n), double
    norm: float  # ||W' - W0||_F

    def factors(self, update: Update) -> tuple[Tensor, Tensor] | None:
        """``W' - W0`` as (m, r + c) and (r + c, n) factors; None where the update has none."""
        own = update.factors()
        if own is None:
            return None
        left, right = own[0].double(), own[1].double()
        if self.left.shape[1] == 0:
            return self.update_factor * left, right
        return torch.cat([self.update_factor * left, self.left], 1), torch.cat([right, self.right], 0)

    def applied(self, tuned: Tensor, update: Update) -> Tensor:
        """W' from W ``(m, n)``, in double precision: ``W + (t - 1) D + left @ right``."""
        result = tuned.double() + self.left @ self.right
        if self.update_factor != 1.0:
            result += (self.update_factor - 1.0) * update.matrix().double()
        return result
