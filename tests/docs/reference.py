"""The scripts that write pages, as modules: they are in no package."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from tests.docs.pages import ROOT

EXAMPLES = ROOT / "examples"


def reference() -> Any:
    """``examples/make_reference.py``: the pages of commands and settings."""
    return _script("make_reference")


def result_tables() -> Any:
    """``examples/make_result_tables.py``: the tables of runs on result pages."""
    return _script("make_result_tables")


@cache
def _script(name: str) -> Any:
    described = spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert described is not None
    assert described.loader is not None
    made = module_from_spec(described)
    sys.modules[name] = made
    if str(EXAMPLES) not in sys.path:  # as if the script ran: it imports what is beside it
        sys.path.append(str(EXAMPLES))
    described.loader.exec_module(made)
    return made
