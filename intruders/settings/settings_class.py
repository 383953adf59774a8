"""Classes of settings: frozen dataclasses whose values are checked, and whose docstring has every setting.

A setting is a field that says what it means, what it may be, and how it is given.
"""

import difflib
import inspect
import math
import os
import re
import textwrap
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, MISSING, Field, dataclass, field, fields, replace
from functools import cache
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, Self, TypeVar

from ..errors import SettingError
from .yaml_text import read_text, read_yaml

_ATTRIBUTES, _EXAMPLES = "\n\nAttributes:\n", "\n\nExamples:"
Given = ParamSpec("Given")


@dataclass(frozen=True)
class Setting:
    """The meaning, the type and the range of one setting."""

    # Without a default it must be given. A factory, since a dataclass takes a bare MISSING for a field without one.
    default: Any = field(default_factory=lambda: MISSING)
    help: str = ""  # its meaning, in a sentence; the command's help
    _: KW_ONLY
    # The range of a number, or of every item of a list. NaN and infinity are in no range.
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    choices: Sequence[str] = ()  # the texts that it may be
    expected: str | None = None  # the expected value in words, if type and range do not say it
    item: str = "value"  # the name of an item of a list
    may_be_empty: bool = True  # whether an empty list is a value
    by_commas: bool = False  # whether a text is a comma-separated list; otherwise it is a list of one item
    long_names: Sequence[str] = ()  # other names that are understood
    is_path: bool = False  # ``~`` at the start of a path is the user's home, as in a shell
    option: str = ""  # the name of its option, if that is not its own
    metavar: str | None = None  # the name of the value in the command's help; N for a number
    panel: str | None = None  # the heading of its group in the help
    advanced: bool | None = None  # whether ``--help-all`` alone shows its option; None: as its panel says
    unless_given: str | None = None  # the help's words for the default, if it does not say itself
    adapter_only: bool = False  # whether a full fine-tuning records it without using it
    changes_weights: bool = True  # whether the resulting weights depend on it
    in_id: str | None = None  # its spelling in the id of a run, if it is not the default
    # The first version whose records contain it. Records omit it while it has its default, so that records of
    # earlier versions stay equal.
    new_in: str | None = None
    # Filled in by of_field.
    name: str = ""
    kinds: tuple[type, ...] = ()  # the types of a value besides None; for a list, those of its items
    is_list: bool = False
    is_one_or_list: bool = False  # a list of texts, or one text that is not a list, such as "all-linear"
    is_optional: bool = False

    def of_field(self, name: str, annotation: Any) -> "Setting":
        """Return the setting with the name of its field and the types that the annotation allows."""
        is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        members = typing.get_args(annotation) if is_union else (annotation,)
        given = [member for member in members if member is not type(None)]
        lists = [typing.get_args(member)[0] for member in given if typing.get_origin(member) is tuple]
        kinds = [member for member in given if typing.get_origin(member) is not tuple]
        return replace(
            self,
            name=name,
            option=self.option or name,
            metavar=self.metavar or ("N" if {int, float} & {*lists, *kinds} else None),
            kinds=tuple(dict.fromkeys([*lists, *kinds])),
            is_list=bool(lists),
            is_one_or_list=bool(lists and kinds),
            is_optional=len(given) < len(members),
        )

    @property
    def must_be_given(self) -> bool:
        return self.default is MISSING

    @property
    def meaning(self) -> str:
        """Its help, with its choices if the help does not name them."""
        named = all(choice in self.help for choice in self.choices)
        return self.help if named else f"{self.help} One of {', '.join(self.choices)}."

    @property
    def default_text(self) -> str:
        if self.must_be_given:
            return "must be given"
        if self.default is None or self.default in ((), ""):
            return "none"
        if isinstance(self.default, Settings):
            return "those of its class"
        return ", ".join(map(str, self.default)) if isinstance(self.default, tuple) else str(self.default)

    def read(self, value: Any) -> Any:
        """Return ``value`` with the type of this setting; SettingError for a wrong type, and out of range."""
        if self.is_optional and (value is None or (value is False and issubclass(self.kinds[0], Settings))):
            return None
        # Several comma-separated names are a list; a pattern that contains a comma is one text.
        is_one = self.is_one_or_list and isinstance(value, str)
        if not self.is_list or (is_one and not re.fullmatch(r"[\w.-]+(,[\w.-]+)+", value)):
            return self._checked(self._typed(value, value), self.name)
        if isinstance(value, str):
            given = [part for part in value.split(",") if part] if self.by_commas else [value]
        elif isinstance(value, Iterable) and not isinstance(value, Mapping):
            given = list(value)
        else:
            given = [] if value is None else [value]
        if not given and not self.may_be_empty:
            raise SettingError(f"{self.name} is {shown(value)}; expected at least one {self.item}")
        items = tuple(self._checked(self._typed(item, value), self.item) for item in given)
        return items if self.by_commas or str not in self.kinds else tuple(dict.fromkeys(items))

    def _typed(self, value: Any, whole: Any) -> Any:
        # One of the kinds. A whole number is a number too; true and false are not. numpy's become Python's.
        if isinstance(value, Real) and not isinstance(value, int | float):
            value = int(value) if isinstance(value, Integral) else float(value)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_device = (type(value).__module__, type(value).__name__) == ("torch", "device")  # without torch
        for kind in self.kinds:
            if issubclass(kind, Settings) and (value in (None, True) or isinstance(value, Mapping)):
                with told_at(self.name):
                    return kind.from_mapping(value if isinstance(value, Mapping) else {})
            if kind is float and is_number:
                return float(value)
            if kind is str and (isinstance(value, Path) or is_device):
                return str(value)
            if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
                return value
        if self.is_list and self.kinds == (str,):
            an_item = f"{'an' if self.item[0] in 'aeiou' else 'a'} {self.item}"
            raise SettingError(f"{self.name}: {shown(value)} is not {an_item}; expected text")
        quoted = value if self.is_list and not isinstance(whole, str) else whole
        raise SettingError(f"{self.name} is {shown(quoted)}; expected {self._words()}")

    def _checked(self, value: Any, name: str) -> Any:
        if self.choices and isinstance(value, str) and value not in self.choices:
            near = difflib.get_close_matches(value, self.choices, n=1)
            said = f"{value!r} is not known; did you mean {near[0]!r}?" if near else f"is {value!r};"
            raise SettingError(f"{name} {said} expected one of {', '.join(self.choices)}")
        if isinstance(value, int | float) and not isinstance(value, bool):
            is_within = (
                (isinstance(value, int) or math.isfinite(value))
                and (self.least is None or value >= self.least)
                and (self.above is None or value > self.above)
                and (self.below is None or value < self.below)
                and (self.most is None or value <= self.most)
            )
            if not is_within:
                raise SettingError(f"{name} is {value}; expected {self.expected or self._range()}")
        return os.path.expanduser(value) if self.is_path and isinstance(value, str) else value

    def _range(self) -> str:
        parts = {
            "{:g} or more": self.least,
            "a number above {:g}" if self.above else "a positive number": self.above,
            "below {:g}": self.below,
            "at most {:g}": self.most,
        }
        told = [words.format(bound) for words, bound in parts.items() if bound is not None]
        return " and ".join(told) or "a number"

    def _words(self) -> str:
        if self.expected is not None:
            return self.expected
        if self.choices:
            return f"one of {', '.join(self.choices)}"
        kind = self.kinds[0]
        if kind is int:
            return "a whole number" if self.least is None else f"a whole number, {self._range()}"
        if issubclass(kind, Settings):
            return "settings by name (NAME: VALUE)"
        return {bool: "true or false", float: "a number", str: "text"}[kind]

    def with_numbers(self, value: Any) -> Any:
        """Return a value of a YAML file with its numbers: YAML reads 1e-3, without a point, as text."""
        if not {int, float} & set(self.kinds) or str in self.kinds:
            return value
        if self.is_list and self.by_commas and isinstance(value, str):
            items = [self._number(item) for item in value.split(",")]
            return value if any(isinstance(item, str) for item in items) else items
        if self.is_list and isinstance(value, list | tuple):
            return [self._number(item) for item in value]
        return self._number(value)

    def _number(self, value: Any) -> Any:
        try:
            number = float(value) if isinstance(value, str | float) else value
        except ValueError:
            return value
        return (
            int(number) if int in self.kinds and isinstance(number, float) and number.is_integer() else number
        )


