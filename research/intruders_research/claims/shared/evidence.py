"""The evidence on one claim: effects with their intervals, from which verdict, answers and seeds follow."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from intruders.measures.intervals import Interval
from intruders.studies.results import Results

from .claim import NOT_RUN, SEPARATOR, SUPPORTED, UNDECIDED, Claim, Effect, Finding, Where, opening_of
from .statistics import MOST_SEEDS, holm, seeds_needed, spread_of
from .words import said, seeds_said


@dataclass
class _Sentence:
    """The verdict's sentence about one base and task, with its numbers of seeds."""

    parts: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def of(self, on: Where) -> str:
        numbers = sorted({number for number in self.seeds if number})
        seeds = "" if not numbers else f"{numbers[0]} to " * (len(numbers) > 1) + seeds_said(numbers[-1])
        return f"{on.label}: {', '.join(self.parts)}" + (f" ({seeds})" if seeds else "")


class Evidence:
    """Effects as the runs give them, one after another, and notes on what was left out."""

    def __init__(self, claim: Claim, results: Results) -> None:
        """Start without effects; the study may name, by a part of its name, the one effect that decides."""
        self._claim, self._primary = claim, results.primary.get(claim.name, "")
        self.notes: list[str] = []
        self._effects: list[Effect] = []
        self._sentences: dict[Where, _Sentence] = {}

    def is_primary(self, what: str) -> bool:
        """Return whether the effect ``what`` is the one that was named in advance."""
        return bool(self._primary) and self._primary in what

    def add(
        self,
        on: Where,
        what: str,
        interval: Interval,
        expected: int | None = 1,
        digits: int = 2,
        *,
        phrase: str | None = None,
        seeds: int | None = None,
        over: str = "",
        lacking: str | None = None,
    ) -> None:
        """Add an effect.

        Args:
          on: the base, the task and the runs that it was measured on.
          what: it measures, with its unit.
          interval: over seeds, unless ``seeds`` tells their number and ``over`` or the claim's page what it is over.
          expected: the sign that the claim expects, which makes it an answer; None for an effect that decides nothing.
          digits: decimals that it is printed with.
          phrase: how the verdict puts it, if not by ``what``; empty for not at all.
          seeds: their number, where the interval is not over seeds.
          over: what the interval is over, where it says nothing of other seeds.
          lacking: what would decide it, where more seeds would not.
        """
        number = (interval.n or 0) if seeds is None else seeds
        effect = Effect(
            on=on, what=what, interval=interval, expected=expected, seeds=number, over=over, digits=digits
        )
        self._effects.append(replace(effect, needed=_needed(effect) if lacking is None else lacking))
        text = f"{what} {said(interval, digits)}" if phrase is None else phrase
        if text:
            self.say(on, text, number)

    def add_if_named(
        self,
        on: Where,
        what: str,
        interval: Interval,
        *,
        phrase: str | None = None,
        over: str = "",
    ) -> None:
        """Add an effect of which the claim says nothing, unless the study names it in advance: above zero then."""
        expected, said = (1, phrase) if self.is_primary(what) else (None, "")
        self.add(on, what, interval, expected, 3, phrase=said, over=over)

    def say(self, on: Where, text: str, *seeds: int) -> None:
        """Add a text about ``on`` to the verdict, with the numbers of seeds that it rests on."""
        sentence = self._sentences.setdefault(on, _Sentence())
        sentence.parts.append(text)
        sentence.seeds += seeds

    @property
    def answers(self) -> list[Effect]:
        """The effects that the claim speaks of, each with its p value among all that are tested together (Holm)."""
        deciding = self._deciding()
        answers = [effect for effect in self._spoken_of() if effect.what in deciding]
        tested = [at for at, answer in enumerate(answers) if _is_tested(answer)]
        adjusted = holm([answers[at].interval.p or 0.0 for at in tested])
        for at, p in zip(tested, adjusted, strict=True):
            answers[at] = replace(answers[at], tests=len(tested), adjusted=p)
        return [_with_reason(answer) for answer in answers]

    def _spoken_of(self) -> list[Effect]:
        return [effect for effect in self._effects if effect.expected is not None]

    def _deciding(self) -> set[str]:
        """Return the names of the effects that decide: all that the claim speaks of, or the one named in advance.

        That one is in full the name given, or the only one on its base and task with the name as a part. None if there
        are several.
        """
        names = {effect.what for effect in self._spoken_of()}
        if not self._primary:
            return names
        if self._primary in names:
            return {self._primary}
        named = {(effect.on, effect.what) for effect in self._spoken_of() if self._primary in effect.what}
        is_one = len(named) == len({on for on, _ in named})
        return {what for _, what in named} if is_one else set()

    def _misnamed(self) -> str:
        """Return why no effect decides, as the opening of a verdict: none or several have the name given in advance."""
        names = list(dict.fromkeys(effect.what for effect in self._spoken_of()))
        several = [name for name in names if self._primary in name]
        number = "several effects are" if several else "no effect that the claim speaks of is"
        known = "; ".join(map(repr, several or names)) or "none"
        return (
            f"{UNDECIDED.capitalize()} ({number} named {self._primary!r}, as primary says; give the name of one of: "
            f"{known}): "
        )

    def finding(self, runs: Iterable[object], tables: dict[str, pd.DataFrame]) -> Finding:
        """Return the finding on the claim, whose limits come last among the notes.

        Args:
          runs: ids of all runs that were compared.
          tables: what the figures draw, by title.
        """
        claim, answers = self._claim, self.answers
        sentences = [sentence.of(on) for on, sentence in self._sentences.items()]
        is_misnamed = bool(self._primary and self._effects and not answers)
        is_run = bool(answers) or is_misnamed
        opening = opening_of(answers) if answers else f"{NOT_RUN.capitalize()}: "
        opening = self._misnamed() if is_misnamed else opening
        parts = sentences if is_run else [claim.needs, *sentences]
        notes = list(self.notes)
        if self._primary and answers:
            notes.append(f"the effect named in advance decides alone: {self._primary}")
        deciding = {answer.what for answer in answers}
        others = [
            replace(effect, expected=None)
            for effect in self._effects
            if effect.expected is None or effect.what not in deciding
        ]
        return Finding(
            name=claim.name,
            question=claim.question,
            claim=claim.paper,
            verdict=opening + SEPARATOR.join(parts),
            shown=_shown(answers),
            effects=[effect for effect in (*answers, *others) if not math.isnan(effect.estimate)],
            seeds=max((effect.seeds for effect in self._effects), default=0),
            runs=len(set(runs)) if self._effects else 0,
            tables=tables if self._effects else {},
            notes=list(dict.fromkeys([*notes, *(claim.limits if self._effects else ())])),
            answers=answers,
            is_misnamed=is_misnamed,
            sentences=parts,
        )


