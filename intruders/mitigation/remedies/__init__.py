"""What is changed in a tuned model: its intruders, a control in their place, or what another remedy changes."""

from importlib import import_module
from typing import Any

from .remedy_table import HOMES_OF_PUBLISHED

# Classes are loaded on first use, so that the table of names stays light.
_HOMES = {cls: module for module, cls in (home.split(".") for home in HOMES_OF_PUBLISHED.values())}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
