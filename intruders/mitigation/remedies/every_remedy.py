"""Every remedy, by name."""

from ...errors import SettingError
from ...settings import settings_of
from ...system.plugins import REMEDIES, plugins_of
from .. import remedies
from .controls import (
    Complement,
    EqualNorm,
    EqualSize,
    MatchedControl,
    Neighbours,
    RandomVectors,
    UpdateDirections,
)
from .remedy import PublishedRemedy, Remedy, ScaledIntruders, ScaledRemedy
from .remedy_table import ALL, CONTROLS, HOMES_OF_PUBLISHED, INTRUDERS

PUBLISHED: dict[str, type[PublishedRemedy]] = {
    name: getattr(remedies, home.rpartition(".")[2]) for name, home in HOMES_OF_PUBLISHED.items()
}
_SCALED: dict[str, type[ScaledRemedy]] = {
    cls.name: cls for cls in (ScaledIntruders, RandomVectors, Neighbours, UpdateDirections, Complement)
}
_MATCHED: dict[str, type[MatchedControl]] = {cls.name: cls for cls in (EqualNorm, EqualSize)}


def remedy_named(name: str, scale: float, seed: int, which: str = ALL) -> Remedy:
    """Return the scaled intruders, or the control of that name in their place; ``which`` intruders counts for both."""
    if name in _SCALED:
        return _SCALED[name](scale, seed, which)
    if name in _MATCHED:
        return _MATCHED[name](ScaledIntruders(scale, seed, which))
    raise SettingError(
        f"control is {name!r}; expected one of {', '.join(CONTROLS)}, or {INTRUDERS} for no control"
    )


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
