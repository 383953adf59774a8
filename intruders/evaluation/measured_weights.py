"""Losses and scores of a tuned model in memory, on the same documents and examples under every remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..data.corpora import Corpus
from ..data.task import Task
from ..models.tuned_model import OpenedModel
from .corpus_loss import CorpusLoss, losses_by_corpus, summarize_losses
from .live_models import LiveModels
from .losses import DocumentLosses
from .measure_settings import LossSettings
from .side_by_side.outcome import Outcome
from .side_by_side.task_outcomes import task_outcome
from .task_score import TaskScore, score_task, scored_examples

Losses = dict[str, list[DocumentLosses]]  # by corpus, one entry per part of a mixture


@dataclass(frozen=True)
class MeasuredData:
    """The documents and examples that every model is measured on."""

    corpora: Mapping[str, Sequence[Corpus]]
    tasks: Mapping[str, Task]
    losses: LossSettings
    split: str | None
    max_examples: int | None
    seed: int  # of the bootstrap, and of what is masked

    def losses_of(self, opened: OpenedModel) -> Losses:
        """The losses of every document."""
        return losses_by_corpus(opened, self.corpora, self.losses, self.seed)

    def summarized(
        self, losses: Losses, against: Mapping[str, CorpusLoss] | None = None
    ) -> dict[str, CorpusLoss]:
        """Mean losses with their intervals, and paired differences from those of another model."""
        return {
            name: summarize_losses(
                name,
                self.corpora[name],
                parts,
                None if against is None else against[name].losses,
                seed=self.seed,
            )
            for name, parts in losses.items()
        }


@dataclass(frozen=True)
class MeasuredWeights:
    """The tuned model as it is now, measured on the same data each time."""

    data: MeasuredData
    models: LiveModels

    def losses(self) -> Losses:
        """The losses on text with the weights as they are now; none without corpora."""
        return {} if self.models.language is None else self.data.losses_of(self.models.language)

    def scores(self) -> dict[str, TaskScore]:
        """The score of every task with the weights as they are now."""
        data = self.data
        return {
            name: score_task(
                opened, data.tasks[name], split=data.split, max_examples=data.max_examples, labels=labels
            )
            for name, (opened, labels) in self.models.scored.items()
        }

    def outcome(self, losses: Losses) -> Outcome:
        """``losses`` with the losses of the first task's targets, with the weights as they are now."""
        data = self.data
        name, (opened, labels) = next(iter(self.models.scored.items()))
        _, examples = scored_examples(data.tasks[name], data.split, data.max_examples)
        return Outcome(
            losses, {name: task_outcome(opened, labels, data.tasks[name], examples, answers=False)}
        )