def _as_field(build: Callable[Given, Setting]) -> Callable[Given, Any]:
    # The function takes the arguments of ``build``, for type checkers too.
    def make(*given: Given.args, **by_name: Given.kwargs) -> Any:
        built = build(*given, **by_name)
        return field(default=built.default, metadata={"setting": built})

    return make


# Makes a field of a class of settings: ``k: int = setting(10, "Number of leading vectors.", least=1)``.
setting = _as_field(Setting)
Part = TypeVar("Part", bound="Settings")


class Settings:
    """The base of every class of settings: a frozen dataclass whose fields :data:`intruders.settings.setting` makes."""

    def __init_subclass__(cls) -> None:
        """Add the meaning of every setting to the attributes of the docstring; the class is not a dataclass yet."""
        super().__init_subclass__()
        settings: dict[str, Setting] = {}
        for base in cls.__mro__[::-1]:
            # Its own fields, before and after it is made a dataclass.
            for name, each in vars(base).get("__dataclass_fields__", vars(base)).items():
                if isinstance(each, Field) and "setting" in each.metadata:
                    settings[name] = each.metadata["setting"]
        if settings and cls.__doc__ is not None:  # there is none with python -OO
            text, examples, rest = inspect.cleandoc(cls.__doc__).partition(_EXAMPLES)
            summary, _, others = text.partition(_ATTRIBUTES)  # fields that are no settings
            lines = [_line(name, setting) for name, setting in settings.items()]
            cls.__doc__ = (
                summary + _ATTRIBUTES + "\n".join([*lines, *filter(None, [others])]) + examples + rest
            )

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


def _line(name: str, setting: Setting) -> str:
    default = "Required" if setting.must_be_given else f"Default: {setting.default_text}"
    text = f"  {name}: {setting.meaning} {default}."
    return textwrap.fill(text, width=100, subsequent_indent="    ", break_on_hyphens=False)


def _settings_of(cls: Any) -> Mapping[str, Setting]:
    settings = {}
    for each in fields(cls):
        if "setting" in each.metadata:
            # A module may have all its annotations as texts.
            kind = typing.get_type_hints(cls)[each.name] if isinstance(each.type, str) else each.type
            settings[each.name] = each.metadata["setting"].of_field(each.name, kind)
    return types.MappingProxyType(settings)


# The settings of a class by name, in order, without its other fields. To mypy, no class is hashable.
settings_of: Callable[[Any], Mapping[str, Setting]] = cache(_settings_of)


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


def option_of(name: str) -> str:
    """Return the option of a name: ``--data-seed`` for ``data_seed``."""
    return f"--{name.replace('_', '-')}"


def shown(value: Any) -> str:
    """Return a value as errors quote it; a long one is cut."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextmanager
def told_at(where: str) -> Iterator[None]:
    """Put the place of the settings, such as their file, before errors about them."""
    try:
        yield
    except SettingError as error:
        if not where:
            raise
        raise SettingError(f"{where}: {error}") from error.__cause__
