"""A tensor made of some rows at a time, so that little of it is in double precision at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

# Numbers that are made at once.
_AT_ONCE = 2**20


def made_by_rows(
    rows: Callable[[slice], Tensor], shape: Sequence[int], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return a tensor whose rows are made some at a time and rounded to ``dtype``, once.

    Args:
      rows: gives the rows at a slice, of any floating-point type.
      shape: (rows, ...).
      dtype: of the tensor.
      device: of the tensor.

    >>> made_by_rows(lambda at: torch.arange(4.0)[at], (4,), torch.bfloat16, torch.device("cpu"))
    tensor([0., 1., 2., 3.], dtype=torch.bfloat16)
    """
    made = torch.empty(*shape, dtype=dtype, device=device)
    step = max(1, _AT_ONCE // max(1, prod(shape[1:])))
    for first in range(0, shape[0], step):
        some = slice(first, first + step)
        made[some] = rows(some)
    return made
