"""An estimate with its interval; a saved audit is read with it, so that it does not load torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Between:
    """An estimate with its 95 % interval."""

    estimate: float
    low: float
    high: float
