"""The help of every command: nothing without a word, nothing cut, and examples that can be typed."""

import dataclasses
import re
import shlex
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from intruders.cli.command import EXAMPLE_WIDTH
from intruders.cli.main import app
from intruders.training.finetune_config import FinetuneConfig

GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands


def shown(*arguments: str, width: int = 80, asked: str = "--help") -> str:
    result = CliRunner().invoke(app, [*arguments, asked], terminal_width=width, max_content_width=width)
    assert result.exit_code == 0
    return result.output


def unwrapped(text: str) -> str:
    return " ".join(text.split())


def record(parameter: Any, command: str) -> str:
    """The help of a parameter with the default that typer adds, on one line."""
    context = typer.Context(COMMANDS[command], info_name=command)
    return unwrapped(parameter.get_help_record(context)[1])


def examples(command: Any) -> list[list[str]]:
    """The words of each example, as a shell would split them."""
    found = []
    for block in command.epilog.split("\n\n"):
        comment, *lines = block.splitlines()
        assert comment.startswith("# ")
        found.append(shlex.split("\n".join(lines).replace("\\\n", " ")))
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_has_help_and_says_its_default(command: str) -> None:
    for parameter in COMMANDS[command].params:
        text = record(parameter, command)
        assert re.match(r"[A-Za-z].*[.\]]$", text), f"{parameter.name}: {text}"
        is_switch = getattr(parameter, "is_flag", False)
        if parameter.name not in ("tuned", "help") and not is_switch:
            assert re.search(r"\[(default: .+|required.*)\]$", text), f"{parameter.name}: {text}"
    known = {parameter.metavar for parameter in COMMANDS[command].params}
    text = " ".join(str(parameter.help) for parameter in COMMANDS[command].params)
    for argument in {"BASE", "TUNED"} - known:
        assert not re.search(rf"\b{argument}\b", text), "an argument that the command lacks"


def test_help_begins_with_where_to_start_and_no_summary_is_cut() -> None:
    assert shown().partition("\n\n")[2].strip().startswith("Start here: audit, evaluate, heal.")
    for name, command in COMMANDS.items():
        summary = command.help.strip().splitlines()[0]
        assert len(summary) <= 60, name
        assert summary in shown(), name
    assert max(map(len, shown().splitlines())) <= 80
    for width in (60, 80):
        listed = shown(width=width).partition("Look:")[2]
        assert "..." not in listed
        assert all(unwrapped(command.short_help) in unwrapped(listed) for command in COMMANDS.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_the_two_examples_can_be_typed(name: str) -> None:
    command = COMMANDS[name]
    assert len(examples(command)) == 2
    known = {option for parameter in command.params for option in parameter.opts}
    for program, given, *arguments in examples(command):
        assert (program, given) == ("intruders", name)
        assert {word for word in arguments if word.startswith("--")} <= known
        with command.make_context(name, list(arguments)) as context:  # types and missing arguments, too
            assert context.params
    assert max(map(len, command.epilog.splitlines())) <= EXAMPLE_WIDTH


@pytest.mark.parametrize("width", [60, 80])
@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_the_terminal_and_ends_with_the_examples(name: str, width: int) -> None:
    text = shown(name, width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.isascii()
    _, _, end = text.partition("Examples:\n")
    examples, _, _ = end.partition("\n\n--help-all shows")
    assert [line.removeprefix("  ") for line in examples.splitlines()] == COMMANDS[name].epilog.splitlines()


def options_in(text: str) -> set[str]:
    """The first names of the options that a help lists."""
    lines = text.partition("Examples:")[0].splitlines()
    return {found[1] for line in lines if (found := re.match(r"  (?:-\w, )?(--[\w-]+)", line))}


@pytest.mark.parametrize("name", COMMANDS)
def test_help_fits_two_screens_and_help_all_lists_every_option(name: str) -> None:
    brief, full = shown(name, width=78), shown(name, width=78, asked="--help-all")
    assert len(brief.splitlines()) <= 60
    names = [[name for name in one.opts if name.startswith("--")] for one in COMMANDS[name].params]
    every = {first for first, *_ in filter(None, names)}
    assert options_in(full) == every
    assert options_in(brief) <= every
    left_out = len(every - options_in(brief))
    said = re.search(r"^--help-all shows (\d+) more options?\.$", brief.splitlines()[-1])
    assert (int(said[1]) if said else 0) == left_out
    assert "--help-all" not in full


@pytest.mark.parametrize("name", COMMANDS)
def test_what_must_be_given_comes_first(name: str) -> None:
    text = shown(name)
    required = {
        one.opts[0]
        for one in COMMANDS[name].params
        if one.param_type_name == "option" and "[required" in record(one, name)
    }
    titles = re.findall(r"^(\S.*):$", text, re.MULTILINE)
    first = text.partition("Required:\n")[2].partition("\n\n")[0]
    assert options_in(first) == required
    assert not required or titles[:2] in (["Arguments", "Required"], ["Required", titles[1]])


@pytest.mark.parametrize("command", ["finetune", "sequence"])
def test_defaults_of_a_run_are_those_of_its_settings(command: str) -> None:
    """These options default to None, so that a YAML file stands beneath them: their help names the default."""
    defaults = {field.name: field.default for field in dataclasses.fields(FinetuneConfig)}
    checked = 0
    for parameter in COMMANDS[command].params:
        found = re.search(r"\[default: (.+)\]$", record(parameter, command))
        default = defaults.get(parameter.name)
        if found is None or default in (None, (), dataclasses.MISSING):
            continue
        assert found[1] == str(default), parameter.name
        checked += 1
    assert checked >= 12


def test_choices_are_those_that_the_settings_accept() -> None:
    from intruders.experiments.experiment_settings import INTERPOLATE
    from intruders.mitigation.remedies.remedy_table import CONTROLS, PUBLISHED, SHRINK_OUTPUT
    from intruders.mitigation.targets.choose_target import FORMS
    from intruders.training.run_settings import METHODS

    for command, option, choices in [
        ("finetune", "method", METHODS),
        ("sequence", "method", METHODS),
        ("mitigate", "control", CONTROLS),
        ("intervene", "controls", (*CONTROLS, SHRINK_OUTPUT, INTERPOLATE)),
        ("mitigate", "form", FORMS),
        ("mitigate", "remedy", PUBLISHED),
    ]:
        [parameter] = [one for one in COMMANDS[command].params if one.name == option]
        words = re.findall(r"[\w+-]+", record(parameter, command).partition(" [default")[0].rstrip("."))
        assert set(choices) <= {word.rstrip(".") for word in words}, option
