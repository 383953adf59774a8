"""The answer to one question of the study: a verdict in words, with the numbers that it rests on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Effect:
    """An effect size with the ends of its 95 % confidence interval."""

    name: str  # what it measures, with its unit
    estimate: float
    low: float
    high: float

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Finding:
    """What the runs say on one of the paper's claims."""

    name: str  # of the analysis
    question: str
    claim: str  # the paper's, in one sentence
    verdict: str  # one line; begins with "not shown" where the data do not show the claim
    shown: bool | None  # None where the data cannot tell
    effects: list[Effect] = field(default_factory=list)  # the one of the verdict first
    seeds: int = 0
    runs: int = 0
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # by title; the figures draw these
    notes: list[str] = field(default_factory=list)  # what these data cannot show
