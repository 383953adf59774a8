"""Several tuned models with weights, ``A@0.7+B@0.3``, or one adapter at another scale, ``A@0.5``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import SettingError
from .adapters.adapter import Adapter
from .checkpoint import Checkpoint

_WEIGHTED = re.compile(r"(?P<source>.+?)(?:@(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?))?")


@dataclass(frozen=True)
class ModelSum:
    """W0 + sum_i weight_i (W_i - W0) over its parts."""

    source: str
    parts: list[tuple[Checkpoint | Adapter, float]]

    @property
    def kind(self) -> str:
        kinds = {part.kind for part, _ in self.parts}
        return kinds.pop() if len(kinds) == 1 else "stack"


def split_sum(text: str) -> list[tuple[str, float]]:
    """``"A@0.7+B"`` -> ``[("A", 0.7), ("B", 1.0)]``.

    Raises:
      SettingError: a part is empty, or its weight is no finite number.
    """
    parts = []
    for part in text.split("+"):
        match = _WEIGHTED.fullmatch(part)
        weight = float(match["weight"] or 1.0) if match else math.nan
        if match is None or not math.isfinite(weight) or "@" in match["source"]:
            raise SettingError(
                f"'{text}' is not a sum of models; expected MODEL@WEIGHT+MODEL@WEIGHT, as in A@0.7+B@0.3"
            )
        parts.append((match["source"], weight))
    return parts
