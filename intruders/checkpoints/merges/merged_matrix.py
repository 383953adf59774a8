"""A merged matrix beside the base and the update that it should hold, in blocks of rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair
from .rounding import SINGLE, coarsest_type, least_spacing

# Numbers of a block: few enough for a processor's cache, enough that calls do not dominate.
_BLOCK = 2**17
# Roundings in single precision allowed to a weight that an adapter gives whole: factors, norms and quotients.
_STEPS = 32


@dataclass(frozen=True)
class Block:
    """Some rows in single precision, or in double where a part comes in double."""

    base: Tensor  # W0
    update: Tensor  # D
    merged: Tensor  # M
    slack: Tensor  # how far D may be from what the merge computed, the errors of both counted
    reach: Tensor  # how large a part of D may be, where it is a sum


@dataclass(frozen=True)
class MergedMatrix:
    """W0, D and M of one matrix (m, n), in the types of their files."""

    pair: Pair  # W0 and W, or W0 and the factors of D
    merged: Tensor
    stored: torch.dtype | None  # what M's numbers were rounded to in the file; None where they are quantized

    @cached_property
    def dtype(self) -> torch.dtype:
        """The type that M's numbers show."""
        return coarsest_type(self.merged)

    @property
    def least(self) -> float:
        """Half the spacing of the smallest numbers in the file."""
        return 0.0 if self.stored is None else least_spacing(self.stored)

    @cached_property
    def adapter_dtype(self) -> torch.dtype | None:
        """The type that the adapter's numbers show, where it has factors; one of them may be scaled."""
        if not isinstance(self.pair.tuned, LowRank):
            return None
        # A factor in bfloat16 that was scaled may fit into float16: the coarser of the two is the type.
        shown = [coarsest_type(factor) for factor in (self.pair.tuned.left, self.pair.tuned.right)]
        return max(shown, key=lambda dtype: torch.finfo(dtype).eps)

    @cached_property
    def base_needs_rounding(self) -> bool:
        """Whether W0 has numbers that M's type lacks."""
        base = self.pair.base
        return not torch.equal(base.to(self.dtype).to(base.dtype), base)

    @property
    def transposed(self) -> MergedMatrix:
        """The same with D^T in the place of D; of a square matrix."""
        base, tuned = self.pair.base, self.pair.tuned
        if isinstance(tuned, LowRank):
            turned: Tensor | LowRank = LowRank(tuned.right.mT, tuned.left.mT)
        else:
            turned = base + (tuned - base).mT
        return MergedMatrix(Pair(base, turned), self.merged, self.stored)

    def with_factors_in(self, dtype: torch.dtype, scaling: float) -> MergedMatrix | None:
        """The same with an adapter that was rounded to ``dtype`` before it was merged; None without factors."""
        if not isinstance(self.pair.tuned, LowRank) or scaling == 0:
            return None
        left, right = self.pair.tuned.left, self.pair.tuned.right
        # Which of the two the scale was put on does not show; that is the left one but for embeddings.
        rounded = LowRank(
            (left / scaling).to(dtype).to(left.dtype) * scaling, right.to(dtype).to(right.dtype)
        )
        return MergedMatrix(Pair(self.pair.base, rounded), self.merged, self.stored)

    def blocks(self, round_base: bool = False) -> Iterator[Block]:
        """All rows, some at a time; with ``round_base``, of a base that was rounded to M's type."""
        base, tuned, wide = self.pair.base, self.pair.tuned, self._wide
        rows = max(1, _BLOCK // max(1, base.shape[1]))
        factors = tuned.to(base.device, wide) if isinstance(tuned, LowRank) else None
        if factors is not None:
            across = factors.right.norm(dim=0)
        for start in range(0, base.shape[0], rows):
            part = slice(start, start + rows)
            before, merged = base[part].to(wide), self.merged[part].to(wide)
            if factors is not None:
                # |sum of products - the exact one| <= (r + 1) u |B_i| |A_j|, once for the merge and once for us.
                left = factors.left[part]
                update = left @ factors.right
                reach = left.norm(dim=1, keepdim=True) * across
                slack = reach * (2 * SINGLE * (factors.rank + 8))
            else:
                assert isinstance(tuned, Tensor)
                whole = tuned[part].to(wide)
                update = whole - before
                reach = whole.abs()
                slack = reach * (_STEPS * SINGLE)
            if round_base:
                before = before.to(self.dtype).to(wide)
            yield Block(before, update, merged, slack, reach)

    @property
    def _wide(self) -> torch.dtype:
        is_double = any(part.dtype == torch.float64 for part in (*self.pair.parts, self.merged))
        return torch.float64 if is_double else torch.float32
