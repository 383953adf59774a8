"""How far rounding moves a number, and the ways in which merges round."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# The unit roundoff of single precision, in which merges multiply and add, and of what is computed here.
SINGLE = 2.0**-24
_EXPONENT = 0x7F800000  # of a number in single precision
_LEAST = 2.0**-149  # a smaller spacing is zero in single precision
_COARSE = (torch.bfloat16, torch.float16)  # the coarser one first

# The types of tensors that are stored as floating point, by the formats' own words for them.
_STORED = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def stored_type(stored_as: str) -> torch.dtype | None:
    """The type to which a stored tensor was rounded; None where it is quantized."""
    return _STORED.get(stored_as)


def is_half(dtype: torch.dtype) -> bool:
    return dtype in _COARSE


def coarsest_type(tensor: Tensor) -> torch.dtype:
    """The coarsest type that holds every number of ``tensor``: of weights in float32, what they were rounded to.

    A merge in bfloat16 that was saved in float32 has the spacing of bfloat16.
    """
    if is_half(tensor.dtype):
        return tensor.dtype
    for dtype in _COARSE:
        if _fits(tensor[:1], dtype) and _fits(tensor, dtype):
            return dtype
    return tensor.dtype


def _fits(tensor: Tensor, dtype: torch.dtype) -> bool:
    return torch.equal(tensor.to(dtype).to(tensor.dtype), tensor)


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
EVERY_STEP = Rounding("every step rounded to half precision", _COARSE * 4, of_sum=5)


def ways_to_round(merged: torch.dtype, update: torch.dtype | None, of_base: bool) -> list[Rounding]:
    """The ways in which one sum W0 + s D may have been rounded, the strictest first.

    Args:
      merged: the type of M's numbers.
      update: the type of the adapter's, where they show it.
      of_base: whether W0 has numbers that M's type lacks, so that it may have been rounded.
    """
    types = [dtype for dtype in dict.fromkeys([update, merged]) if dtype is not None and is_half(dtype)]
    ways = [Rounding("one rounding")]
    ways += [Rounding(f"update rounded to {type_name(dtype)} first", (dtype,)) for dtype in types]
    if len(types) == 2:
        words = f"update rounded to {type_name(types[0])} and {type_name(types[1])} first"
        ways.append(Rounding(words, tuple(types)))
    # A product in half precision on a GPU is rounded, and rounded again when it is scaled. The first rounding is scaled
    # too, and may then be two halves of the spacing of the result.
    ways += [Rounding(f"update rounded to {type_name(dtype)} twice", (dtype,) * 3) for dtype in types]
    if not of_base:
        return ways
    words = f"base rounded to {type_name(merged)}"
    rounded = [replace(way, words=f"{way.words}, {words}", of_base=True) for way in ways]
    return [way for both in zip(ways, rounded, strict=True) for way in both]


def half_types(merged: torch.dtype) -> tuple[torch.dtype, ...]:
    """The types in which the adapter of a merge may have been, whose result is of type ``merged``."""
    return (merged,) if is_half(merged) else _COARSE


def type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
