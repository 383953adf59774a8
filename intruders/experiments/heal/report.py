"""What the models of a healing measured on the half that is reported, with intervals paired by document and example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ...measures.corpus_loss import summarize_losses
from ...measures.intervals import loss_interval, paired_difference, proportion_interval
from ...measures.outcome import Outcome, TaskOutcome
from ..bench.data_shares import DataShare
from ..bench.yardstick import Yardstick
from .healing import CorpusMeasure, HealedPoint, TaskMeasure


class Report:
    """Turn outcomes on the reported half into points."""

    def __init__(
        self, share: DataShare, base: Outcome, tuned: Outcome, curve: Sequence[Outcome], task: str, seed: int
    ) -> None:
        """Take a ``curve`` of interpolations by ascending dose, the base first and the tuned model last."""
        self._share, self._base, self._tuned, self._seed = share, base, tuned, seed
        self._sticks = {
            name: Yardstick(
                _of_corpus(base, name),
                _of_corpus(tuned, name),
                [_of_corpus(outcome, name) for outcome in curve],
                target=task,
                weights={name: share.weights[name]},
                seed=seed,
            )
            for name in share.corpora
        }

    def point(self, name: str, outcome: Outcome, dose: float | None = None) -> HealedPoint:
        """Return a measured model; its gain is over interpolation at the same task loss."""
        return HealedPoint(
            name,
            dose,
            {corpus: self._corpus(corpus, outcome) for corpus in self._share.corpora},
            {task: self._task(task, of_task) for task, of_task in outcome.tasks.items()},
        )

    def _corpus(self, name: str, outcome: Outcome) -> CorpusMeasure:
        summary = summarize_losses(
            name, self._share.corpora[name], outcome.corpora[name], self._base.corpora[name], seed=self._seed
        )
        assert summary.difference is not None
        own, stick = _of_corpus(outcome, name), self._sticks[name]
        return CorpusMeasure(summary.loss, summary.difference, stick.healed(own), stick.gain(own))

    def _task(self, name: str, outcome: TaskOutcome) -> TaskMeasure:
        right = outcome.right
        return TaskMeasure(
            loss_interval(outcome.losses, seed=self._seed),
            paired_difference(outcome.losses, self._tuned.tasks[name].losses, seed=self._seed),
            None if not right else proportion_interval(sum(right), len(right)),
        )


def _of_corpus(outcome: Outcome, name: str) -> Outcome:
    return replace(outcome, corpora={name: outcome.corpora[name]})
