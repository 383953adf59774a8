"""A claim of the paper, and the finding that answers it: a verdict in words, with the numbers that it rests on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ...evaluation.intervals import Interval

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


SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN = "supported", "contradicted", "undecided", "not run"
DECISIONS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN)


@dataclass(frozen=True)
class Answer:
    """One effect that a claim speaks of, on one base and task, with its 95 % confidence interval as measured."""

    where: str  # base and task
    what: str  # the effect, with its unit
    estimate: float
    low: float
    high: float
    expected: int  # the sign that the claim expects, 1 or -1
    seeds: int
    needed: str | int = ""  # what it would take to decide; a number is of seeds, at the spread of these

    @property
    def decision(self) -> str:
        """supported or contradicted where the interval lies on the claimed or on the other side of zero."""
        low, high = (self.low, self.high) if self.expected > 0 else (-self.high, -self.low)
        if low > 0:
            return SUPPORTED
        return CONTRADICTED if high < 0 else UNDECIDED

    @property
    def lacking(self) -> str:
        """What it would take to decide, in words; empty where it is decided."""
        if self.decision != UNDECIDED:
            return ""
        return self.needed if isinstance(self.needed, str) else _missing([self.needed])

    @property
    def interval(self) -> Interval:
        return Interval(self.estimate, self.low, self.high)

    @property
    def has_interval(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


@dataclass(frozen=True)
class Finding:
    """What the runs say on one of the paper's claims."""

    name: str  # of the analysis
    question: str
    claim: str  # the paper's, in one sentence
    verdict: str  # one line; begins with Supported, Contradicted, Undecided or Not run
    shown: bool | None  # supported; None where the data cannot tell
    effects: list[Effect] = field(default_factory=list)  # the one of the verdict first
    seeds: int = 0
    runs: int = 0
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # by title; the figures draw these
    notes: list[str] = field(default_factory=list)  # what these data cannot show
    answers: list[Answer] = field(default_factory=list)  # of every effect that the claim speaks of

    @property
    def decision(self) -> str:
        """The verdict in a word: the claim holds where every effect that it speaks of has its sign."""
        if not self.answers:
            return {True: SUPPORTED, False: CONTRADICTED, None: NOT_RUN}[self.shown]
        found = {answer.decision for answer in self.answers}
        return next(word for word in (CONTRADICTED, UNDECIDED, SUPPORTED) if word in found)


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
            self.name, self.question, self.paper, f"Not run: {self.needs}", None, notes=list(notes)
        )

    def finding(
        self,
        *,
        verdict: str,
        answers: Sequence[Answer],
        effects: Sequence[Effect],
        seeds: int,
        runs: int,
        tables: dict[str, pd.DataFrame],
        notes: Sequence[str],
    ) -> Finding:
        """The finding that the runs allow: ``verdict`` after what the ``answers`` come to, this claim's limits last."""
        return Finding(
            name=self.name,
            question=self.question,
            claim=self.paper,
            verdict=_opening(answers) + verdict,
            shown=_shown(answers),
            effects=list(effects),
            seeds=seeds,
            runs=runs,
            tables=tables,
            notes=[*notes, *self.limits],
            answers=list(answers),
        )


def _shown(answers: Sequence[Answer]) -> bool | None:
    """True where all are supported. None where those that are not have no interval, as with one seed."""
    others = [answer for answer in answers if answer.decision != SUPPORTED]
    if not others:
        return True
    return False if any(answer.has_interval for answer in others) else None


def _opening(answers: Sequence[Answer]) -> str:
    found = [answer.decision for answer in answers]
    for word in (CONTRADICTED, UNDECIDED, SUPPORTED):
        if word in found:
            part = "" if set(found) == {word} else " in part"
            lacking = _together([one.needed for one in answers if one.decision == UNDECIDED and one.needed])
            missing = f" (missing: {'; '.join(lacking)})" if lacking else ""
            return f"{word.capitalize()}{part}{missing}: "
    return ""


def _together(needed: Sequence[str | int]) -> list[str]:
    """What is missing, each thing once; numbers of seeds as the range of them."""
    seeds = [one for one in needed if isinstance(one, int)]
    others = list(dict.fromkeys(one for one in needed if isinstance(one, str)))
    return [_missing(seeds), *others] if seeds else others


def _missing(seeds: Sequence[int]) -> str:
    """What as many seeds as several effects need comes to, in words."""
    ends = sorted({min(seeds), max(seeds)})
    return f"about {' to '.join(map(str, ends))} seeds at this spread"
