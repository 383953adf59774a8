"""The plugins of ``intruders-research`` by its ``pyproject.toml``: nothing is installed."""

import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from intruders.cli import command

_GROUP = "intruders.commands"
_ROOT = Path(__file__).parents[1]
_PROJECT = tomllib.loads((_ROOT / "research" / "pyproject.toml").read_text(encoding="utf-8"))
_ENTRY_POINTS: dict[str, dict[str, str]] = _PROJECT["project"]["entry-points"]
# The same in a new process, as the first lines of its code.
IN_A_PROCESS = (
    f"sys.path[:0] = [{str(_ROOT)!r}, {str(_ROOT / 'research')!r}]\n"
    "from intruders.cli import command\n"
    "from tests.research_commands import command_of\n"
    "command.plugin_command = command_of\n"
)
COMMANDS = _ENTRY_POINTS[_GROUP]


def command_of(name: str) -> Any:
    """The function of a command; None for one that research does not have."""
    return EntryPoint(name, COMMANDS[name], _GROUP).load() if name in COMMANDS else None


def plugin_of(group: str, name: str, _asked: str) -> Any:
    return EntryPoint(name, _ENTRY_POINTS[f"intruders.{group}"][name], group).load()


def with_research(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the commands, methods and kinds of runs of research from here on."""
    monkeypatch.setattr(command, "plugin_command", command_of)
    monkeypatch.setattr("intruders.training.methods.needed_plugin", plugin_of)
    monkeypatch.setattr("intruders.studies.audit_stages.needed_plugin", plugin_of)
