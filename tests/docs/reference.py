"""The scripts that write pages, as modules: they are in no package."""

import sys
from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from tests.docs.pages import ROOT

EXAMPLES = ROOT / "examples"


def reference() -> Any:
    """``examples/make_reference.py``: the pages of commands and settings."""
    return _script("make_reference")


def result_tables() -> Any:
    """``research/examples/make_result_tables.py``: the tables of runs on result pages."""
    return _script("make_result_tables", ROOT / "research" / "examples")


@cache
def _script(name: str, folder: Path = EXAMPLES) -> Any:
    described = spec_from_file_location(name, folder / f"{name}.py")
    assert described is not None
    assert described.loader is not None
    made = module_from_spec(described)
    sys.modules[name] = made
    if str(folder) not in sys.path:  # as if the script ran: it imports what is beside it
        sys.path.append(str(folder))
    described.loader.exec_module(made)
    return made
