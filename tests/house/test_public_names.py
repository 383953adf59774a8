"""What can be imported from the package: every command's verb, and the values that verbs take and give."""

import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import typer

import intruders
from intruders.cli.main import app

VERB_OF_COMMAND = {
    "audit": "audit", "fleet": "audit_fleet", "report": "write_report", "card": "write_card",
    "inspect": "inspect", "verify": "verify", "mitigate": "mitigate", "scale": "critical_scales",
    "intervene": "intervene", "remedies": "compare_remedies", "finetune": "finetune", "heal": "heal",
    "attribute": "attribute", "evaluate": "evaluate", "sequence": "train_in_sequence", "cache": "DiskCache",
    "prepare": "prepare", "study": "run_study", "plugins": "load_plugins",
}  # fmt: skip


def test_every_command_has_its_verb() -> None:
    commands = {(info.name or getattr(info.callback, "__name__", "")) for info in app.registered_commands}
    assert commands == set(VERB_OF_COMMAND)
    assert set(VERB_OF_COMMAND.values()) <= set(intruders.__all__)


@pytest.mark.parametrize("command", VERB_OF_COMMAND)
def test_an_option_has_the_default_of_its_argument(command: str) -> None:
    """Those of settings have it by what they are made of."""
    group: Any = typer.main.get_command(app)
    arguments = inspect.signature(getattr(intruders, VERB_OF_COMMAND[command])).parameters
    shared = {option.name: option for option in group.commands[command].params if option.name in arguments}
    assert shared or command in ("cache", "finetune", "plugins")
    for name, option in shared.items():
        default = arguments[name].default
        # The verb's own holds where none is passed.
        if not option.required and option.default not in (None, []):
            assert option.default == default, name


def test_every_public_name_says_what_it_is() -> None:
    for name in intruders.__all__:
        if not name.startswith("__"):
            assert (getattr(intruders, name).__doc__ or "").strip(), name


def test_type_checkers_find_every_name_where_the_package_loads_it_from() -> None:
    stub = Path(intruders.__file__).with_suffix(".pyi").read_text(encoding="utf-8")
    imports = [node for node in ast.parse(stub).body if isinstance(node, ast.ImportFrom)]
    homes = {alias.asname: node.module for node in imports for alias in node.names}
    assert homes == intruders._HOMES
    assert intruders.__version__ == intruders.version.__version__
    for name in set(homes) - {"__version__"}:
        module = importlib.import_module(f"intruders.{homes[name]}")
        assert getattr(intruders, name) is getattr(module, name)


def documented(cls: type) -> list[str]:
    """The names in the section of attributes of a docstring."""
    section = (inspect.getdoc(cls) or "").partition("Attributes:\n")[2].partition("\n\n")[0]
    return re.findall(r"^  (\w+): \S", section, re.MULTILINE)


VALUES = [name for name in intruders.__all__ if dataclasses.is_dataclass(getattr(intruders, name))]


@pytest.mark.parametrize("name", VALUES)
def test_every_field_of_a_public_value_is_described(name: str) -> None:
    cls = getattr(intruders, name)
    public = [field.name for field in dataclasses.fields(cls) if not field.name.startswith("_")]
    missing = set(public) - set(documented(cls))
    assert not missing
    assert set(documented(cls)) <= set(public)


@pytest.mark.parametrize("name", intruders.__all__)
def test_examples_have_a_section_of_their_own(name: str) -> None:
    """Outside of one the website shows them as quotations."""
    text = inspect.getdoc(getattr(intruders, name)) or ""
    assert ">>> " not in text.partition("\nExamples:\n")[0]
