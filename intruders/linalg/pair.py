"""Matrices before and after fine-tuning."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .low_rank import LowRank
from .operators import Dense, Operator, Sum, Update
from .products import Batched


@dataclass(frozen=True)
class Pair(Batched):
    """A matrix before and after fine-tuning, or a batch of them with equal shapes.

    ``tuned`` is W itself, or the low-rank update D of which it is the sum with the base. A dense W stays what it is
    instead of becoming an update too: in single precision W0 + (W - W0) is not W.
    """

    base: Tensor  # (*batch, m, n)
    tuned: Tensor | LowRank  # W, or D of W = W0 + D; (*batch, m, n)

    @property
    def update(self) -> Update:
        """D = W - W0."""
        return self.tuned if isinstance(self.tuned, LowRank) else Dense(self.tuned - self.base)

    @property
    def operator(self) -> Operator:
        """W; with a low-rank update the sum is never formed."""
        return Sum(Dense(self.base), self.tuned) if isinstance(self.tuned, LowRank) else Dense(self.tuned)

    @property
    def rank(self) -> int | None:
        """Columns of a low-rank update; None where W is dense."""
        return self.tuned.rank if isinstance(self.tuned, LowRank) else None

    def dense(self) -> Tensor:
        """W: as it is, or summed in double precision."""
        if isinstance(self.tuned, LowRank):
            return self.base.double() + self.tuned.double().dense()
        return self.tuned

    def scaled(self, multiples: Sequence[float]) -> "Pair":
        """A batch with the update of each matrix times a number: ``W0 + multiple * D``."""
        factors = torch.tensor(multiples, dtype=self.base.dtype, device=self.base.device)[:, None, None]
        update = self.update.scaled(factors)
        return Pair(self.base, update if isinstance(update, LowRank) else self.base + update.matrix)

    def moved_to(self, base: Tensor) -> "Pair":
        """The same update D on top of another base: ``base + D``."""
        if isinstance(self.tuned, LowRank):
            return Pair(base, self.tuned)
        update = self.widened().update.dense()
        return Pair(base, base.to(update.dtype) + update)

    def rows(self, index: slice) -> "Pair":
        tuned = self.tuned
        return Pair(self.base[index], tuned.rows(index) if isinstance(tuned, LowRank) else tuned[index])

    def widened(self, device: torch.device | None = None) -> "Pair":
        """Convert to single precision, or to double where a part is double; on ``device`` if given."""
        is_double = any(part.dtype == torch.float64 for part in self.parts)
        return self.to(device or self.base.device, torch.float64 if is_double else torch.float32)

    @classmethod
    def joined(cls, pairs: "Sequence[Pair]") -> "Pair":
        """A batch of single pairs, of one shape and one kind of update."""
        base, *tuned = (_batch(parts) for parts in zip(*(pair.parts for pair in pairs), strict=True))
        return cls(base, tuned[0] if len(tuned) == 1 else LowRank(*tuned))


def _batch(tensors: Sequence[Tensor]) -> Tensor:
    # Of a single matrix, which may be large, no copy is made.
    return tensors[0].unsqueeze(0) if len(tensors) == 1 else torch.stack(list(tensors))


def over_unit(tuned: Tensor | LowRank, unit: float) -> Tensor | LowRank:
    """A tuned matrix, or an update of low rank, divided by a power of two."""
    if not isinstance(tuned, LowRank):
        return tuned / unit
    # Half of the exponent to each factor: a unit as small as the base can be would take one of them out of range.
    half = 2.0 ** (math.frexp(unit)[1] // 2)
    return LowRank(tuned.left / (unit / half), tuned.right / half)