def _is_tested(answer: Effect) -> bool:
    return answer.seeds > 1 and answer.over_seeds.has_ends and answer.interval.p is not None


def _with_reason(answer: Effect) -> Effect:
    """Add what is lacking to an effect whose own interval excludes zero and that is still undecided."""
    if not answer.interval.is_clear or answer.decision != UNDECIDED:
        return answer
    if answer.seeds < 2:
        return replace(answer, needed="more than one seed")
    if answer.touches_zero:
        return replace(answer, needed="an interval that does not touch zero")
    return replace(
        answer, needed=f"an interval that is clear among the {answer.tests} of this claim, too (Holm)"
    )


def _shown(answers: Sequence[Effect]) -> bool | None:
    """Return True if all are supported; None if those that are not have no interval over seeds, as with one seed."""
    if not answers:
        return None
    others = [answer for answer in answers if answer.decision != SUPPORTED]
    if not others:
        return True
    return False if any(answer.seeds > 1 and answer.over_seeds.has_ends for answer in others) else None


def _needed(effect: Effect) -> str | int:
    """Return the number of seeds that would decide the sign of a mean at the same effect and spread."""
    interval = effect.over_seeds
    if effect.seeds < 2:
        return "more than one seed"
    if not interval.has_ends:
        return "a spread over seeds"
    needed = seeds_needed(interval.estimate, spread_of(interval, effect.seeds))
    if needed is None:
        most = max(abs(interval.low), abs(interval.high))
        return f"more than {MOST_SEEDS} seeds, since the effect is within {most:.2g} of zero"
    # The formula asks for a power of 80 %, which an interval that just holds zero may have already.
    return max(needed, effect.seeds + 1)
