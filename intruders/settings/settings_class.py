"""Classes of settings: frozen dataclasses whose values are checked, and whose docstring has every setting."""

from __future__ import annotations

import difflib
import inspect
import sys
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import Field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from ..errors import SettingError
from .field import FromMapping, Setting, shown, told_at
from .yaml_text import read_text, read_yaml

_ATTRIBUTES, _EXAMPLES = "\n\nAttributes:\n", "\n\nExamples:"


def _line(each: Setting) -> str:
    default = "Required" if each.must_be_given else f"Default: {each.default_text}"
    return textwrap.fill(
        f"{each.name}: {each.meaning} {default}.",
        width=100,
        initial_indent="  ",
        subsequent_indent="    ",
        break_on_hyphens=False,
    )


Part = TypeVar("Part", bound="Settings")


class Settings(FromMapping):
    """The base of every class of settings: a frozen dataclass whose fields :data:`intruders.settings.setting` makes."""

    def __init_subclass__(cls) -> None:
        """Add the meaning of every setting to the attributes of the docstring; the class is not a dataclass yet."""
        super().__init_subclass__()
        made = {name: field for base in cls.__mro__[::-1] for name, field in _own_fields(base).items()}
        settings = [replace(field.metadata["setting"], name=name) for name, field in made.items()]
        if settings and cls.__doc__ is not None:  # there is none with python -OO
            text, examples, rest = inspect.cleandoc(cls.__doc__).partition(_EXAMPLES)
            summary, _, others = text.partition(_ATTRIBUTES)  # fields that are no settings
            lines = [*map(_line, settings), *([others] if others else [])]
            cls.__doc__ = summary + _ATTRIBUTES + "\n".join(lines) + examples + rest

    def __post_init__(self) -> None:
        for name, setting in settings_of(type(self)).items():
            object.__setattr__(self, name, setting.read(getattr(self, name)))

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "") -> Self:
        """Build the settings from values by name, short or long."""
        with told_at(where):
            known, shorter = settings_of(cls), short_names(cls, given)
            chosen = {name: known[name].with_numbers(value) for name, value in shorter.items()}
            needed = [name for name, setting in known.items() if setting.must_be_given]
            if missing := [name for name in needed if chosen.get(name) in (None, "", [], ())]:
                raise SettingError(f"{', '.join(missing)} must be given")
            return cls(**chosen)

    @classmethod
    def from_file(cls, path: str | Path, **over: Any) -> Self:
        """Read the settings of a YAML file; those in ``over`` replace the file's."""
        where = f"config {str(path)!r}"
        given = read_yaml(read_text(path, where), where)
        if not isinstance(given, Mapping):
            raise SettingError(f"{where} contains a {type(given).__name__}; expected settings by name")
        with told_at(where):
            chosen = short_names(cls, given)
        return cls.from_mapping(chosen | over, where)

    def part(self, cls: type[Part]) -> Part:
        """Return the settings that belong to a class which this one extends."""
        return cls(**{name: getattr(self, name) for name in settings_of(cls)})

    def values(self) -> dict[str, Any]:
        """Return every setting by name, with its Python value."""
        return {name: getattr(self, name) for name in settings_of(type(self))}

    def as_dict(self) -> dict[str, Any]:
        """Return every setting by name, as plain JSON types."""
        return {name: plain(value) for name, value in self.values().items()}

    def recorded(self) -> dict[str, Any]:
        """Return :meth:`as_dict` without settings that earlier records do not contain and that have their default."""
        changed, known = self.changed(), settings_of(type(self))
        return {
            name: value.recorded() if isinstance(value, Settings) else plain(value)
            for name, value in self.values().items()
            if known[name].new_in is None or name in changed
        }

    def changed(self) -> dict[str, Any]:
        """Return the settings that differ from their defaults, as plain JSON types: a later setting adds nothing."""
        known = settings_of(type(self))
        return {name: plain(value) for name, value in self.values().items() if value != known[name].default}


def _own_fields(cls: type) -> dict[str, Field[Any]]:
    # Those that are settings, of a class or of its bases, before and after it is made a dataclass.
    own = vars(cls).get("__dataclass_fields__", vars(cls))
    return {
        name: field for name, field in own.items() if isinstance(field, Field) and "setting" in field.metadata
    }


def settings_of(cls: Any) -> Mapping[str, Setting]:
    """Return the settings of a class by name, in the order of its fields, without its other fields."""
    return _settings_of(cls)


@cache
def _settings_of(cls: Any) -> Mapping[str, Setting]:
    settings = {
        field.name: field.metadata["setting"].of_field(field.name, _annotation(cls, field.name))
        for field in fields(cls)
        if "setting" in field.metadata
    }
    return types.MappingProxyType(settings)


def short_names(cls: type[Settings], given: Mapping[str, Any], beside: Sequence[str] = ()) -> dict[str, Any]:
    """Return the given values under the short names; ``beside`` are keys that are known besides the settings."""
    known = settings_of(cls)
    shorter = {long: name for name, setting in known.items() for long in setting.long_names}
    values: dict[str, Any] = {}
    for key, value in given.items():
        name = shorter.get(str(key), str(key)).replace("-", "_")
        name = shorter.get(name, name)
        if name in values:
            raise SettingError(
                f"{key!r} sets {name!r} a second time; they are the same setting, keep one of the two"
            )
        if name not in known:
            refuse_unknown([str(key)], [*known, *beside], also=shorter)
        values[name] = value
    return values


def refuse_unknown(given: Iterable[str], known: Sequence[str], also: Iterable[str] = ()) -> None:
    """Refuse the first key that is not known, by a SettingError with the nearest one of ``known`` and ``also``."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), [*known, *also], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise SettingError(f"{str(key)!r} is not a setting; {hint}")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """Return ``value`` as settings by name; None becomes an empty dict."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SettingError(f"{where} is {shown(value)}; expected settings by name (NAME: VALUE)")
    return {str(key): item for key, item in value.items()}


def plain(value: Any) -> Any:
    """Return a setting's value as plain JSON types."""
    if isinstance(value, Settings):
        return value.as_dict()
    return [plain(item) for item in value] if isinstance(value, tuple) else value


def _annotation(cls: Any, name: str) -> Any:
    # One field's type alone: other fields may name types that only a type checker imports.
    owner = next(base for base in cls.__mro__ if name in vars(base).get("__annotations__", {}))
    alone = types.SimpleNamespace(__annotations__={name: vars(owner)["__annotations__"][name]})
    return typing.get_type_hints(alone, vars(sys.modules[owner.__module__]))[name]
