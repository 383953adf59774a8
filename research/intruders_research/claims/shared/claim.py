"""A claim of the paper, and the finding that answers it: a verdict in words, with the effects that it rests on."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from intruders.measures.intervals import Interval

if TYPE_CHECKING:
    import pandas as pd

SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN = "supported", "contradicted", "undecided", "not run"
REPORTED = "reported"  # an effect of which the claim expects no sign
DECISIONS = (SUPPORTED, CONTRADICTED, UNDECIDED, NOT_RUN)
# The share of studies without any effect in which the verdicts of a claim may decide for one.
ALPHA = 0.05


@dataclass(frozen=True)
class Where:
    """The base, the task and the part of their runs that an effect was measured on."""

    base: str
    task: str = ""
    part: str = ""  # such as a rate, a rule for alpha, or a corpus

    @property
    def label(self) -> str:
        on = f"{self.base} on {self.task}" if self.task else self.base
        return f"{on}, {self.part}" if self.part else on

    @property
    def columns(self) -> dict[str, Any]:
        """The base and the task as cells of a table."""
        return {"base": self.base, "task": self.task}

    def narrowed(self, part: str) -> "Where":
        """Return the part that ``part`` names, or all of it if that is empty."""
        return replace(self, part=", ".join(filter(None, (self.part, part))))


@dataclass(frozen=True)
class Effect:
    """An effect size with its 95 % confidence interval, and what it says on a claim that expects its sign."""

    on: Where
    what: str  # it measures, with its unit
    interval: Interval
    expected: int | None = None  # the sign that the claim expects, 1 or -1; None where it expects none
    seeds: int = 0
    over: str = ""  # what the interval is over, where it tells nothing of other seeds, such as documents
    digits: int = 2  # that it is printed with: an end that is zero to these touches zero
    tests: int = 1  # effects that the claim tests together
    adjusted: float | None = None  # the p value of the interval among those; None where it has none
    needed: str | int = ""  # what it would take to decide; a number is of seeds, at the spread of these

    @property
    def where(self) -> str:
        return self.on.label

    @property
    def name(self) -> str:
        return f"{self.where}: {self.measured}" if self.where else self.measured

    @property
    def measured(self) -> str:
        """What was measured, and over what, where that is not seeds."""
        return f"{self.what} over {self.over}" if self.over else self.what

    @property
    def side(self) -> str:
        """The side of zero that the claim expects, in words; empty where it expects none."""
        return {1: "above 0", -1: "below 0", None: ""}[self.expected]

    @property
    def estimate(self) -> float:
        return self.interval.estimate

    @property
    def low(self) -> float:
        return self.interval.low

    @property
    def high(self) -> float:
        return self.interval.high

    @property
    def over_seeds(self) -> Interval:
        """The interval, with open ends if it says nothing about other seeds."""
        return self.interval.opened() if self.over else self.interval

    @property
    def touches_zero(self) -> bool:
        """True if an end of the interval is printed as zero."""
        return any(round(end, self.digits) == 0 for end in (self.low, self.high))

    @property
    def decision(self) -> str:
        """The decision: supported or contradicted if the interval is on the claimed or on the other side of zero.

        Undecided with one seed, with an interval that touches zero, and where the effect is not significant after
        Holm's correction for the effects that were tested together.
        """
        interval = self.over_seeds
        if self.expected is None or self.seeds < 2 or not interval.is_clear or self.touches_zero:
            return UNDECIDED
        if self.adjusted is not None and self.adjusted >= ALPHA:
            return UNDECIDED
        return SUPPORTED if interval.is_above_zero == (self.expected > 0) else CONTRADICTED

    @property
    def verdict(self) -> str:
        """The decision, or that the effect is reported alone."""
        return REPORTED if self.expected is None else self.decision

    @property
    def lacking(self) -> str:
        """The missing evidence, in words; empty if the effect is decided or the claim expects nothing of it."""
        if self.verdict != UNDECIDED:
            return ""
        if isinstance(self.needed, str):
            return self.needed
        wide = f"; the interval is {self.high - self.low:.2g} wide" if self.is_wide else ""
        return _missing([self.needed]) + wide

    @property
    def is_wide(self) -> bool:
        """True if the interval contains an effect as large as the estimate on either side of zero."""
        size = abs(self.estimate)
        return self.interval.has_ends and self.low < -size and size < self.high


# Between the sentences of a verdict.
SEPARATOR = "; "


@dataclass(frozen=True)
class Finding:
    """The result of the runs on one of the paper's claims."""

    name: str  # of the analysis
    question: str
    claim: str  # the paper's, in one sentence
    verdict: str  # one line; begins with Supported, Contradicted, Undecided or Not run
    shown: bool | None  # supported; None where the data cannot tell
    effects: list[Effect] = field(default_factory=list)  # that were measured, the one of the verdict first
    seeds: int = 0
    runs: int = 0
    tables: "dict[str, pd.DataFrame]" = field(default_factory=dict)  # by title; the figures draw these
    notes: list[str] = field(default_factory=list)  # what these data cannot show
    # Every effect that the claim speaks of, also unmeasured.
    answers: list[Effect] = field(default_factory=list)
    is_misnamed: bool = False  # a study names the effect that decides, and no one effect here has that name
    # Of the verdict, after its opening: one a base and task, in the verdict with semicolons between them.
    sentences: list[str] = field(default_factory=list)

    @property
    def opening(self) -> str:
        """The verdict before its sentences: the decision, and what is missing."""
        return self.verdict.removesuffix(SEPARATOR.join(self.sentences))

    @property
    def decision(self) -> str:
        """The verdict in a word: supported if every effect of the claim has the expected sign."""
        if not self.answers:
            if self.is_misnamed:
                return UNDECIDED
            return {True: SUPPORTED, False: CONTRADICTED, None: NOT_RUN}[self.shown]
        decisions = {answer.decision for answer in self.answers}
        return next(word for word in (CONTRADICTED, UNDECIDED, SUPPORTED) if word in decisions)


@dataclass(frozen=True)
class Claim:
    """A statement of the paper that a study can test; its file also contains ``analyse`` and ``charts``."""

    name: str  # of its file, and in a study's ``analyses``
    title: str
    question: str
    paper: str  # what the paper says, in one sentence
    meaning: str  # what it means for a user where it is shown; a part of a sentence
    needs: str  # what a study must hold to answer it
    limits: tuple[str, ...] = ()  # what the data cannot show, however many there are


def opening_of(answers: Sequence[Effect]) -> str:
    """Return the start of a verdict: the decision, and what is missing for undecided answers."""
    decisions = {answer.decision for answer in answers}
    word = next(word for word in (CONTRADICTED, UNDECIDED, SUPPORTED) if word in decisions)
    part = "" if decisions == {word} else " in part"
    lacking = _together(
        [answer.needed for answer in answers if answer.decision == UNDECIDED and answer.needed]
    )
    missing = f" (missing: {'; '.join(lacking)})" if lacking else ""
    return f"{word.capitalize()}{part}{missing}: "


def _together(needed: Sequence[str | int]) -> list[str]:
    """List what is missing, each thing once; numbers of seeds as their range."""
    seeds = [number for number in needed if isinstance(number, int)]
    others = list(dict.fromkeys(text for text in needed if isinstance(text, str)))
    return [_missing(seeds), *others] if seeds else others


def _missing(seeds: Sequence[int]) -> str:
    """Say how many seeds several effects need, as one range."""
    ends = sorted({min(seeds), max(seeds)})
    return f"about {' to '.join(map(str, ends))} seeds at this spread"
