"""A command whose help shows its options in groups and ends with examples."""

import inspect
import os
import re
import shlex
from copy import copy
from pathlib import Path
from typing import Any

from typer import Typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from ..errors import SettingError
from ..system.commands import shell_lines
from ..system.plugins import plugin_command
from ..system.words import plural
from .from_verb import Advanced, Function

# Columns of the help in which every example fits, in a terminal of 60.
EXAMPLE_WIDTH = 58

# Metavars of options and arguments whose values are paths.
_PATHS = {"AUDIT", "FILE", "FOLDER", "FOLDER|URL", "README", "RUN"}

# Of those whose values are paths, or names of models and data.
_SOURCES = _PATHS | {"BASE", "CORPUS", "MODEL", "PATH", "SOURCE", "TASK", "TASKS"}


class Command(TyperCommand):
    """A command with plain help: without rich, typer ignores ``rich_help_panel`` and would refill the examples."""

    _help_all: Any = None  # the option --help-all, which the last line of the help names

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = self._as_typer_reads(ctx, args)
        if not ctx.resilient_parsing:
            self._refuse_odd_paths(ctx, args)
        left = super().parse_args(ctx, args)
        for parameter in self.get_params(ctx):
            if parameter.metavar in _PATHS:
                ctx.params[parameter.name] = _with_home(ctx.params.get(parameter.name))
        return left

    def _as_typer_reads(self, ctx: Any, args: list[str]) -> list[str]:
        """Return the arguments with an empty value after ``--ray`` alone, which typer has no option for, and without
        the ``-`` of ``--json -`` where ``--json`` is a switch that always prints to standard output.
        """
        by_name = {name: parameter for parameter in self.get_params(ctx) for name in parameter.opts}
        is_switch = getattr(by_name.get("--json"), "is_flag", False)
        read: list[str] = []
        for word, following in zip(args, [*args, "-"][1:], strict=True):
            if is_switch and word == "--json=-":
                read.append("--json")
            elif not (is_switch and word == "-" and read[-1:] == ["--json"]):
                read.append(word)
            if word == "--ray" and word in by_name and following.startswith("-"):
                read.append("")
        return read

    def _refuse_odd_paths(self, ctx: Any, args: list[str]) -> None:
        """Refuse an empty path before Python takes it for the folder that it works in, and ``-`` as a file's name."""
        typed, _, _ = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in self.get_params(ctx):
            is_argument = parameter.param_type_name == "argument"
            if not (is_argument or parameter.metavar in _SOURCES):
                continue
            values = typed.get(parameter.name)
            values = values if isinstance(values, list | tuple) else [values]
            if any(isinstance(value, str) and not value.strip() for value in values):
                name = _name(parameter) if is_argument else parameter.opts[0]
                raise SettingError(
                    f"{name} is empty (''); expected a path or a name; check that the shell variable in the command "
                    "is set"
                )
            if parameter.metavar == "FILE" and "--json" not in parameter.opts and "-" in values:
                raise SettingError(
                    f"{parameter.opts[0]} is '-', and only --json prints to standard output; expected the path of a "
                    "file; pass one, or /dev/stdout"
                )

    def get_params(self, ctx: Any) -> list[Any]:
        parameters = super().get_params(ctx)
        if self._help_all is None:  # as --help, whose making differs between typer's versions
            self._help_all = copy(parameters[-1])
            self._help_all.name, self._help_all.opts, self._help_all.hidden = "help_all", ["--help-all"], True
            self._help_all.callback = self._show_all
        return [*parameters, self._help_all]

    def _show_all(self, ctx: Any, _: Any, is_asked: bool) -> None:
        if is_asked and not ctx.resilient_parsing:
            ctx.meta[_ALL] = True
            print(self.get_help(ctx))
            ctx.exit()

    def get_help(self, ctx: Any) -> str:
        return super().get_help(ctx).translate(_UNBOUND)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [argument for argument in self.get_params(ctx) if argument.param_type_name == "argument"]
        named = (_name(argument) if argument.required else f"[{_name(argument)}]" for argument in arguments)
        return ["[OPTIONS]", *named]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        # What must be given comes first. Who reads this knows of --help.
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Required": []}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is None or parameter.name == "help" or _is_left_out(parameter, ctx):
                continue
            is_argument = parameter.param_type_name == "argument"
            title = getattr(parameter, "rich_help_panel", None) or "Options"
            title = "Arguments" if is_argument else "Required" if _REQUIRED in record[1] else title
            name = _name(parameter) if is_argument else record[0]
            if _ALL not in ctx.meta:  # the first name; others spell it as other tools do
                name = re.sub(r"^(--[\w-]+)(, --[\w-]+)+", r"\1", name)
            # Words with a hyphen, such as names of options, and defaults of one word stay on one line.
            text = re.sub(r" +\[(default:|required)", r" [\1", record[1])
            text = re.sub(r"\[default: (\S+\])", "[default:\N{NO-BREAK SPACE}\\1", text)
            text = text.replace("-", "\N{NON-BREAKING HYPHEN}")
            groups.setdefault(title, []).append((name, text))
        general = groups.pop("Options", [])
        for title, records in [*groups.items(), ("Options", general)]:
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.epilog:
            with formatter.section("Examples"):
                for line in self.epilog.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}{line}".rstrip() + "\n")
        left_out = sum(_is_left_out(parameter, ctx) for parameter in self.get_params(ctx))
        if left_out:
            formatter.write(f"\n--help-all shows {plural(left_out, 'more option')}.\n")


