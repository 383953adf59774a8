"""A command from what its verb takes: options of settings and of single arguments, and a function that calls the verb.

A verb is imported when its command runs, since torch takes seconds to load and ``--help`` none. So a command lists what
the verb takes, and its function passes that on by name.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, dataclass, replace
from types import MappingProxyType
from typing import Annotated, Any

import typer

from ..settings import Setting, Settings, option_of, settings_of

Function = Callable[..., None]

REQUIRED = inspect.Parameter.empty

# Groups whose options are advanced unless their definition says otherwise.
_ADVANCED_PANELS = {"Computation", "Data files", "Less forgetting"}


class Advanced(str):
    """The title of a group, of an option that ``--help-all`` alone shows; typer carries the title to the command."""

    __slots__ = ()


@dataclass(frozen=True)
class Taken:
    """Options and arguments of a command, and what their values are as arguments of its function."""

    parameters: Sequence[inspect.Parameter]
    read: Callable[[dict[str, Any]], Mapping[str, Any]] = dict

    def of(self, values: Mapping[str, Any]) -> Mapping[str, Any]:
        """Read its own among the values of a command."""
        return self.read({parameter.name: values[parameter.name] for parameter in self.parameters})


def command(*taken: Taken) -> Callable[[Function], Function]:
    """Make a command of a function: its docstring is the help, and ends in examples."""

    every = all_of(*taken)

    def attach(function: Function) -> Function:
        @functools.wraps(function)
        def run(**values: Any) -> None:
            function(**every.of(values))

        # Typer reads the signature and the types.
        run.__signature__ = inspect.Signature(every.parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in every.parameters}
        return run

    return attach


def argument(
    name: str, kind: Any, text: str, default: Any = REQUIRED, *, metavar: str | None = None, **how: Any
) -> Taken:
    """Take a value by its place, ``metavar`` or its name in the help; ``how`` is as typer takes it."""
    return _one(name, kind, default, typer.Argument(metavar=metavar or name.upper(), help=text, **how))


def option(
    name: str,
    kind: Any,
    text: str,
    default: Any = None,
    *,
    metavar: str | None = None,
    panel: str | None = None,
    names: Sequence[str] = (),
    choices: Collection[str] = (),
    advanced: bool | None = None,
) -> Taken:
    """Take a value by its option, ``names`` or that of its name; only ``--help-all`` shows an ``advanced`` one."""
    if panel is not None and (panel in _ADVANCED_PANELS if advanced is None else advanced):
        panel = Advanced(panel)

    def complete(incomplete: str) -> list[str]:
        """Complete one of the choices, or the last of a comma-separated list."""
        before, comma, last = incomplete.rpartition(",")
        return [f"{before}{comma}{choice}" for choice in choices if choice.startswith(last)]

    completing = complete if choices else None  # without choices: names of files
    how = typer.Option(*names, metavar=metavar, help=text, rich_help_panel=panel, autocompletion=completing)
    return _one(name, kind, default, how)


def flag(name: str, text: str, names: Sequence[str] = (), **how: Any) -> Taken:
    """Take a switch, which is off unless it is typed; ``how`` is as :func:`option` takes it."""
    return option(name, bool, text, False, names=names or [option_of(name)], **how)


def _one(name: str, kind: Any, default: Any, how: Any) -> Taken:
    kept = inspect.Parameter.KEYWORD_ONLY
    return Taken([inspect.Parameter(name, kept, default=default, annotation=Annotated[kind, how])])


def all_of(*taken: Taken, then: Callable[[dict[str, Any]], Mapping[str, Any]] = dict) -> Taken:
    """Take several; ``then`` makes the arguments of the function from what they are read as."""

    def read(values: dict[str, Any]) -> Mapping[str, Any]:
        made: dict[str, Any] = {}
        for part in taken:
            made |= part.of(values)
        return then(made)

    return Taken([parameter for part in taken for parameter in part.parameters], read)


def of_settings(
    into: str | Mapping[str, str],
    settings: type[Settings] | Settings,
    *,
    only: Sequence[str] = (),
    without: Collection[str] = (),
    over_a_file: bool = False,
    advanced: bool = False,
    reworded: Mapping[str, str] = MappingProxyType({}),
) -> Taken:
    """Take one option per field, each with its help, its type and its default.

    Args:
      into: The argument that receives the settings; or the argument of each field, by its name.
      settings: The class, or settings of it whose values are the defaults.
      only: Names of the fields, in the order of their options (default: all).
      without: Names of fields that have no option (default: none).
      over_a_file: Whether the command takes a file of settings too. ``into`` then receives only the typed values, by
        name, and the file gives the others (default: False).
      advanced: Whether all are advanced, since they matter little to this command (default: those that say so).
      reworded: The help of fields that have a special meaning in this command; one that ends in brackets says when it
        is required (default: the field's help).
    """
    cls = settings if isinstance(settings, type) else type(settings)
    defaults = {} if isinstance(settings, type) else settings.values()
    known = settings_of(cls)
    names = only or ([*into] if not isinstance(into, str) else known)
    names = [name for name in dict.fromkeys(names) if name not in without]
    chosen = [
        replace(own, help=reworded.get(own.name, own.help), advanced=advanced or own.advanced)
        for own in (known[name] for name in names)
    ]

    def read(values: dict[str, Any]) -> Mapping[str, Any]:
        typed = {name: value for name, value in values.items() if value is not None}
        if over_a_file:
            return {str(into): typed}
        made = cls.from_mapping(defaults | typed)
        if isinstance(into, str):
            return {into: made}
        return {taken: getattr(made, name) for name, taken in into.items()}

    return Taken(
        [_parameter(setting, defaults.get(setting.name, setting.default), over_a_file) for setting in chosen],
        read,
    )


def _parameter(setting: Setting, default: Any, over_a_file: bool) -> inspect.Parameter:
    if isinstance(default, tuple):
        default = ",".join(f"{part:g}" if isinstance(part, float) else part for part in default)
    if default is MISSING or default == "":
        default = None
    shown = None if over_a_file else default
    said = setting.unless_given
    if said is None and shown is None and setting.kinds != (bool,):
        said = f"default: {'none' if default is None else default}"
        said = "required, here or in --config" if setting.must_be_given else said
    (made,) = option(
        setting.name,
        _type(setting) if shown is not None else _type(setting) | None,
        setting.help if said is None or setting.help.endswith("]") else f"{setting.help} [{said}]",
        shown,
        metavar=setting.metavar,
        panel=setting.panel,
        names=[option_of(name) for name in (setting.option, *setting.long_names)],
        choices=setting.choices,
        advanced=setting.advanced,
    ).parameters
    return made


def _type(setting: Setting) -> Any:
    """Return the type of an option's value: one text for a comma-separated list, a list for any other."""
    if setting.is_list:
        return str if setting.by_commas else list[str]
    return setting.kinds[0] if len(setting.kinds) == 1 else str
