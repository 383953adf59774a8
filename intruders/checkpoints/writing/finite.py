"""No number that is not one goes into a model that is written."""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import NonFiniteError


def require_finite(tensor: Tensor, name: str) -> Tensor:
    """Return a changed tensor, in the type in which it is written, as it is.

    Raises:
      NonFiniteError: it contains NaN or infinity, of the tuned model or of numbers that its type cannot hold.
    """
    # PyTorch cannot ask every type of 8 bits.
    asked = tensor.float() if tensor.dtype.itemsize == 1 else tensor
    if not bool(asked.isfinite().all()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        raise NonFiniteError(
            f"'{name}' contains NaN or infinity once it is changed and written in {dtype}, whose largest number is "
            f"{torch.finfo(tensor.dtype).max:.5g}; expected finite weights; fix the tuned model, or leave this tensor "
            f"as it is: --exclude '{name}'"
        )
    return tensor
