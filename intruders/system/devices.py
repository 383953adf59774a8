"""A device of torch by the name that a user gives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import SettingError

if TYPE_CHECKING:
    import torch


def device_named(name: str) -> torch.device:
    """Return the device of that name, on which a tensor could be made.

    Raises:
      SettingError: torch does not know the device, or it is not there.
    """
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise SettingError(
            f"device '{name}' cannot be used here; expected 'auto', 'cpu'"
            + (" or 'cuda'" if torch.cuda.is_available() else " (no CUDA device was found)")
        ) from None
    return device
