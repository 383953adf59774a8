"""Several tuned models with weights, ``A@0.7+B@0.3``, or one adapter at another scale, ``A@0.5``."""

import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import SettingError
from ...system.files import user_path
from ..adapters.adapter import Adapter
from ..stored.checkpoint import Checkpoint
from ..stored.locate import HubOrigin

# A commit is no weight, even where all its digits are decimal.
_WEIGHTED = re.compile(
    r"(?P<source>.+?)(?:@(?P<weight>(?![0-9a-f]{40}$)[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))?"
)


Part = Checkpoint | Adapter


@dataclass(frozen=True)
class ModelSum:
    """W0 + sum_i weight_i (W_i - W0) over its parts."""

    source: str
    parts: list[tuple[Part, float]]

    @property
    def hub(self) -> tuple[HubOrigin, ...]:
        return tuple(dict.fromkeys(origin for part, _ in self.parts for origin in part.hub))

    @property
    def kind(self) -> str:
        kinds = {part.kind for part, _ in self.parts}
        return kinds.pop() if len(kinds) == 1 else "stack"


def parts_of(tuned: Part | ModelSum) -> list[tuple[Part, float]]:
    """Return the parts of the tuned side with their weights; a plain side is one part of weight 1."""
    return list(tuned.parts) if isinstance(tuned, ModelSum) else [(tuned, 1.0)]


def is_sum(text: str) -> bool:
    """Return whether a text is a sum or has a weight, and is not a path or a hub id with its revision."""
    match = _WEIGHTED.fullmatch(text)
    if "+" not in text and (match is None or match["weight"] is None):
        return False
    return not os.path.exists(user_path(text))  # which takes too long a name for no path


def split_sum(text: str) -> list[tuple[str, float]]:
    """``"A@0.7+B"`` -> ``[("A", 0.7), ("B", 1.0)]``, a last number being a weight; SettingError for another text."""
    parts = []
    for part in text.split("+"):
        match = _WEIGHTED.fullmatch(part)
        weight = float(match["weight"] or 1.0) if match else math.nan
        if match is None or not math.isfinite(weight) or match["source"].count("@") > 1:
            raise SettingError(
                f"'{text}' is not a sum of models; expected MODEL@WEIGHT+MODEL@WEIGHT, as in A@0.7+B@0.3"
            )
        parts.append((match["source"], weight))
    return parts


def each_part(text: str, change: Callable[[str], str]) -> str:
    """Return a source with ``change`` made of it, or of every model of a sum."""
    try:
        parts = split_sum(text) if is_sum(text) else None
    except SettingError:  # a name with a plus
        parts = None
    if parts is None:
        return change(text)
    return "+".join(
        change(part) if weight == 1 else f"{change(part)}@{repr(weight).removesuffix('.0')}"
        for part, weight in parts
    )
