"""What a fine-tuning did to the weights of a model: intruder dimensions, found, proved and mitigated."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .errors import IntrudersError
from .version import __version__

if TYPE_CHECKING:
    from .detection.audit import audit
    from .detection.table import Audit

__all__ = ["Audit", "IntrudersError", "__version__", "audit"]

# Names are loaded on first use, so that importing the package stays fast.
_HOMES = {"audit": "detection.audit", "Audit": "detection.table"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intruders' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted(__all__)
