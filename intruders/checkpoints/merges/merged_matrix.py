"""A merged matrix beside the base and the update that it should hold, and the ways in which merges round."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair

# The unit roundoff of single precision, in which merges multiply and add, and of what is computed here.
SINGLE = 2.0**-24
_EXPONENT = 0x7F800000  # of a number in single precision
_LEAST = 2.0**-149  # a smaller spacing is zero in single precision
HALF_TYPES = (torch.bfloat16, torch.float16)  # the coarser one first

# The types to which a merge may be rounded when it is saved, by safetensors' and GGUF's words, and by torch's own.
_FLOATING = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def stored_type(stored_as: str) -> torch.dtype | None:
    """The type to which a stored tensor was rounded; None where it is quantized."""
    dtype = _FLOATING.get(stored_as) or getattr(torch, stored_as, None)
    return dtype if dtype in _FLOATING.values() else None


def coarsest_type(tensor: Tensor) -> torch.dtype:
    """The coarsest type that holds every number of ``tensor``: of weights in float32, what they were rounded to."""
    if tensor.dtype in HALF_TYPES:
        return tensor.dtype
    for dtype in HALF_TYPES:
        if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor):
            return dtype
    return tensor.dtype


def half_spacing(numbers: Tensor, dtype: torch.dtype, least: float = 0.0) -> Tensor:
    """Half the distance from each number (float32 or float64) to the next one of ``dtype``, and at least ``least``.

    A number that rounds to x lies within this of x.

    >>> half_spacing(torch.tensor([1.0, 3.0, 0.0]), torch.bfloat16).tolist()[:2]
    [0.00390625, 0.0078125]
    """
    if numbers.dtype == torch.float32:
        powers = (numbers.contiguous().view(torch.int32) & _EXPONENT).view(torch.float32)
    else:
        powers = torch.exp2(torch.frexp(numbers).exponent - 1.0).masked_fill_(numbers == 0, 0.0)
    return (powers * (torch.finfo(dtype).eps / 2)).clamp_(min=max(least, least_spacing(dtype)))


def least_spacing(dtype: torch.dtype) -> float:
    """Half the distance between the smallest numbers of ``dtype``."""
    info = torch.finfo(dtype)
    return max(info.smallest_normal * info.eps / 2, _LEAST)


@dataclass(frozen=True)
class Rounding:
    """One way to merge: what was rounded, and to what, on the way from W0 and D to M."""

    words: str
    of_update: tuple[torch.dtype, ...] = ()  # roundings of s D before it is added
    of_sum: int = 1  # roundings to M's own type
    of_base: bool = False  # W0 was rounded to M's type before the update was added


# A sum that was rounded again when something was added to it.
SUM_TWICE = Rounding("sum rounded twice", of_sum=2)
# Norms, products of products, one adapter after the other, each step in half precision. bfloat16 rounds more than
# float16, except for the smallest numbers. It allows so much that another update may fit too.
EVERY_STEP = Rounding("every step rounded to half precision", HALF_TYPES * 4, of_sum=5)


def type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


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

    @cached_property
    def ways_to_round(self) -> list[Rounding]:
        """The ways in which the sum W0 + s D may have been rounded, the strictest first."""
        shown = []  # the type that the adapter's numbers show, where it has factors; one of them may be scaled
        if isinstance(self.pair.tuned, LowRank):
            # A factor in bfloat16 that was scaled may fit into float16: the coarser of the two is the type.
            of_factors = [coarsest_type(factor) for factor in (self.pair.tuned.left, self.pair.tuned.right)]
            shown = [max(of_factors, key=lambda dtype: torch.finfo(dtype).eps)]
        types = [dtype for dtype in dict.fromkeys([*shown, self.dtype]) if dtype in HALF_TYPES]
        ways = [Rounding("one rounding")]
        ways += [Rounding(f"update rounded to {type_name(dtype)} first", (dtype,)) for dtype in types]
        if len(types) == 2:
            words = f"update rounded to {type_name(types[0])} and {type_name(types[1])} first"
            ways.append(Rounding(words, tuple(types)))
        # A product in half precision on a GPU is rounded, and rounded again when it is scaled. The first rounding is
        # scaled too, and may then be two halves of the spacing of the result.
        ways += [Rounding(f"update rounded to {type_name(dtype)} twice", (dtype,) * 3) for dtype in types]
        base = self.pair.base
        if torch.equal(base.to(self.dtype).to(base.dtype), base):
            return ways
        # W0 has numbers that M's type lacks, and may have been rounded to it.
        words = f"base rounded to {type_name(self.dtype)}"
        rounded = [replace(way, words=f"{way.words}, {words}", of_base=True) for way in ways]
        return [way for both in zip(ways, rounded, strict=True) for way in both]

    @property
    def transposed(self) -> "MergedMatrix":
        """The same with D^T in the place of D; of a square matrix."""
        base, tuned = self.pair.base, self.pair.tuned
        if isinstance(tuned, LowRank):
            turned: Tensor | LowRank = LowRank(tuned.right.mT, tuned.left.mT)
        else:
            turned = base + (tuned - base).mT
        return MergedMatrix(Pair(base, turned), self.merged, self.stored)

    def blocks(self, round_base: bool = False) -> Iterator[Block]:
        """All rows, some at a time; with ``round_base``, of a base that was rounded to M's type."""
        is_double = any(part.dtype == torch.float64 for part in (*self.pair.parts, self.merged))
        wide = torch.float64 if is_double else torch.float32
        count, columns = self.merged.shape
        rows = max(1, _BLOCK // max(1, columns))
        for start in range(0, count, rows):
            part = slice(start, start + rows)
            pair, merged = self.pair.rows(part).to(wide), self.merged[part].to(wide)
            before, tuned = pair.base, pair.tuned
            if isinstance(tuned, LowRank):
                # |sum of products - the exact one| <= (r + 1) u |B_i| |A_j|, once for the merge and once for us.
                update = tuned.dense()
                reach = tuned.left.norm(dim=1, keepdim=True) * tuned.right.norm(dim=0)
                slack = reach * (2 * SINGLE * (tuned.rank + 8))
            else:
                update = tuned - before
                reach = tuned.abs()
                slack = reach * (_STEPS * SINGLE)
            if round_base:
                before = before.to(self.dtype).to(wide)
            yield Block(before, update, merged, slack, reach)
