"""Options of a command made from a class of settings: one per field, with its help, its type and its default."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, replace
from types import MappingProxyType
from typing import Annotated, Any

import typer

from ..settings import Setting, Settings, option_of, settings_of
from .completion import one_of

Command = Callable[..., None]

_AS_ITS_FIELD_SAYS: Mapping[str, str] = MappingProxyType({})


def of(
    settings: type[Settings] | Settings,
    into: str,
    *,
    only: Sequence[str] = (),
    first: Sequence[str] = (),
    without: Collection[str] = (),
    over_a_file: bool = False,
    reworded: Mapping[str, str] = _AS_ITS_FIELD_SAYS,
) -> Callable[[Command], Command]:
    """Put one option per field in the place of the parameter ``into``, which receives the settings.

    Args:
      settings: The class, or settings of it whose values are the defaults.
      into: The parameter of the command.
      only: Names of the fields, in the order of their options (default: all).
      first: Names of the fields that come before the rest (default: none).
      without: Names of fields that have no option (default: none).
      over_a_file: Whether the command takes a file of settings too. ``into`` then receives only the typed values, by
        name, and the file gives the others (default: False).
      reworded: The help of fields that have a special meaning in this command (default: the field's help).
    """
    cls = settings if isinstance(settings, type) else type(settings)
    defaults = {} if isinstance(settings, type) else settings.values()
    known = settings_of(cls)
    names = [name for name in dict.fromkeys([*first, *(only or known)]) if name not in without]
    chosen = [replace(known[name], help=reworded.get(name, known[name].help)) for name in names]

    def attach(command: Command) -> Command:
        @functools.wraps(command)
        def with_settings(**values: Any) -> None:
            typed = {
                setting.name: value for setting in chosen if (value := values.pop(setting.name)) is not None
            }
            command(**values, **{into: typed if over_a_file else cls.from_mapping(defaults | typed)})

        parameters: list[inspect.Parameter] = []
        for parameter in inspect.signature(command, eval_str=True).parameters.values():
            if parameter.name == into:
                parameters += [
                    _option(setting, defaults.get(setting.name, setting.default), over_a_file)
                    for setting in chosen
                ]
            else:
                parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
        # Typer reads the signature and the types.
        with_settings.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        with_settings.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return with_settings

    return attach


def _option(setting: Setting, default: Any, over_a_file: bool) -> inspect.Parameter:
    is_switch = setting.kinds == (bool,)
    names = [option_of(name) for name in (setting.option_name, *setting.long_names)]
    if isinstance(default, tuple):
        default = ",".join(f"{part:g}" if isinstance(part, float) else part for part in default)
    if default is MISSING or default == "":
        default = None
    shown = None if over_a_file else default
    said = setting.unless_given
    if said is None and shown is None and not is_switch:
        said = f"default: {default}" if default is not None else None
        said = "required, here or in --config" if setting.must_be_given else said
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=shown,
        annotation=Annotated[
            _type(setting) if shown is not None else _type(setting) | None,
            typer.Option(
                *names,
                metavar=setting.metavar,
                help=setting.help if said is None else f"{setting.help} [{said}]",
                rich_help_panel=setting.panel,
                autocompletion=one_of(setting.choices) if setting.choices else None,
            ),
        ],
    )


def _type(setting: Setting) -> Any:
    """Return the type of an option's value: one text for a comma-separated list, a list for any other."""
    if setting.is_list:
        return str if setting.by_commas else list[str]
    return setting.kinds[0] if len(setting.kinds) == 1 else str
