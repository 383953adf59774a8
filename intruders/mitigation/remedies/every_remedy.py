"""Every remedy, by name."""

from __future__ import annotations

from ...errors import SettingError
from .controls import Neighbours, RandomVectors, Shrink, UpdateDirections
from .intruders import INTRUDERS, ScaledIntruders
from .remedy import Remedy

REMEDIES: dict[str, type[Remedy]] = {
    remedy.name: remedy for remedy in (ScaledIntruders, Shrink, RandomVectors, Neighbours, UpdateDirections)
}
CONTROLS = tuple(name for name, remedy in REMEDIES.items() if remedy.is_control)


def remedy_named(name: str, scale: float, seed: int) -> Remedy:
    """The remedy or control of that name.

    Raises:
      SettingError: there is none of that name, or the scale is out of range.
    """
    if name not in REMEDIES:
        raise SettingError(
            f"control is {name!r}; expected one of {', '.join(CONTROLS)}, or {INTRUDERS} for no control"
        )
    return REMEDIES[name](scale, seed)
