"""No number that is not one goes into a model that is written."""

from __future__ import annotations

from torch import Tensor

from ...errors import NonFiniteError


def require_finite(tensor: Tensor, name: str) -> Tensor:
    """Return a scaled tensor as it is.

    Raises:
      NonFiniteError: it contains NaN or infinity.
    """
    if not bool(tensor.isfinite().all()):
        raise NonFiniteError(
            f"'{name}' contains NaN or infinity once it is scaled; expected finite weights; fix the tuned model, or "
            f"leave it as it is: --exclude '{name}'"
        )
    return tensor
