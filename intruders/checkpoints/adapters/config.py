"""The fields of an ``adapter_config.json`` that decide what an adapter's tensors mean, types checked."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from ...errors import CheckpointError

_T = TypeVar("_T")


class AdapterConfig:
    """A config whose values are checked when they are asked for, under the name of where it came from."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source

    @property
    def peft_type(self) -> str:
        value = self.values.get("peft_type")
        text = getattr(value, "value", value)  # an enumeration in memory, a string in a file
        if not isinstance(text, str):
            raise self.wrong("peft_type", "the name of a PEFT method")
        return text.upper()

    @property
    def base_source(self) -> str | None:
        value = self.values.get("base_model_name_or_path")
        return value if isinstance(value, str) and value else None

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return bool(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(key, "a number")
        return value

    def names(self, key: str) -> list[str]:
        value = self.values.get(key) or []
        if isinstance(value, str):
            return [value]
        if not isinstance(value, list | tuple | set) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, "a list of names")
        return sorted(value)

    def pattern_value(self, key: str, module: str, default: float) -> float:
        """The value that ``rank_pattern`` or ``alpha_pattern`` gives a module, matched as PEFT does."""
        patterns = self.values.get(key) or {}
        if not isinstance(patterns, Mapping):
            raise self.wrong(key, "an object of module names and numbers")
        for pattern, value in patterns.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                raise self.wrong(key, "an object of module names and numbers")
            if _matches(str(pattern), module, self):
                return value
        return default

    def wrong(self, key: str, expected: str) -> CheckpointError:
        given = str(self.values.get(key))[:60]
        return CheckpointError(
            f"the adapter config of '{self.source}' has {key} = {given!r}; expected {expected}"
        )


def _matches(pattern: str, module: str, config: AdapterConfig) -> bool:
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error as error:
        raise config.wrong(
            "rank_pattern or alpha_pattern", f"patterns that re can compile ({error})"
        ) from None
