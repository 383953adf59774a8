"""Dataclasses as plain JSON values, and back by the types of their fields."""

import dataclasses
import math
import os
import types
import typing
from collections.abc import Mapping
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any


def plain(value: Any, *, short: bool = False) -> Any:
    """Return a value for JSON: None for NaN and infinity; with ``short``, what has an ``as_dict`` writes itself.

    A None in a field with the metadata ``if_any`` is left out.
    """
    if short and hasattr(value, "as_dict"):
        return value.as_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: plain(item, short=short)
            for field in dataclasses.fields(value)
            if (item := getattr(value, field.name)) is not None or "if_any" not in field.metadata
        }
    if isinstance(value, Mapping):
        return {name: plain(item, short=short) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, short=short) for item in value]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # an array or a number of numpy, which need not be loaded here
        value = value.tolist()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_plain(kind: Any, value: Any) -> Any:
    """Return the value of a type from what :func:`plain` made of it; None in the place of a number is NaN.

    A dataclass takes the keys that are its fields; others are left. One with a ``from_dict`` of its own reads itself.
    KeyError for a field that is missing and has no default; TypeError or ValueError for a value of another type.

    >>> from_plain(dict[str, tuple[float, ...]], {"a": [1, None]})
    {'a': (1.0, nan)}
    """
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or (value is None and type(None) in inner):
        return value
    if origin in (typing.Union, types.UnionType):
        return from_plain(next(item for item in inner if item is not type(None)), value)
    if origin is typing.Literal:
        return from_plain(type(inner[0]), value)
    if kind is float:
        return math.nan if value is None else _of(value, int | float) + 0.0
    if dataclasses.is_dataclass(kind):
        return _dataclass_from(kind, value)
    if origin is None:
        return kind(value) if issubclass(kind, Enum | Path) else _of(value, kind)
    if issubclass(origin, Mapping):
        return {name: from_plain(inner[1], item) for name, item in _of(value, Mapping).items()}
    if origin is tuple and inner[-1] is not Ellipsis:
        return tuple(from_plain(item, part) for item, part in zip(inner, _of(value, list), strict=True))
    items = [from_plain(inner[0], item) for item in _of(value, list | tuple)]
    return tuple(items) if origin is tuple else items


def _dataclass_from(kind: Any, record: Any) -> Any:
    if hasattr(kind, "from_dict"):
        return kind.from_dict(record)
    values = {}
    for field, hint in _hints(kind):
        if field.name in _of(record, Mapping):
            values[field.name] = from_plain(hint, record[field.name])
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise KeyError(field.name)
    return kind(**values)


@cache
def _hints(kind: Any) -> list[tuple[dataclasses.Field[Any], Any]]:
    hints = typing.get_type_hints(kind)
    return [(field, hints[field.name]) for field in dataclasses.fields(kind) if field.init]


def _of(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):  # True is no count
        raise TypeError(f"{str(value)[:40]!r} is not {kind}")
    return value
