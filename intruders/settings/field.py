"""A setting: a field of a dataclass that says what it means, what it may be, and how it is given."""

from __future__ import annotations

import difflib
import math
import os
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, MISSING, dataclass, field, replace
from numbers import Integral, Real
from pathlib import Path
from typing import Any, ParamSpec, Self

from ..errors import SettingError

Given = ParamSpec("Given")


class FromMapping:
    """The type of settings that are the value of another setting."""

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any], where: str = "") -> Self:
        """Build the settings from their values by name."""
        raise NotImplementedError


@dataclass(frozen=True)
class Setting:
    """The meaning, the type and the range of one setting.

    Args:
      default: Its value if none is given; a setting without a default must be given.
      help: Its meaning, in a sentence; the command's help.
      least, above, below, most: The range of a number, or of every item of a list. NaN and infinity are in no range.
      choices: The texts that it may be.
      expected: The expected value in words, if type and range do not say it.
      item: The name of an item of a list.
      may_be_empty: Whether an empty list is a value.
      by_commas: Whether a text is a comma-separated list; otherwise a text is a list of one item.
      long_names: Other names that are understood.
      is_path: Whether it is a path; ``~`` at its start is the user's home, as in a shell.
      option: The name of its option, if that is not its own.
      metavar, panel: The name of the value in the command's help, and the heading of its group.
      advanced: Whether ``--help-all`` alone shows its option; None leaves that to its panel.
      unless_given: The help's words for the default, if the default itself does not say it.
      adapter_only: Whether a full fine-tuning records it without using it.
      changes_weights: Whether the resulting weights depend on it.
      in_id: Its spelling in the id of a run, if it is not the default.
      new_in: The first version whose records contain it. Records omit it while it has its default, so that records
        of earlier versions stay equal.
      name, kinds, is_list, is_one_or_list, is_optional: The name and type of its field, filled in by
        :meth:`of_field`.
    """

    # A factory, since a dataclass takes a bare MISSING for a field without a default.
    default: Any = field(default_factory=lambda: MISSING)
    help: str = ""
    _: KW_ONLY
    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None
    choices: Sequence[str] = ()
    expected: str | None = None
    item: str = "value"
    may_be_empty: bool = True
    by_commas: bool = False
    long_names: Sequence[str] = ()
    is_path: bool = False
    option: str | None = None
    metavar: str | None = None
    panel: str | None = None
    advanced: bool | None = None
    unless_given: str | None = None
    adapter_only: bool = False
    changes_weights: bool = True
    in_id: str | None = None
    new_in: str | None = None
    name: str = ""
    kinds: tuple[type, ...] = ()  # the types of a value besides None; for a list, those of its items
    is_list: bool = False
    is_one_or_list: bool = False  # a list of texts, or one text that is not a list, such as "all-linear"
    is_optional: bool = False

    def of_field(self, name: str, annotation: Any) -> Setting:
        """Return the setting with the name of its field and the types that the annotation allows."""
        is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
        members = typing.get_args(annotation) if is_union else (annotation,)
        given = [member for member in members if member is not type(None)]
        lists = [typing.get_args(member)[0] for member in given if typing.get_origin(member) is tuple]
        kinds = [member for member in given if typing.get_origin(member) is not tuple]
        return replace(
            self,
            name=name,
            kinds=tuple(dict.fromkeys([*lists, *kinds])),
            is_list=bool(lists),
            is_one_or_list=bool(lists and kinds),
            is_optional=len(given) < len(members),
        )

    @property
    def option_name(self) -> str:
        """The name that :func:`option_of` spells as this setting's option."""
        return self.option or self.name

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
        """Its default in words."""
        if self.must_be_given:
            return "must be given"
        if self.default is None or self.default in ((), ""):
            return "none"
        if isinstance(self.default, FromMapping):
            return "those of its class"
        if isinstance(self.default, tuple):
            return ", ".join(map(str, self.default))
        return str(self.default)

    def read(self, value: Any) -> Any:
        """Return ``value`` with the type of this setting; SettingError for a wrong type, and out of range."""
        if self.is_optional and (
            value is None or (value is False and issubclass(self.kinds[0], FromMapping))
        ):
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
            if issubclass(kind, FromMapping) and (value in (None, True) or isinstance(value, Mapping)):
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
        if isinstance(value, int | float) and not isinstance(value, bool) and not self._is_within(value):
            raise SettingError(f"{name} is {value}; expected {self.expected or self._range()}")
        return os.path.expanduser(value) if self.is_path and isinstance(value, str) else value

    def _is_within(self, value: float) -> bool:
        return (
            (isinstance(value, int) or math.isfinite(value))
            and (self.least is None or value >= self.least)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
            and (self.most is None or value <= self.most)
        )

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
        if issubclass(kind, FromMapping):
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
        if not isinstance(value, str | float):
            return value
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if int in self.kinds and number.is_integer() else number


def option_of(name: str) -> str:
    """Return the option of a name: ``--data-seed`` for ``data_seed``."""
    return f"--{name.replace('_', '-')}"


def _as_field(build: Callable[Given, Setting]) -> Callable[Given, Any]:
    # The function takes the arguments of ``build``, for type checkers too.
    def make(*given: Given.args, **by_name: Given.kwargs) -> Any:
        built = build(*given, **by_name)
        return field(default=built.default, metadata={"setting": built})

    return make


# Makes a field of a class of settings: ``k: int = setting(10, "Number of leading vectors.", least=1)``.
setting = _as_field(Setting)


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
