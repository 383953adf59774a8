"""Settings as values: fields of a dataclass that say what they mean, what they may be, and how they are given.

A setting is a field made by :func:`setting`; its type is its annotation. A class of settings is a frozen dataclass
that derives from :class:`Settings`. What it is built from is checked by its constructor, with one text of error,
whether a person's code, a YAML file or an option of a command gave it.
"""

from __future__ import annotations

import difflib
import re
import sys
import types
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from .errors import SettingError, missing_extra


def setting(
    default: Any = MISSING,
    help: str = "",
    *,
    least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    expected: str | None = None,
    item: str = "value",
    may_be_empty: bool = True,
    by_commas: bool = False,
    long_names: Sequence[str] = (),
    option: str | None = None,
    metavar: str | None = None,
    panel: str | None = None,
    unless_given: str | None = None,
    adapter_only: bool = False,
    changes_weights: bool = True,
    in_id: str | None = None,
    new_in: str | None = None,
) -> Any:
    """A field of a class of settings.

    Args:
      default: its value where none is given; a setting without one must be given.
      help: what it does, in a sentence; the command's help.
      least, above, below, most: the range of a number, or of every item of a list.
      choices: the texts that it may be.
      expected: what is expected, in words, where type and range do not say it.
      item: what an item of a list is called.
      may_be_empty: whether a list of nothing is a value.
      by_commas: whether a text is a comma-separated list; of another setting it is a list of one.
      long_names: other names that are understood.
      option: the name of its option, where it is not its own.
      metavar, panel: what the command's help calls its value, and under which heading it stands.
      unless_given: what the help says of a command without it, where the default does not say it.
      adapter_only: whether a full fine-tuning carries it along without using it.
      changes_weights: whether the weights that come out depend on it.
      in_id: how the id of a run spells it, where it is not the default.
      new_in: the version from which on records hold it. Where it is the default they do not, so that those of
        earlier versions stay equal.
    """
    given = {key: value for key, value in locals().items() if key != "default"}
    return field(default=default, metadata={"setting": given})


