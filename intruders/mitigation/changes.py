"""What a mitigation does to a matrix, as little of it as can wait in memory until the matrix is written."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..linalg.low_rank import LowRank
from ..linalg.operators import Dense, Update


@dataclass(frozen=True)
class Added:
    """``W' = W + change``."""

    change: LowRank

    def applied(self, tuned: Tensor, update: Update) -> Tensor:
        """W' from W ``(m, n)`` and its update, in double precision."""
        return Dense(tuned.double()).plus(self.change.to(tuned.device, torch.float64)).matrix

    def updated(self, update: LowRank) -> LowRank:
        """``W' - W0`` from the update D."""
        return update.double().plus(self.change.to(update.device, torch.float64))


@dataclass(frozen=True)
class Shrunk:
    """``W' = W + (share - 1) D``, the update times a number.

    The number alone is kept: what is added is as large as the matrix itself where D is dense.
    """

    share: float

    def applied(self, tuned: Tensor, update: Update) -> Tensor:
        """W' from W ``(m, n)`` and its update, in double precision."""
        change = Dense(update.dense()).double().scaled(self.share - 1.0)
        return Dense(tuned.double()).plus(change).matrix

    def updated(self, update: LowRank) -> LowRank:
        """``W' - W0`` from the update D."""
        return update.double().scaled(self.share)


Change = Added | Shrunk
