"""A tuned model in memory whose weights any remedy can change, and its losses and scores on the same data each time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.writing.merged import Elsewhere, everywhere_as_tuned
from ..data.corpora import Corpus
from ..data.task import Task
from ..mitigation.live_weights import LiveInterventions
from ..mitigation.remedies.remedy import Case, Remedy
from ..models.tuned_model import OpenedModel, open_for_task, open_language_model
from .corpus_loss import CorpusLoss, losses_by_corpus, summarize_losses
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


class MeasuredWeights:
    """The models that measure a tuned model: as a language model, and one for every task of another kind."""

    def __init__(
        self,
        data: MeasuredData,
        language: OpenedModel | None,
        scored: Mapping[str, tuple[OpenedModel, list[str]]],
        live: Sequence[LiveInterventions],
    ) -> None:
        """``scored`` has the model of every task with its labels in order."""
        self._data, self._language, self._scored, self._live = data, language, scored, live

    def use(self, cases: Sequence[Case]) -> None:
        """Take the matrices that the next remedies change."""
        for one in self._live:
            one.use(cases)

    def set(self, remedy: Remedy, elsewhere: Elsewhere = everywhere_as_tuned) -> None:
        """Give all models the weights that a remedy makes."""
        for one in self._live:
            one.set(remedy, elsewhere)

    def losses(self) -> Losses:
        """The losses on text with the weights as they are now; none without corpora."""
        return {} if self._language is None else self._data.losses_of(self._language)

    def scores(self) -> dict[str, TaskScore]:
        """The score of every task with the weights as they are now."""
        data = self._data
        return {
            name: score_task(
                opened, data.tasks[name], split=data.split, max_examples=data.max_examples, labels=labels
            )
            for name, (opened, labels) in self._scored.items()
        }

    def outcome(self, losses: Losses) -> Outcome:
        """``losses`` with the losses of the first task's targets, with the weights as they are now."""
        data = self._data
        name, (opened, labels) = next(iter(self._scored.items()))
        _, examples = scored_examples(data.tasks[name], data.split, data.max_examples)
        return Outcome(
            losses, {name: task_outcome(opened, labels, data.tasks[name], examples, answers=False)}
        )


@contextmanager
def opened_weights(
    data: MeasuredData, tuned: str, base: str | None, base_side: Checkpoint, others: Sequence[str] = ()
) -> Iterator[MeasuredWeights]:
    """Open the tuned model for as long as the block lasts; ``others`` are the base's tensors that no case is of."""
    language = open_language_model(tuned, base) if data.corpora else None
    scored: dict[str, tuple[OpenedModel, list[str]]] = {}
    for name, task in data.tasks.items():
        if language is not None and not language.is_masked and task.kind == "causal":
            scored[name] = (language, [])
        else:
            scored[name] = open_for_task(tuned, task, base)
    opened = [one for one, _ in scored.values()] + ([] if language is None else [language])
    distinct = {id(one.model): one.model for one in opened}
    with ExitStack() as stack:
        live = [
            stack.enter_context(LiveInterventions(model, base_side, (), others))
            for model in distinct.values()
        ]
        yield MeasuredWeights(data, language, scored, live)
