"""The command line and Python take the same: every setting and argument of one is in the other, with one default.

What only one of them has is listed here, each with its reason, and a name that needs no reason is not listed.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Mapping
from typing import Any

import pytest
import typer

import intruders
from intruders.audits.audit_settings import Compute
from intruders.cli.main import app
from intruders.cli.options import chosen_cache
from intruders.settings import Setting, Settings, settings_of

COMMANDS: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
# The functions that a command calls; ``plugins`` and ``cache`` are no verbs with settings.
VERBS: dict[str, tuple[str, ...]] = {
    "audit": ("audit",),
    "fleet": ("audit_fleet",),
    "inspect": ("inspect", "inspect_update", "compare_updates"),
    "report": ("write_report",),
    "card": ("write_card",),
    "verify": ("verify",),
    "evaluate": ("evaluate",),
    "attribute": ("attribute",),
    "scale": ("critical_scales", "choose_scale", "write_at_scale"),
    "intervene": ("intervene",),
    "remedies": ("compare_remedies",),
    "heal": ("heal",),
    "mitigate": ("mitigate",),
    "finetune": ("finetune",),
    "sequence": ("train_in_sequence",),
    "study": ("run_study",),
    "prepare": ("prepare",),
}
# Python's name of an argument, and the command line's.
OTHER_NAMES: dict[str, dict[str, str]] = {
    "inspect": {"source": "path", "first": "path", "second": "other"},
    "report": {"paths": "results", "figures": "png"},
    "card": {"card": "readme"},
    "attribute": {"task": "tasks"},
    "heal": {"task": "tasks"},
    "scale": {"task": "tasks", "scale": "at"},
    "study": {"study": "file"},
}
# What a result does in Python: to_json, to_parquet, to_document, save, its own values, and comparing a number.
_OF_RESULTS = {"json", "parquet", "html", "sarif", "verbose", "fail_above", "fail_refused", "allow_other"}
ONLY_TYPED: dict[str, set[str]] = {
    "*": _OF_RESULTS | {"no_cache", "config"},  # cache=False; FinetuneConfig.from_file
    "audit": {"demo"},  # a stored adapter by its alias
    "intervene": {"paper"},  # the scales, controls and intruders of AS_IN_THE_PAPER
    "mitigate": {
        "strength",
        "task",
        "doses",
        "data_seed",
        "mode",
        "dtype",
    },  # of the remedy, an object in Python
    "study": {"dry_run"},  # printed
    "finetune": {"dry_run"},
}
ONLY_IN_PYTHON: dict[str, set[str]] = {
    "*": {"progress", "callbacks", "measured", "told", "beside"},  # functions
    "mitigate": {
        "base_dtype",
        "adapter_name",
        "shard_bytes",
        "split_fused",
        "exact",
        "skip_non_finite",
        "workers",
    },
    # A change needs weights that are whole and without NaN; threads are for many small matrices. A change of embeddings
    # is offered where it was tried: in mitigate and scale.
    "scale": {
        "split_fused",
        "exact",
        "skip_non_finite",
        "workers",
        "learn",
        "rivals",
        "report_examples",
        "steps",
        "rate",
        "per",
        "weight",
        "estimate",
        *("base_dtype", "device_map"),
    },
    **{
        command: {"include_embeddings", "split_fused", "exact", "skip_non_finite", "workers"}
        # A rounded base is counted against and not measured; updates beside layers, or in weights, need one device.
        | {"base_dtype", "device_map"}
        # Measures that write into weights need them unquantized.
        | (set() if command in ("heal", "attribute") else {"load_in"})
        for command in ("heal", "attribute", "intervene", "remedies")
    },
    "study": {"take_over"},  # research finds it, for its --from
    "finetune": {"start_from"},  # a stage of a sequence sets it
    "sequence": {
        "start_from",
        "task",
        "include",
        "exclude",
        "k",
        "epsilon",
        *("include_embeddings", "split_fused", "base_dtype"),
    }
    | {"exact", "skip_non_finite"},  # of the audits after each stage; the tasks are an argument
}
ONLY_IN_PYTHON["remedies"] = ONLY_IN_PYTHON["remedies"] | {"split"}  # it needs both
for of_study in ("intervene", "remedies"):  # a study sets it, as its training has it
    ONLY_IN_PYTHON[of_study] = ONLY_IN_PYTHON[of_study] | {"drop_too_long"}


def class_of(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> type[Settings] | None:
    """The class of settings that a parameter takes, alone or among others."""
    if isinstance(parameter.default, Settings):
        return type(parameter.default)
    members = typing.get_args(hints.get(parameter.name)) or (hints.get(parameter.name),)
    return next((one for one in members if isinstance(one, type) and issubclass(one, Settings)), None)


def in_python(command: str) -> dict[str, tuple[Any, Setting | None]]:
    """Every argument of the command's functions, those of settings one by one: its default and its setting."""
    found: dict[str, tuple[Any, Setting | None]] = {}
    for name in VERBS[command]:
        verb = getattr(intruders, name)
        module = inspect.getmodule(verb)
        for parameter in inspect.signature(verb).parameters.values():
            cls = class_of(parameter, hints_of(parameter, vars(module)))
            if cls is None or cls.__name__ == "Study":
                found.setdefault(parameter.name, (parameter.default, None))
                continue
            given = parameter.default if isinstance(parameter.default, cls) else None
            for field, setting in settings_of(cls).items():
                default = setting.default if given is None else getattr(given, field)
                if field not in found or found[field][0] is None:
                    found[field] = (default, setting)
            if cls is Compute:
                found["cache"] = (Compute().cache, None)
            if "PathLike" in str(parameter.annotation):  # or the path of a saved result
                found[parameter.name] = (None, None)
    return found


