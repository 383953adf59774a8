"""The fields of an ``adapter_config.json`` that decide what an adapter's tensors mean, types checked."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, TypeGuard

from ...errors import CheckpointError, first_line
from ..stored.locate import DEMO_MODELS, split_revision

# Some seconds' worth. Patterns come from strangers, and Python's re backtracks without a limit.
_MOST_STEPS = 1e9


def fields_of_base(source: str) -> dict[str, str]:
    """Return how an adapter's config names a base: PEFT has the revision of a hub id in a field of its own."""
    repository, revision = split_revision(source) or (source, None)
    if revision is None or os.path.exists(source):
        return {"base_model_name_or_path": source}
    return {"base_model_name_or_path": repository, "revision": revision}


class AdapterConfig:
    """A config whose values are checked when they are asked for, under the name of where it came from."""

    def __init__(self, values: Mapping[str, Any], source: str) -> None:
        self.values, self.source = values, source
        self.steps = 0.0  # that matching patterns may have taken so far, at worst

    @property
    def peft_type(self) -> str:
        value = self.values.get("peft_type")
        text = getattr(value, "value", value)  # an enumeration in memory, a string in a file
        if not isinstance(text, str) or not text.isprintable():
            raise self.wrong("peft_type", "the name of a PEFT method")
        return text.upper()

    @property
    def base_source(self) -> str | None:
        """The base as the adapter names it, with the revision that PEFT notes beside a hub id."""
        value, revision = self.values.get("base_model_name_or_path"), self.values.get("revision")
        if not isinstance(value, str) or not value or not value.isprintable():
            return None
        if not isinstance(revision, str) or value in DEMO_MODELS or os.path.exists(value):
            return value
        with_revision = f"{value}@{revision}"
        return with_revision if split_revision(with_revision) == (value, revision) else value

    def flag(self, key: str) -> bool:
        value = self.values.get(key)
        if value is not None and not isinstance(value, bool):
            raise self.wrong(key, "true or false")
        return bool(value)

    def number(self, key: str, default: float | None = None) -> float:
        value = self.values.get(key, default)
        if not _is_number(value):
            raise self.wrong(key, "a number")
        return value

    def names(self, key: str) -> list[str]:
        value = self.values.get(key) or []
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple | set) or not all(
            isinstance(item, str) and item.isprintable() for item in names
        ):
            raise self.wrong(key, "a list of names")
        return sorted(names)

    def pattern_value(self, key: str, module: str, default: float, *, anywhere: bool = False) -> float:
        """The value that a setting such as ``rank_pattern`` gives a module by its full path, matched as PEFT does.

        With ``anywhere`` a pattern may match within the path, as OSF has it, instead of its end.
        """
        patterns = self.values.get(key) or {}
        if not isinstance(patterns, Mapping):
            raise self.wrong(key, "an object of module names and numbers")
        for pattern, value in patterns.items():
            if not _is_number(value):
                raise self.wrong(key, "an object of module names and numbers")
            whole = rf".*?({pattern})" if anywhere else rf"(.*\.)?({pattern})$"
            if self._matches(whole, str(pattern), module, key):
                return value
        return default

    def is_target(self, module: str, pattern: str) -> bool:
        """Return whether ``target_modules``, given as a pattern for complete paths, matches a module."""
        return self._matches(f"({pattern})$", pattern, module, "target_modules")

    def _matches(self, whole: str, pattern: str, module: str, key: str) -> bool:
        self.steps += steps_at_worst(pattern, module)
        if self.steps > _MOST_STEPS:
            raise CheckpointError(
                f"the adapter config of '{self.source}' has the pattern {pattern[:60]!r}, which could keep "
                "the matching of module names busy forever; write the modules' names instead"
            )
        try:
            return re.match(whole, module) is not None
        except (re.error, RecursionError, OverflowError) as error:
            raise self.wrong(key, f"patterns that re compiles ({first_line(error)})") from None

    def wrong(self, key: str, expected: str) -> CheckpointError:
        given = str(self.values.get(key))[:60]
        return CheckpointError(
            f"the adapter config of '{self.source}' has {key} = {given!r}; expected {expected}"
        )


def _is_number(value: object) -> TypeGuard[int | float]:
    """Return whether a value can be computed with as a float: JSON has integers that are larger than any."""
    # Not by math.isfinite, which raises OverflowError for these.
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= sys.float_info.max


def steps_at_worst(pattern: str, name: str) -> float:
    """A bound on what matching may cost: length^(repeats + 1) * 2^(optional items); no bound for repeated groups."""
    bare = re.sub(r"\[[^\]]*\]", "x", re.sub(r"\\.", "x", pattern, flags=re.DOTALL))
    if re.search(r"\)[*+{]", bare):
        return math.inf
    repeats = len(re.findall(r"[*+{]", bare))
    optional = len(re.findall(r"(?<![*+}(])\?", bare))
    if repeats > 20 or optional > 60:
        return math.inf
    return float(max(len(name), 1)) ** (repeats + 1) * 2.0**optional
