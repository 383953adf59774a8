"""Checks of what a YAML file gives, each with an error that quotes it and says where it stands."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from ...errors import SettingError


def refuse_unknown(given: Iterable[str], known: Sequence[str], where: str) -> None:
    """SettingError for the first key that is not known, with the nearest one that is."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise SettingError(f"{where}: {str(key)!r} is not known; {hint}")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """``value`` as settings by name; nothing at all is no settings."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SettingError(f"{where} is {_shown(value)}; expected settings by name (NAME: VALUE)")
    return {str(key): item for key, item in value.items()}


def items(value: Any, where: str, what: str) -> list[Any]:
    """``value`` as a list with something in it; a single value is a list of one."""
    found = list(value) if isinstance(value, list | tuple) else [value]
    if value is None or not found:
        raise SettingError(f"{where} is {_shown(value)}; expected at least one {what}")
    return found


def texts(value: Any, where: str, what: str) -> tuple[str, ...]:
    """Texts, each once, in order."""
    found = items(value, where, what)
    for item in found:
        if not isinstance(item, str) or not item:
            raise SettingError(f"{where}: {_shown(item)} is not {what}; expected text")
    return tuple(dict.fromkeys(found))


def whole(value: Any, where: str, least: int) -> int:
    """A whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingError(f"{where} is {_shown(value)}; expected a whole number, {least} or more")
    return value


def number(value: Any, where: str, *, above: float | None = None, least: float | None = None) -> float:
    """A number within its range. YAML reads 1e-3, without a point, as text: it is a number here."""
    try:
        if isinstance(value, bool):
            raise ValueError
        found = float(value)
    except (TypeError, ValueError):
        raise SettingError(f"{where} is {_shown(value)}; expected a number") from None
    if not abs(found) < float("inf"):
        raise SettingError(f"{where} is {_shown(value)}; expected a finite number")
    if above is not None and not found > above:
        raise SettingError(f"{where} is {_shown(value)}; expected a number above {above:g}")
    if least is not None and found < least:
        raise SettingError(f"{where} is {_shown(value)}; expected {least:g} or more")
    return found


def switch(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise SettingError(f"{where} is {_shown(value)}; expected true or false")
    return value


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
