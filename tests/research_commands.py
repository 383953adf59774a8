"""The commands and methods of ``intruders-research``, by its ``pyproject.toml``: nothing is installed."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from intruders.cli import command

_GROUP = "intruders.commands"
_PROJECT = tomllib.loads(
    (Path(__file__).parents[1] / "research" / "pyproject.toml").read_text(encoding="utf-8")
)
_ROOT = Path(__file__).parents[1]
# The same in a new process, as the first lines of its code.
IN_A_PROCESS = (
    f"sys.path[:0] = [{str(_ROOT)!r}, {str(_ROOT / 'research')!r}]\n"
    "from intruders.cli import command\n"
    "from tests.research_commands import command_of\n"
    "command.plugin_command = command_of\n"
)
COMMANDS: dict[str, str] = _PROJECT["project"]["entry-points"][_GROUP]
_METHODS = "intruders.methods"


def command_of(name: str) -> Any:
    """The function of a command; None for one that research does not have."""
    return EntryPoint(name, COMMANDS[name], _GROUP).load() if name in COMMANDS else None


def methods_of(_group: str) -> dict[str, Any]:
    methods = _PROJECT["project"]["entry-points"][_METHODS]
    return {name: EntryPoint(name, value, _METHODS).load() for name, value in methods.items()}


def with_research(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the commands and methods of research from here on."""
    monkeypatch.setattr(command, "plugin_command", command_of)
    monkeypatch.setattr("intruders.training.methods.plugins_of", methods_of)
