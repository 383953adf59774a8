"""One effect of a study with what a reader must know to weigh it, and the verdict that follows."""

import math
from dataclasses import dataclass

from intruders.measures.intervals import student_quantile

from ..claims.shared.claim import CONTRADICTED, REPORTED, SUPPORTED, UNDECIDED
from ..claims.shared.statistics import normal_quantile

_LEVEL = 0.95
_BOUNDED = ("rank correlation", "AUC")  # whose intervals are over runs, and not Student's over seeds


@dataclass(frozen=True)
class StudyEffect:
    """An effect size over seeds with its 95 % confidence interval, as a study printed it."""

    claim: str  # name of the analysis
    where: str  # model and task
    effect: str  # the comparison, such as method A minus method B
    unit: str  # effects of one unit share an axis
    seeds: int
    estimate: float
    low: float
    high: float
    expected: int  # the sign that the claim expects; 0 where it expects none
    tests: int  # effects that were tested together, or from which this one was picked
    equal_score: str  # yes, no or part
    equal_effort: str  # yes, no or part: whether each method was tuned over as many learning rates
    study: str
    page: str  # of the documentation, empty where there is none
    data: str  # kept, or not kept
    decided: str = ""  # the verdict of the study's own analysis, which knows the p values of all its effects

    @property
    def has_interval(self) -> bool:
        return self.seeds > 1 and math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def verdict(self) -> str:
        """Supported or contradicted where the interval, corrected for the number of tests, excludes zero.

        One seed decides nothing. The correction is Bonferroni's, or Holm's where the study's analysis decided.
        """
        if not self.expected:
            return REPORTED
        if self.decided:
            return self.decided
        if not self.has_interval:
            return UNDECIDED
        low, high = self._corrected()
        if self.expected < 0:
            low, high = -high, -low
        if low > 0:
            return SUPPORTED
        return CONTRADICTED if high < 0 else UNDECIDED

    def towards_the_claim(self, value: float) -> float:
        """Return a value with its sign turned so that the claim expects it above zero."""
        return -value if self.expected < 0 else value

    def _corrected(self) -> tuple[float, float]:
        """Return the ends at the level that gives 95 % for all tests together."""
        if self.tests == 1:
            return self.low, self.high
        level = 1 - (1 - _LEVEL) / self.tests
        if self.unit.startswith(_BOUNDED):
            wider = normal_quantile(level) / normal_quantile(_LEVEL)
        else:
            wider = student_quantile(level, self.seeds - 1) / student_quantile(_LEVEL, self.seeds - 1)
        return (
            self.estimate - wider * (self.estimate - self.low),
            self.estimate + wider * (self.high - self.estimate),
        )
