"""What a fine-tuning did to the weights of a model: intruder dimensions, found, proved and mitigated.

Every command is a function here: ``intruders audit`` is :func:`audit`, ``fleet`` :func:`audit_fleet`, ``scale``
:func:`critical_scales`, :func:`choose_scale` and :func:`write_at_scale`, ``report`` :func:`write_report`, ``card``
:func:`write_card`, ``remedies`` :func:`compare_remedies`, ``sequence`` :func:`train_in_sequence`, ``study``
:func:`read_study` and :func:`run_study`, ``plugins`` :func:`load_plugins`, ``cache`` :class:`DiskCache`, and
``verify --endpoint`` :func:`verify_served`; the others bear the command's name.
"""

import re
from importlib import import_module
from pkgutil import get_data
from typing import Any

from .errors import IntrudersError as IntrudersError
from .system import this_process as this_process  # now: others are imported after a fork
from .version import __version__ as __version__

# The stub, which type checkers read, says where each name is defined. Names are loaded on first use, so that importing
# the package stays fast.
_STUB = (get_data(__name__, "__init__.pyi") or b"").decode()
_HOMES = {name: home for home, name in re.findall(r"^from \.(\S+) import (\w+)", _STUB, re.MULTILINE)}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'intruders' has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