@dataclass(frozen=True)
class Setting:
    """One setting: its name, its type, and what :func:`setting` said of it."""

    name: str
    kinds: tuple[type, ...]  # what it may be besides None; for a list, what its items may be
    is_list: bool
    is_one_or_list: bool  # a text that is no list, such as "all-linear", beside a list of texts
    is_optional: bool
    default: Any
    help: str
    least: float | None
    above: float | None
    below: float | None
    most: float | None
    choices: Sequence[str]
    expected: str | None
    item: str
    may_be_empty: bool
    by_commas: bool
    long_names: Sequence[str]
    option: str | None
    metavar: str | None
    panel: str | None
    unless_given: str | None
    adapter_only: bool
    changes_weights: bool
    in_id: str | None
    new_in: str | None

    @property
    def must_be_given(self) -> bool:
        return self.default is MISSING

    def read(self, value: Any) -> Any:
        """``value`` as this setting holds it. SettingError for a wrong type, or what is out of range."""
        if self.is_optional and (value is None or (value is False and issubclass(self.kinds[0], Settings))):
            return None
        if not self.is_list or (self.is_one_or_list and isinstance(value, str) and not _are_names(value)):
            return self._checked(self._typed(value, value), self.name)
        if isinstance(value, str):
            given = [part for part in value.split(",") if part] if self.by_commas else [value]
        elif isinstance(value, Iterable) and not isinstance(value, Mapping):
            given = list(value)
        else:
            given = [] if value is None else [value]
        if not given and not self.may_be_empty:
            raise SettingError(f"{self.name} is {shown(value)}; expected at least one {self.item}")
        found = tuple(self._checked(self._typed(one, value), self.item) for one in given)
        return found if self.by_commas or str not in self.kinds else tuple(dict.fromkeys(found))

    def _typed(self, value: Any, whole: Any) -> Any:
        """``value`` as one of the kinds. A whole number is a number; true and false are none."""
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        for kind in self.kinds:
            if issubclass(kind, Settings) and (value in (None, True) or isinstance(value, Mapping)):
                with told_at(self.name):
                    return kind.from_mapping(value if isinstance(value, Mapping) else {})
            if kind is float and is_number:
                return float(value)
            if kind is str and isinstance(value, Path):
                return str(value)
            if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
                return value
        if self.is_list and self.kinds == (str,):
            raise SettingError(f"{self.name}: {shown(value)} is not {_a(self.item)}; expected text")
        quoted = value if self.is_list and not isinstance(whole, str) else whole
        raise SettingError(f"{self.name} is {shown(quoted)}; expected {self._words()}")

    def _checked(self, value: Any, name: str) -> Any:
        if self.choices and isinstance(value, str) and value not in self.choices:
            near = difflib.get_close_matches(value, self.choices, n=1)
            start = f"{name} {value!r} is not known; did you mean {near[0]!r}?" if near else None
            raise SettingError(
                f"{start or f'{name} is {value!r};'} expected one of {', '.join(self.choices)}"
            )
        if isinstance(value, int | float) and not isinstance(value, bool) and not self._is_within(value):
            raise SettingError(f"{name} is {value}; expected {self.expected or self._range()}")
        return value

    def _is_within(self, value: float) -> bool:
        return (
            value == value
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

    def _range(self) -> str:
        parts = []
        if self.least is not None:
            parts.append(f"{self.least:g} or more")
        if self.above is not None:
            parts.append(f"a number above {self.above:g}" if self.above else "a positive number")
        if self.below is not None and self.below < float("inf"):
            parts.append(f"below {self.below:g}")
        if self.most is not None:
            parts.append(f"at most {self.most:g}")
        return " and ".join(parts) or "a number"

    def _words(self) -> str:
        """What is expected, of whom gave something of another type."""
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


Part = TypeVar("Part", bound="Settings")


class Settings:
    """The base of every class of settings: a frozen dataclass of fields that :func:`setting` makes."""

    def __post_init__(self) -> None:
        for one in settings_of(type(self)).values():
            object.__setattr__(self, one.name, one.read(getattr(self, one.name)))

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "") -> Self:
        """Settings by name, short or long. SettingError for an unknown, doubled, missing or wrong one."""
        with told_at(where):
            known = settings_of(cls)
            chosen = {name: _written(known[name], value) for name, value in short_names(cls, given).items()}
            missing = [
                name
                for name, one in known.items()
                if one.must_be_given and chosen.get(name) in (None, "", [], ())
            ]
            if missing:
                raise SettingError(f"{', '.join(missing)} must be given")
            return cls(**chosen)

    @classmethod
    def from_file(cls, path: str | Path, **over: Any) -> Self:
        """The settings of a YAML file, with those in ``over`` put over them."""
        where = f"config {str(path)!r}"
        given = read_yaml(read_text(path, where), where)
        if not isinstance(given, Mapping):
            raise SettingError(f"{where} contains a {type(given).__name__}; expected settings by name")
        with told_at(where):
            chosen = short_names(cls, given)
        return cls.from_mapping(chosen | over, where)

    def part(self, cls: type[Part]) -> Part:
        """What of it is of a class that it extends."""
        return cls(**{name: getattr(self, name) for name in settings_of(cls)})

    def values(self) -> dict[str, Any]:
        """Every setting by name, as it is held."""
        return {name: getattr(self, name) for name in settings_of(type(self))}

    def as_dict(self) -> dict[str, Any]:
        """Every setting as plain JSON types."""
        return {name: plain(getattr(self, name)) for name in settings_of(type(self))}

    def recorded(self) -> dict[str, Any]:
        """As :meth:`as_dict`, without what records of earlier versions do not hold and is the default here."""
        changed, known = self.changed(), settings_of(type(self))
        return {
            name: value.recorded() if isinstance(value := getattr(self, name), Settings) else plain(value)
            for name, one in known.items()
            if one.new_in is None or name in changed
        }

    def changed(self) -> dict[str, Any]:
        """What differs from the defaults, as plain JSON types: a setting that comes later changes nothing here."""
        return {
            name: plain(getattr(self, name))
            for name, one in settings_of(type(self)).items()
            if getattr(self, name) != one.default
        }


def settings_of(cls: Any) -> Mapping[str, Setting]:
    """The settings of a class by name, in the order of its fields. Fields of another kind are left out."""
    return _settings_of(cls)


@cache
def _settings_of(cls: Any) -> Mapping[str, Setting]:
    found = {}
    for one in fields(cls):
        if "setting" in one.metadata:
            kinds = _kinds(_annotation(cls, one.name))
            found[one.name] = Setting(one.name, *kinds, default=one.default, **one.metadata["setting"])
    return types.MappingProxyType(found)


def short_names(cls: type[Settings], given: Mapping[str, Any], beside: Sequence[str] = ()) -> dict[str, Any]:
    """What is given, under the short names; ``beside`` are keys that are understood besides the settings.

    SettingError for a key that is not known, with the nearest one that is, and for one that is there twice.
    """
    known = settings_of(cls)
    shorter = {long: name for name, one in known.items() for long in one.long_names}
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = shorter.get(str(key), str(key)).replace("-", "_")
        name = shorter.get(name, name)
        if name in found:
            raise SettingError(
                f"{key!r} sets {name!r} a second time; they are the same setting, keep one of the two"
            )
        if name not in known:
            refuse_unknown([str(key)], [*known, *beside], also=shorter)
        found[name] = value
    return found


