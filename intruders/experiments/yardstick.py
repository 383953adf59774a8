"""What a remedy is measured by: base and tuned model, and the interpolation between them, on one share of the data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ..measures.intervals import RESAMPLES, Interval, expanded_percentiles, paired_difference
from ..measures.losses import DocumentLosses, Outcome, mean_loss
from .experiment_settings import ALPHAS, INTERPOLATE
from .point import Point

if TYPE_CHECKING:  # they load torch
    from ..mitigation.remedies.remedy import Remedy
    from ..mitigation.remedies.shares import Interpolate

Numbers = npt.NDArray[np.float64]


_RESAMPLES_AT_ONCE = 1000
_ROUNDING = 1e-9


def loss_at_task_loss(losses: Numbers, task_losses: Numbers, wanted: Numbers) -> Numbers:
    """Return the least loss (...) on the curve among its points whose task loss is at most ``wanted`` (...).

    Between the points that were measured, (..., points), the curve is a straight line. Where it only falls, that is its
    loss at just that task loss. Where no point has so low a task loss, it is the loss at the point with the lowest.

    >>> losses, task_losses = np.array([2.0, 3.0, 5.0]), np.array([4.0, 1.0, 0.0])
    >>> [float(loss_at_task_loss(losses, task_losses, np.array(at))) for at in (4.0, 2.5, 0.5, -1.0)]
    [2.0, 2.5, 4.0, 5.0]
    """
    at = np.asarray(wanted)[..., None]
    reached = task_losses <= at
    best = np.where(reached, losses, np.inf).min(axis=-1)
    first, second = task_losses[..., :-1], task_losses[..., 1:]
    crosses = reached[..., :-1] != reached[..., 1:]
    share = np.where(crosses, at - first, 0.0) / np.where(crosses, second - first, 1.0)
    between = losses[..., :-1] + share * (losses[..., 1:] - losses[..., :-1])
    best = np.minimum(best, np.where(crosses, between, np.inf).min(axis=-1))
    lowest = np.take_along_axis(losses, task_losses.argmin(axis=-1)[..., None], axis=-1)[..., 0]
    return np.where(np.isinf(best), lowest, best)


def _ratio(losses: DocumentLosses, drawn: npt.NDArray[np.uint16]) -> Numbers:
    ratios: Sequence[Numbers] = [
        (rows @ losses.sums) / (rows @ losses.tokens)
        for start in range(0, len(drawn), _RESAMPLES_AT_ONCE)
        for rows in [drawn[start : start + _RESAMPLES_AT_ONCE].astype(np.float64)]
    ]
    return np.concatenate(ratios)


@dataclass(frozen=True)
class FourParts:
    """The scores of a remedy on four kinds of measures, 0 to 1; None if a kind has no measure.

    Measures are corpora, tasks besides the first, which is the target, and tasks of lm-evaluation-harness. Scores s are
    losses with the other sign, and the harness's own.
    """

    healing: float | None  # of those that tuning clearly damaged: (s' - s_tuned) / (s_base - s_tuned)
    preservation: float | None  # of those that it clearly improved: (s' - s_base) / (s_tuned - s_base)
    non_damage: float | None  # of the others, the share that is not clearly worse than the base
    target: float | None  # (s' - s_base) / (s_tuned - s_base) of the target

    def as_dict(self) -> dict[str, float | None]:
        return {**self.__dict__, "harmonic_mean": self.harmonic_mean}

    @property
    def harmonic_mean(self) -> float:
        parts = [value for value in self.__dict__.values() if value is not None]  # of two measures or more
        return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / value for value in parts)


@dataclass(frozen=True)
class Items:
    """Counts of single examples by how their answers changed."""

    broken: int  # right in the base, wrong in the tuned model
    right_again: int  # of those
    gained: int  # wrong in the base, right in the tuned model
    still_right: int  # of those
    new_failures: int  # right in both, wrong now


class Yardstick:
    """The metrics of evaluations on one share of the data, with paired intervals over documents and examples."""

    def __init__(
        self,
        base: Outcome,
        curve: Sequence[Outcome],
        *,
        target: str,
        weights: Mapping[str, list[float]],
        norms: Sequence[float] = ALPHAS,
        level: float = 0.95,
        seed: int = 0,
        share: str = "report",
    ) -> None:
        """Take a ``curve`` of interpolation at ``ALPHAS``, with the updates' ``norms``; the tuned model is last."""
        self.base, self.tuned, self.curve = base, curve[-1], list(curve)
        self.target, self.level, self.share = target, level, share
        self.weights, self.norms, self._seed = weights, list(norms), seed
        # Counts of every document and example per resample: once each in the first row, at random in the others. A loss
        # has one number per row: that of the data themselves, then one per resample.
        generator = np.random.default_rng(seed)

        def drawn(losses: DocumentLosses) -> npt.NDArray[np.uint16]:
            count = len(losses.sums)
            random = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
            return np.concatenate([np.ones((1, count)), random]).astype(np.uint16)

        self._of_documents = {name: [drawn(part) for part in parts] for name, parts in base.corpora.items()}
        self._of_examples = {name: drawn(task.losses) for name, task in base.tasks.items()}
        # Of the smallest corpus, and of that or the target, whichever is fewer.
        self._documents = min(part.shape[1] for parts in self._of_documents.values() for part in parts)
        self._both = min(self._documents, self._examples(target))
        # (rows, points)
        self._losses = np.stack([self._loss(outcome) for outcome in curve], axis=-1)
        self._task_losses = np.stack([self._task(outcome) for outcome in curve], axis=-1)

    def point(
        self,
        remedy: "Remedy",
        outcome: Outcome,
        norm: float,
        output: float | None,
        control: str | None = None,
        of: "Remedy | None" = None,
    ) -> Point:
        """Return the point of a remedy, or of a ``control`` of the remedy ``of``.

        ``norm`` and ``output`` are the norm of all updates and their output energy, 1 being the tuned model's.
        """
        is_curve = remedy.name == INTERPOLATE
        return Point(
            remedy=(of or remedy).name,
            settings=remedy.recorded(),
            strength=(of or remedy).strength_value,
            control=control,
            share=self.share,
            norm=norm,
            output=output,
            losses={name: mean_loss(parts, self.weights[name]) for name, parts in outcome.corpora.items()},
            task_losses={name: task.losses.mean for name, task in outcome.tasks.items()},
            accuracies={name: task.accuracy for name, task in outcome.tasks.items()},
            harness={name: sum(scores) / len(scores) for name, scores in outcome.harness.items()},
            loss=self.loss(outcome),
            task_loss=self._interval(self._task(outcome), self._examples(self.target)),
            healed=self.healed(outcome),
            kept=self.kept(outcome),
            gain=None if is_curve else self.gain(outcome),
            gain_at_norm=None if is_curve else self.gain_at_norm(outcome, norm),
        )

    def points_of_curve(self, along: "Sequence[Interpolate]") -> list[Point]:
        """Return the points of interpolation; a share alpha of D has the output energy alpha^2."""
        points = zip(along, self.curve, self.norms, strict=True)
        return [self.point(remedy, outcome, norm, remedy.alpha**2) for remedy, outcome, norm in points]

    def loss(self, outcome: Outcome) -> Interval:
        """Return the loss on text, the mean over the corpora."""
        return self._interval(self._loss(outcome), self._documents)

    def healed(self, outcome: Outcome) -> Interval | None:
        """Return ``(L_tuned - L') / (L_tuned - L_base)``; None if tuning did not clearly raise the loss."""
        tuned = self._loss(self.tuned)
        return self._share(tuned - self._loss(outcome), tuned - self._loss(self.base), self._documents)

    def kept(self, outcome: Outcome) -> Interval | None:
        """Return ``(S' - S_base) / (S_tuned - S_base)`` of the target; None if tuning did not clearly lower it."""
        base = self._task(self.base)
        examples = self._examples(self.target)
        return self._share(base - self._task(outcome), base - self._task(self.tuned), examples)

    def gain(self, outcome: Outcome) -> Interval:
        """Return the loss of interpolation at the same task loss minus the outcome's loss, in nats per token."""
        return self._interval(self._gain(outcome), self._both)

    def gain_at_norm(self, outcome: Outcome, norm: float) -> Interval | None:
        """Return interpolation's loss at the same norm of all updates (tuned model: 1) minus the outcome's loss."""
        if not self.norms[0] - _ROUNDING <= norm <= self.norms[-1] + _ROUNDING:
            return None  # no interpolation has that norm
        # A straight line between two points is the same mixture of them in every row.
        mixture = [np.interp(norm, self.norms, point) for point in np.eye(len(self.norms))]
        return self._interval(self._losses @ mixture - self._loss(outcome), self._documents)

    def margin(self, outcome: Outcome, control: Outcome) -> Interval:
        """Return the gain at equal task loss minus a control's gain."""
        return self._interval(self._gain(outcome) - self._gain(control), self._both)

    def tuning_cost(self) -> Interval:
        """Return the forgetting, ``L_tuned - L_base``."""
        return self._interval(self._loss(self.tuned) - self._loss(self.base), self._documents)

    def four_parts(self, outcome: Outcome) -> FourParts | None:
        """Return the four parts; None for a single corpus and a single task."""
        if len(self._by_tuning) < 2:
            return None
        shares: dict[str, list[float]] = {"healing": [], "preservation": [], "non_damage": []}
        for rise, rest in zip(self._by_tuning, self._above_base(outcome), strict=True):
            if not rise.is_clear:
                shares["non_damage"].append(0.0 if rest.is_clear and rest.estimate > 0 else 1.0)
                continue
            left = min(1.0, max(0.0, rest.estimate / rise.estimate))
            if rise.estimate > 0:
                shares["healing"].append(1 - left)
            else:
                shares["preservation"].append(left)
        kept = self.kept(outcome)
        means = {name: float(np.mean(values)) if values else None for name, values in shares.items()}
        return FourParts(**means, target=None if kept is None else min(1.0, max(0.0, kept.estimate)))

    def items(self, outcome: Outcome) -> Items | None:
        """Count examples of all tasks by what became of them; None if answers were not measured."""
        counts = np.zeros(5, dtype=int)
        for name in outcome.tasks:
            answers = [model.tasks[name].right for model in (self.base, self.tuned, outcome)]
            if None in answers:
                return None
            base, tuned, now = np.array(answers, dtype=bool)
            broken, gained = base & ~tuned, ~base & tuned
            kinds = (broken, broken & now, gained, gained & now, base & tuned & ~now)
            counts += [int(kind.sum()) for kind in kinds]
        return Items(*counts.tolist())

    def _examples(self, task: str) -> int:
        return int(self._of_examples[task].shape[1])

    def _loss(self, outcome: Outcome) -> Numbers:
        """Return the loss on text per token, the mean over all corpora: (1 + resamples,)."""
        return np.asarray(np.mean([self._corpus_loss(outcome, name) for name in outcome.corpora], axis=0))

    def _corpus_loss(self, outcome: Outcome, name: str) -> Numbers:
        parts = zip(outcome.corpora[name], self._of_documents[name], strict=True)
        ratios = [_ratio(losses, drawn) for losses, drawn in parts]
        return np.average(ratios, axis=0, weights=self.weights[name])

    def _task(self, outcome: Outcome, name: str | None = None) -> Numbers:
        """Return the loss per token of the targets of one task, by default of the target."""
        name = name or self.target
        return _ratio(outcome.tasks[name].losses, self._of_examples[name])

    @cached_property
    def _by_tuning(self) -> list[Interval]:
        return self._above_base(self.tuned)

    def _above_base(self, outcome: Outcome) -> list[Interval]:
        """Return by how much every measure but the target is worse than in the base."""
        intervals = []
        for name in outcome.corpora:
            rise = self._corpus_loss(outcome, name) - self._corpus_loss(self.base, name)
            intervals.append(self._interval(rise, self._documents))
        for name in outcome.tasks:
            if name != self.target:
                rise = self._task(outcome, name) - self._task(self.base, name)
                intervals.append(self._interval(rise, self._examples(name)))
        # Of many thousands of examples the resamples of all models together would fill the memory; these are not kept.
        for task, scores in outcome.harness.items():
            after, before = (DocumentLosses.of_scores(of, -1) for of in (scores, self.base.harness[task]))
            intervals.append(paired_difference(after, before, level=self.level, seed=self._seed))
        return intervals

    def _gain(self, outcome: Outcome) -> Numbers:
        at = loss_at_task_loss(self._losses, self._task_losses, self._task(outcome))
        return np.subtract(at, self._loss(outcome))

    def _share(self, part: Numbers, whole: Numbers, count: int) -> Interval | None:
        of = self._interval(whole, count)
        if not of.is_clear or of.estimate <= 0:
            return None
        return self._interval(part / np.where(whole == 0, np.nan, whole), count)

    def _interval(self, rows: Numbers, count: int) -> Interval:
        resampled = rows[1:]
        return expanded_percentiles(float(rows[0]), resampled[np.isfinite(resampled)], count, self.level)