_ALL = f"{__name__}.all"  # in the context of a command: that its help shows every option
_REQUIRED = "[required"


def _is_left_out(parameter: Any, ctx: Any) -> bool:
    """Return whether the help leaves an option to ``--help-all``: an advanced one that need not be given."""
    is_advanced = isinstance(getattr(parameter, "rich_help_panel", None), Advanced)
    return is_advanced and _ALL not in ctx.meta and _REQUIRED not in parameter.get_help_record(ctx)[1]


# Commands that a plugin may have with further options; any other name of ours is ours.
REPLACEABLE = {"report", "study"}


class Commands(TyperGroup):
    """The application, whose help shows its commands in groups. A command of a plugin is found by its name."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None and cmd_name not in REPLACEABLE:
            return own
        function = plugin_command(cmd_name)
        return own if function is None else as_command(cmd_name, function)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            own: Any = self.commands[name]  # a plugin's command stands where ours does
            text = self.get_command(ctx, name).get_short_help_str(EXAMPLE_WIDTH * 2)
            groups.setdefault(own.rich_help_panel, []).append((name, text))
        widest = max(len(name) for members in groups.values() for name, _ in members)
        for title, members in groups.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(widest), text) for name, text in members])


def as_command(name: str, function: Function) -> Any:
    """Return the command of a function that is not among ours."""
    app = Typer(rich_markup_mode=None, add_completion=False)
    add_to(app, function, name=name)
    return get_command(app)


def add_to(app: Typer, function: Function, **how: Any) -> None:
    """Add the command of a function: its docstring is the help, and ends in examples, a comment and a line each.

    The first line is wrapped and never cut, as the short help.
    """
    text, _, examples = inspect.cleandoc(function.__doc__ or "").partition("\n\nExamples:\n")
    epilog = "\n\n".join(
        "\n".join([f"# {what}", *shell_lines(shlex.split(line.replace("\\\n", " ")), EXAMPLE_WIDTH)])
        for what, line in re.findall(r"^  # (.+)\n((?:.*\\\n)*.*)", examples, re.MULTILINE)
    )
    app.command(cls=Command, help=text, short_help=text.partition("\n")[0], epilog=epilog, **how)(function)


def _with_home(value: Any) -> Any:
    """Return paths with ``~`` as the user's home: a shell leaves it in a quoted value, and behind ``--out=``."""
    if isinstance(value, list | tuple):
        return type(value)(map(_with_home, value))
    return type(value)(os.path.expanduser(value)) if isinstance(value, str | Path) else value


def _name(argument: Any) -> str:
    """Return an argument's name as the help writes it; typer's way differs between versions."""
    return str(argument.metavar or argument.name.upper())


# What the wrapping of lines must not split is written with these until it is done.
_UNBOUND = {ord("\N{NO-BREAK SPACE}"): " ", ord("\N{NON-BREAKING HYPHEN}"): "-"}
