"""The share of the updates' norm that a change leaves."""

from __future__ import annotations

import math
from collections.abc import Iterable


def norm_left(before: Iterable[float], after: Iterable[float]) -> float:
    """Return ``sqrt(sum ||W' - W0||_F^2 / sum ||W - W0||_F^2)`` from the norms by matrix; 1 without an update."""
    whole = math.fsum(norm**2 for norm in before)
    return math.sqrt(math.fsum(norm**2 for norm in after) / whole) if whole > 0 else 1.0
