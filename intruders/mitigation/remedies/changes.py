"""What a remedy does to a matrix, as little of it as can wait in memory until the matrix is written."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ...linalg.low_rank import LowRank
from ...linalg.operators import Dense, Update
from ...linalg.pair import Pair
from ...linalg.products import made_by_rows

# What rounding in double precision leaves of no difference, as a share of an update's norm.
_ROUNDING = 1e-7


@dataclass(frozen=True)
class Change:
    """``W' = W + (share - 1) D + added`` of a tuned matrix W ``(m, n)`` with the update D; or ``W0 + entries(W0, D)``.

    What is added to W is not formed: where D is dense, it is as large as W itself.

    >>> update = LowRank(torch.ones(2, 1), torch.tensor([[3.0, 4.0]]))  # (2, 1) @ (1, 2)
    >>> Change(share=0.5).updated(update).dense()
    tensor([[1.5000, 2.0000],
            [1.5000, 2.0000]], dtype=torch.float64)
    """

    share: float = 1.0  # of the update D that stays
    added: LowRank | None = None
    # What is left of the update, from W0 and D in double precision: a recipe, since the result is as large as W.
    entries: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def keeps_all(self) -> bool:
        return self.share == 1 and self.added is None and self.entries is None

    @property
    def is_a_share(self) -> bool:
        """Whether it does no more than to scale the update."""
        return self.added is None and self.entries is None

    def applied_to(self, pair: Pair, dtype: torch.dtype = torch.float64) -> Tensor:
        """W' from the two matrices as they are stored, computed in double precision and rounded once.

        Without a share of D it is W0 to the bit.
        """
        if self.entries is not None:
            both = pair.double()
            return (both.base + self.entries(both.base, both.update.dense())).to(dtype)

        def changed(rows: slice) -> Tensor:
            # Some rows at once: W0, D and what is made of them in double precision are each four times W in 16 bits.
            part = pair.rows(rows)
            made = Dense(part.base.double())
            if self.share != 0:
                made = made.plus(part.double().update.scaled(self.share))
            if self.added is not None:
                made = made.plus(self.added.rows(rows).to(made.device, torch.float64))
            return made.matrix

        return made_by_rows(changed, pair.base.shape, dtype, pair.base.device)

    def updated(self, update: LowRank) -> LowRank:
        """``W' - W0`` from the update D, in double precision."""
        assert self.entries is None  # refused before
        changed = update.double().scaled(self.share)
        if self.added is not None:
            changed = changed.plus(self.added.to(update.device, torch.float64))
        return changed

    def norm_of(self, update: Update, base: Tensor | None = None) -> float:
        """``||W' - W0||_F`` from inner products, or from the entries."""
        change, update = self.formed(update, base)
        squared = (change.share * update.norm()) ** 2
        if change.added is not None:
            squared = (
                squared + 2 * change.share * update.inner(change.added) + change.added.inner(change.added)
            )
        return math.sqrt(max(0.0, squared))

    def formed(self, update: Update, base: Tensor | None) -> "tuple[Change, Update]":
        """Return what it leaves of single entries as an update that is kept, which is as large as W, or itself."""
        if self.entries is None:
            return self, update
        assert base is not None
        return Change(), Dense(self.entries(base.double(), update.dense().double()))

    def times(self, factor: float) -> "Change":
        """The change that leaves ``factor`` times as much of the update: ``W'' - W0 = factor (W' - W0)``."""
        entries = self.entries
        return Change(
            factor * self.share,
            None if self.added is None else self.added.scaled(factor),
            None if entries is None else lambda base, update: factor * entries(base, update),
        )

    def is_nothing(self, update: Update) -> bool:
        """Return whether W' is W to rounding; a change of single entries counts as a change."""
        if self.entries is not None or self.keeps_all:
            return self.keeps_all
        return Change(self.share - 1.0, self.added).norm_of(update) <= _ROUNDING * update.norm()

    def output_energy(self, update: Update, inputs: Tensor, base: Tensor | None = None) -> float:
        """Mean of ``||(W' - W0) h||^2`` over the rows h of ``inputs`` (count, n), in double precision."""
        rows = inputs.to(update.device).double()
        change, update = self.formed(update, base)
        out = change.share * update.double().apply(rows)
        if change.added is not None:
            out = out + change.added.to(update.device, torch.float64).apply(rows)
        return float(out.square().sum(-1).mean())


def drawn_entries(key: str, like: Tensor) -> Tensor:
    """Return numbers from 0 to 1, drawn by a key, of the shape of a matrix."""
    generator = torch.Generator().manual_seed(seed_of(key))
    return torch.rand(like.shape, generator=generator, dtype=torch.float64).to(like.device)


def seed_of(key: str) -> int:
    return random.Random(key).getrandbits(62)


def largest_entries(scores: Tensor, density: float) -> Tensor:
    """Return a mask of the largest entries, a share of all."""
    count = int(density * scores.numel())
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    # In order, they would take three times as long.
    mask[scores.flatten().topk(count, sorted=False).indices] = True
    return mask.reshape(scores.shape)
