"""Settings of an audit, checked before anything is read."""

from __future__ import annotations

import math

import torch

from ..errors import SettingError


def check_k(k: object) -> None:
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise SettingError(f"k is {k!r}; expected a whole number of leading vectors, 1 or more")


def check_workers(workers: object) -> None:
    if workers is None:
        return
    if isinstance(workers, bool) or not isinstance(workers, int) or workers < 1:
        raise SettingError(f"workers is {workers!r}; expected a whole number of threads, 1 or more")


def check_epsilon(epsilon: object) -> None:
    number = isinstance(epsilon, int | float) and not isinstance(epsilon, bool)
    if not number or math.isnan(epsilon) or not 0 < epsilon <= 1:  # type: ignore[arg-type, operator]
        raise SettingError(f"epsilon is {epsilon!r}; expected a cosine above 0 and at most 1, such as 0.5")


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" takes CUDA where there is one.

    Raises:
      SettingError: torch does not know the device, or it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError):
        raise SettingError(
            f"device '{name}' cannot be used here; expected 'auto', 'cpu'"
            + (" or 'cuda'" if torch.cuda.is_available() else " (no CUDA device was found)")
        ) from None
    if device.type == "meta":
        raise SettingError("device 'meta' holds no numbers; expected 'auto', 'cpu' or 'cuda'")
    return device
