"""Every option that a page or a docstring names exists, and a command that a page names takes the option beside it."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

import make_reference
from intruders.cli.main import app
from tests.docs.pages import READ, ROOT

GROUP: Any = typer.main.get_command(app)
# A word that goes on, such as the --no-{name} of a format string, is no option.
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9]*(?:-[a-z0-9]+)*(?![\w{-])")
# A command in a code span or a line of a block, up to what ends it there or to the next one.
_COMMAND = re.compile(r"\bintruders ([a-z]+)\b([^`\n|;&#]*?)(?=[`\n|;&#]|\bintruders |\Z)")
# Options of other programs, and of the scripts of this repository that no user installs.
OF_OTHERS = {
    *("--constraint", "--index-url", "--no-deps"),  # pip
    *("--file", "--tag"),  # docker
    *("--follow", "--strict", "--head", "--dequantize"),  # git log, twine, ray start, mlx_lm.convert
    *("--adapter", "--folder", "--kind", "--layers"),  # benchmarks
    *("--small-layers", "--on-projections"),  # benchmarks and a script of the tests
    *("--measure", "--predict", "--directions", "--layer"),  # benchmarks
    "--lora-merge-cache",  # mergekit-yaml
    *("--max-lora-rank", "--enable-mixed-moe-lora-format", "--enable-tower-connector-lora"),  # vllm serve
}
# What is said of earlier versions names what they had.
_OF_TODAY = [page for page in READ if page.name != "changelog.md"]
_CODE = sorted((ROOT / "intruders").rglob("*.py"))


def options_of(command: Any) -> set[str]:
    return {
        name for option in command.params for name in (*option.opts, *option.secondary_opts) if "--" in name
    } | {"--help", "--help-all"}


# A command of research has the options of ours, and its own.
BY_COMMAND: Mapping[str, set[str]] = {
    name: options_of(command)
    for name, command in (GROUP.commands | make_reference.research_commands()).items()
}
KNOWN = options_of(GROUP).union(*BY_COMMAND.values())


def unknown(path: Path) -> Iterator[str]:
    """Where a file names an option that no command has."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        for option in _OPTION.findall(line):
            if option not in KNOWN | OF_OTHERS:
                yield f"{path.relative_to(ROOT)}:{number} {option}"


def of_another_command(path: Path) -> Iterator[str]:
    """Where a file names a command with an option that only another one has."""
    for name, rest in _COMMAND.findall(path.read_text(encoding="utf-8").replace("\\\n", " ")):
        for option in _OPTION.findall(rest):
            if name in BY_COMMAND and option not in BY_COMMAND[name]:
                yield f"{path.relative_to(ROOT)} {name} {option}"


def test_every_option_that_is_named_exists() -> None:
    assert [where for path in (*_OF_TODAY, *_CODE) for where in unknown(path)] == []


def test_every_command_that_is_named_takes_the_options_beside_it() -> None:
    assert [where for path in (*_OF_TODAY, *_CODE) for where in of_another_command(path)] == []


def test_options_of_others_are_named_and_are_not_ours() -> None:
    """A name that no page needs would let a wrong one through."""
    named = {
        option
        for path in (*_OF_TODAY, *_CODE)
        for option in _OPTION.findall(path.read_text(encoding="utf-8"))
    }
    assert named >= OF_OTHERS
    assert OF_OTHERS.isdisjoint(KNOWN)