def hints_of(parameter: inspect.Parameter, names: Mapping[str, Any]) -> dict[str, Any]:
    """The annotation of one parameter; its module imports the class of settings, but not always all other types."""
    known = {**names, **{name: getattr(intruders, name) for name in intruders.__all__}}
    text = str(parameter.annotation)
    parts = [known[part] for part in re.findall(r"\w+", text) if isinstance(known.get(part), type)]
    return {parameter.name: typing.Union[tuple(parts)] if parts else None}  # noqa: UP007 - made at run time


def typed(command: str) -> dict[str, Any]:
    """The options and arguments of the command by name."""
    return {one.name: one for one in COMMANDS[command].params if one.name != "help"}


def names_of(command: str) -> dict[str, str]:
    """The command line's name of each argument in Python."""
    others = OTHER_NAMES.get(command, {})
    return {name: others.get(name, name) for name in in_python(command)}


def only(table: Mapping[str, set[str]], command: str) -> set[str]:
    return table["*"] | table.get(command, set())


def test_every_command_is_compared() -> None:
    assert set(VERBS) == set(COMMANDS) - {"plugins", "cache"}


@pytest.mark.parametrize("command", VERBS)
def test_what_one_takes_the_other_takes(command: str) -> None:
    line = set(typed(command))
    python = names_of(command)
    assert line - set(python.values()) - only(ONLY_TYPED, command) == set(), "only on the command line"
    missing = {name for name, option in python.items() if option not in line}
    assert missing - only(ONLY_IN_PYTHON, command) == set(), "only in Python"
    # No reason for what needs none.
    assert ONLY_TYPED.get(command, set()) <= line
    assert ONLY_TYPED.get(command, set()) & set(python) == set()
    assert ONLY_IN_PYTHON.get(command, set()) <= missing


@pytest.mark.parametrize("command", VERBS)
def test_defaults_are_equal(command: str) -> None:
    options = typed(command)
    compared = 0
    for name, (default, setting) in in_python(command).items():
        option = options.get(OTHER_NAMES.get(command, {}).get(name, name))
        if option is None or default is inspect.Parameter.empty:
            continue
        compared += 1
        if name == "cache":
            assert chosen_cache(option.default, no_cache=False) == default
        elif option.default is not None and option.default not in ([], ()):
            given = (
                setting.read(setting.with_numbers(option.default)) if setting is not None else option.default
            )
            assert given == default or str(given) == str(default), name
        elif default not in (None, (), False, "", inspect.Parameter.empty) and not must_be_given(setting):
            # The command passes nothing on, and the help says what then holds.
            said = re.search(r"\[default: (.+)\]$", option.help or "")
            assert said is not None, name
            is_same = setting is not None and setting.read(setting.with_numbers(said[1])) == default
            assert is_same or said[1] == str(default), name
    assert compared > 0 or command == "study"


def must_be_given(setting: Setting | None) -> bool:
    return setting is not None and setting.must_be_given


def test_every_setting_of_a_command_is_an_option_of_one() -> None:
    """Whatever class it is in; a setting that a study's file alone takes is in no function's arguments."""
    options = {name for command in VERBS for name in typed(command)}
    settings = {
        setting.name for command in VERBS for _, setting in in_python(command).values() if setting is not None
    }
    assert settings - options == {"start_from"}
