"""A claim of the paper, and the finding that answers it: a verdict in words, with the numbers that it rests on."""

from __future__ import annotations

from collections.abc import Sequence
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


@dataclass(frozen=True)
class Claim:
    """A statement of the paper that a study can test; its file also holds ``analyse`` and ``charts``."""

    name: str  # of its file, and in a study's ``analyses``
    title: str
    question: str
    paper: str  # what the paper says, in one sentence
    meaning: str  # what it means for a user where it is shown; a part of a sentence
    needs: str  # what a study must hold to answer it
    limits: tuple[str, ...] = ()  # what the data cannot show, however many there are

    def missing(self, notes: Sequence[str] = ()) -> Finding:
        """The finding where the study holds nothing to answer from."""
        return Finding(
            self.name, self.question, self.paper, f"not shown: {self.needs}", None, notes=list(notes)
        )

    def finding(
        self,
        *,
        verdict: str,
        shown: bool | None,
        effects: Sequence[Effect],
        seeds: int,
        runs: int,
        tables: dict[str, pd.DataFrame],
        notes: Sequence[str],
    ) -> Finding:
        """The finding that the runs allow, with this claim's limits after the ``notes``."""
        return Finding(
            name=self.name,
            question=self.question,
            claim=self.paper,
            verdict=verdict,
            shown=shown,
            effects=list(effects),
            seeds=seeds,
            runs=runs,
            tables=tables,
            notes=[*notes, *self.limits],
        )
