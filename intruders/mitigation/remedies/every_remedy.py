"""Every remedy, by name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ...errors import SettingError
from ...settings import settings_of
from ...system.plugins import REMEDIES, plugins_of
from .controls import MatchedControl
from .remedy import PublishedRemedy, Remedy, ScaledIntruders, ScaledRemedy
from .remedy_table import ALL, CONTROLS, HOMES_OF_CONTROLS, HOMES_OF_PUBLISHED, INTRUDERS


def _class_at(home: str) -> Any:
    module, name = home.split(".")
    return getattr(import_module(f"..{module}", __name__), name)


PUBLISHED: dict[str, type[PublishedRemedy]] = {
    name: _class_at(home) for name, home in HOMES_OF_PUBLISHED.items()
}


def remedy_named(name: str, scale: float, seed: int, which: str = ALL) -> Remedy:
    """Return the scaled intruders, or the control of that name in their place; ``which`` intruders counts for both."""
    intruders = ScaledIntruders(scale, seed, which)
    if name == INTRUDERS:
        return intruders
    if name not in CONTROLS:
        raise SettingError(
            f"control is {name!r}; expected one of {', '.join(CONTROLS)}, or {INTRUDERS} for no control"
        )
    cls: type[ScaledRemedy | MatchedControl] = _class_at(HOMES_OF_CONTROLS[name])
    return cls(intruders) if issubclass(cls, MatchedControl) else cls(scale, seed, which)


def known_remedies() -> dict[str, type[PublishedRemedy]]:
    """Every published remedy by name: those here, and then those of other packages. A name of ours is ours."""
    return {**PUBLISHED, **{name: cls for name, cls in plugins_of(REMEDIES).items() if name not in PUBLISHED}}


def published_remedy(name: str, strength: float | None = None, seed: int = 0) -> PublishedRemedy:
    """Return the published remedy of that name, at a strength or at its default; ``seed`` is of one that draws."""
    known = known_remedies()
    if name not in known:
        raise SettingError(f"remedy is {name!r}; expected one of {', '.join(known)}")
    cls = known[name]
    chosen: dict[str, float] = {"seed": seed} if "seed" in settings_of(cls) else {}
    if strength is not None:
        chosen[cls.strength] = int(strength) if float(strength).is_integer() else strength
    return cls(**chosen)