def refuse_unknown(given: Iterable[str], known: Sequence[str], also: Iterable[str] = ()) -> None:
    """SettingError for the first key that is not known, with the nearest one that is, or of ``also``."""
    for key in given:
        if key not in known:
            near = difflib.get_close_matches(str(key), [*known, *also], n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
            raise SettingError(f"{str(key)!r} is not a setting; {hint}")


def mapping(value: Any, where: str) -> dict[str, Any]:
    """``value`` as settings by name; nothing at all is no settings."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise SettingError(f"{where} is {shown(value)}; expected settings by name (NAME: VALUE)")
    return {str(key): one for key, one in value.items()}


def read_text(path: str | Path, where: str) -> str:
    """The text of a file of settings."""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SettingError(f"{where} cannot be read: {reason}") from error


def read_yaml(text: str, where: str) -> Any:
    """What a YAML text says. SettingError for what is no YAML, and for a key that is given twice."""
    try:
        import yaml
    except ImportError as error:
        raise missing_extra("a file of settings", "pyyaml", "train") from error

    class Loader(yaml.SafeLoader):
        """YAML's own lets the last of two equal keys win, and the first be lost in silence."""

        def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            for key in keys:
                if keys.count(key) > 1 and key != "<<":
                    line = node.start_mark.line + 1
                    raise SettingError(
                        f"{where}: {key!r} is given twice in what starts at line {line}; keep one"
                    )
            return dict(super().construct_mapping(node, deep=deep))

    try:
        return yaml.load(text, Loader=Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise SettingError(f"{where} is not YAML: {' '.join(str(error).split())}") from error


def plain(value: Any) -> Any:
    """A setting's value as JSON gives it back."""
    if isinstance(value, Settings):
        return value.as_dict()
    return [plain(one) for one in value] if isinstance(value, tuple) else value


def shown(value: Any) -> str:
    """A value as errors quote it, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@contextmanager
def told_at(where: str) -> Iterator[None]:
    """Errors of settings, with where the settings stand before them."""
    try:
        yield
    except SettingError as error:
        if not where:
            raise
        raise SettingError(f"{where}: {error}") from error.__cause__


def _written(one: Setting, value: Any) -> Any:
    """A number as a file writes it: YAML reads 1e-3, without a point, as text, and 1e3 is a whole number too."""
    if not {int, float} & set(one.kinds) or str in one.kinds:
        return value
    if one.is_list and one.by_commas and isinstance(value, str):
        parts = [_number(one, part) for part in value.split(",")]
        return value if any(isinstance(part, str) for part in parts) else parts
    if one.is_list and isinstance(value, list | tuple):
        return [_number(one, part) for part in value]
    return _number(one, value)


def _number(one: Setting, value: Any) -> Any:
    """A text, or a whole number with a point, as the number that it is; anything else as it is."""
    if isinstance(value, str | float):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if int in one.kinds and number.is_integer() else number
    return value


def _annotation(cls: Any, name: str) -> Any:
    """A field's type, read where it was written: other fields may name types that only a type checker imports."""
    owner = next(base for base in cls.__mro__ if name in vars(base).get("__annotations__", {}))
    alone = types.SimpleNamespace(__annotations__={name: vars(owner)["__annotations__"][name]})
    return typing.get_type_hints(alone, vars(sys.modules[owner.__module__]))[name]


def _kinds(annotation: Any) -> tuple[tuple[type, ...], bool, bool, bool]:
    """The types of a value, or of a list's items; whether it is a list, or one text beside it; whether None is one."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    parts = (
        [part for part in typing.get_args(annotation) if part is not type(None)] if is_union else [annotation]
    )
    is_optional = is_union and len(parts) < len(typing.get_args(annotation))
    lists = [typing.get_args(part)[0] for part in parts if typing.get_origin(part) is tuple]
    kinds = [part for part in parts if typing.get_origin(part) is not tuple]
    return tuple(dict.fromkeys([*lists, *kinds])), bool(lists), bool(lists and kinds), is_optional


def _are_names(value: str) -> bool:
    """Whether a text is several comma-separated names, and no pattern with a comma in it."""
    return re.fullmatch(r"[\w.-]+(,[\w.-]+)+", value) is not None


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"
