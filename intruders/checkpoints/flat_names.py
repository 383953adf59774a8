"""kohya's module names, paths with underscores for dots, matched to the base's own."""

from __future__ import annotations

import re
from dataclasses import replace

from .adapters.update import WeightUpdate

# The part of a pipeline that a name is for stands before it, and is not in the part's own checkpoint.
_PREFIX = re.compile(r"^(?:lora|lycoris)_(?:(?:unet|te\d?|transformer|text_encoder(?:_\d)?|prior)_)?")


def unflattened(updates: list[WeightUpdate], names: list[str]) -> list[WeightUpdate]:
    """The updates under the base's names: of the same path, or the only one whose path ends alike."""
    by_path: dict[str, str] = {}
    by_ending: dict[str, set[str]] = {}
    for name in names:
        if name.endswith(".weight"):
            parts = name.removesuffix(".weight").split(".")
            by_path["_".join(parts)] = name
            for start in range(len(parts)):
                by_ending.setdefault("_".join(parts[start:]), set()).add(name)
    result = []
    for update in updates:
        flat = _PREFIX.sub("", update.name.removesuffix(".weight"))
        ending = by_ending.get(flat, set())
        found = by_path.get(flat) or (next(iter(ending)) if len(ending) == 1 else update.name)
        result.append(replace(update, name=found))
    return result
