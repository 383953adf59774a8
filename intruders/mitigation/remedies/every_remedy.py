"""Every remedy, by name."""

from __future__ import annotations

from ...errors import SettingError
from ...settings import settings_of
from ...system.plugins import REMEDIES, plugins_of
from .budget import Budget
from .controls import Complement, Neighbours, RandomVectors, Resized, Shrink, UpdateDirections
from .dg_hard import DGHard
from .directions import Directions
from .doses import Doses
from .drop import Drop
from .fapm import FAPM
from .flatten import Flatten
from .heads import Heads
from .interpolate import Interpolate
from .intruders import INTRUDERS, ScaledIntruders
from .layers import Layers
from .lines import Lines
from .project import Project
from .remedy import PublishedRemedy, ScaledRemedy
from .surgery import Surgery
from .trim import Trim
from .truncate import Truncate

SCALED: dict[str, type[ScaledRemedy]] = {
    remedy.name: remedy
    for remedy in (ScaledIntruders, Shrink, RandomVectors, Neighbours, UpdateDirections, Resized, Complement)
}
CONTROLS = tuple(name for name, remedy in SCALED.items() if remedy.is_control)
_PUBLISHED: tuple[type[PublishedRemedy], ...] = (
    Interpolate,
    Truncate,
    Flatten,
    Layers,
    Lines,
    Project,
    Directions,
    Budget,
    Heads,
    DGHard,
    Trim,
    Drop,
    FAPM,
    Surgery,
    Doses,
)
PUBLISHED = {remedy.name: remedy for remedy in _PUBLISHED}


def remedy_named(name: str, scale: float, seed: int) -> ScaledRemedy:
    """The intruders or the control of that name, scaled.

    Raises:
      SettingError: there is none of that name, or the scale is out of range.
    """
    if name not in SCALED:
        raise SettingError(
            f"control is {name!r}; expected one of {', '.join(CONTROLS)}, or {INTRUDERS} for no control"
        )
    return SCALED[name](scale, seed)


def known_remedies() -> dict[str, type[PublishedRemedy]]:
    """Every published remedy by name: those here, and then those of other packages. A name of ours is ours."""
    return {**PUBLISHED, **{name: cls for name, cls in plugins_of(REMEDIES).items() if name not in PUBLISHED}}


def published_remedy(name: str, strength: float | None = None, seed: int = 0) -> PublishedRemedy:
    """The published remedy of that name, at a strength or at its default; ``seed`` is of one that draws.

    Raises:
      SettingError: there is none of that name, or the strength is out of range.
    """
    known = known_remedies()
    if name not in known:
        raise SettingError(f"remedy is {name!r}; expected one of {', '.join(known)}")
    cls = known[name]
    chosen: dict[str, float] = {"seed": seed} if "seed" in settings_of(cls) else {}
    if strength is not None:
        chosen[cls.strength] = int(strength) if float(strength).is_integer() else strength
    return cls(**chosen)
