"""The script that writes the pages of commands and settings, as a module."""

from __future__ import annotations

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from tests.docs.pages import ROOT


@cache
def reference() -> Any:
    """``examples/make_reference.py``, which is no package."""
    described = spec_from_file_location("make_reference", ROOT / "examples" / "make_reference.py")
    assert described is not None
    assert described.loader is not None
    made = module_from_spec(described)
    sys.modules["make_reference"] = made
    described.loader.exec_module(made)
    return made
