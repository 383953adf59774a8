"""Losses and scores of a tuned model in memory, on the same documents and examples under every remedy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...checkpoints.writing.merged import Elsewhere, everywhere_as_tuned
from ...data.corpora import Corpus
from ...data.task import Example, Task
from ...measures.corpus_loss import CorpusLoss, losses_by_corpus, summarize_losses
from ...measures.kept_outcomes import KeptOutcomes
from ...measures.losses import DocumentLosses
from ...measures.measure_settings import LossSettings
from ...measures.outcome import Outcome
from ...measures.task_score import TaskScore, score_of_answers
from ...mitigation.remedies.remedy import Remedy
from ...models.tuned_model import OpenedModel
from .data_shares import DataShare
from .live_models import LiveModels
from .task_outcomes import task_outcome

Losses = Mapping[str, list[DocumentLosses]]  # by corpus, one entry per part of a mixture


@dataclass(frozen=True)
class MeasuredData:
    """The documents and examples that every model is measured on."""

    corpora: Mapping[str, list[Corpus]]
    tasks: Mapping[str, Task]
    losses: LossSettings
    examples: Mapping[str, tuple[str, list[Example]]]  # by task, the split and what is scored of it
    seed: int  # of the bootstrap, and of what is masked

    def fingerprint(self) -> str:
        """Return a hash of the documents and examples."""
        examples = {name: rows for name, (_, rows) in self.examples.items()}
        return DataShare("all", self.corpora, examples).fingerprint()

    def losses_of(self, opened: OpenedModel) -> Losses:
        """Return the losses of every document."""
        return losses_by_corpus(opened, self.corpora, self.losses, self.seed)

    def summarized(
        self, losses: Losses, against: Mapping[str, CorpusLoss] | None = None
    ) -> dict[str, CorpusLoss]:
        """Return mean losses with their intervals, and paired differences from those of another model."""
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

    def scores(self, outcome: Outcome) -> dict[str, TaskScore]:
        """Return the score of every task."""
        return {
            name: score_of_answers(self.tasks[name], self.examples[name][0], of_task.right or [])
            for name, of_task in outcome.tasks.items()
        }


@dataclass(frozen=True)
class MeasuredWeights:
    """The tuned model under any remedy, measured on the same data each time; what was measured before is kept."""

    data: MeasuredData
    models: LiveModels
    kept: KeptOutcomes

    def outcome(
        self, remedy: Remedy, elsewhere: Elsewhere = everywhere_as_tuned, *, answers: bool = True
    ) -> Outcome:
        """Measure the losses of every document and example; with ``answers`` also which answers are right."""
        unit = {"remedy": remedy.name, "settings": remedy.recorded_by_name(), "answers": answers}
        outcome = self.kept.get(unit)
        if outcome is None:
            self.models.set(remedy, elsewhere)
            language = self.models.language
            outcome = Outcome(
                {} if language is None else self.data.losses_of(language),
                {
                    name: task_outcome(
                        opened, labels, self.data.tasks[name], self.data.examples[name][1], answers
                    )
                    for name, (opened, labels) in self.models.scored.items()
                },
            )
            self.kept.put(unit, outcome)
        return outcome
