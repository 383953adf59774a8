"""The tuned model in memory, under any remedy, measured on any share of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from torch import Tensor

from ...checkpoints.checkpoint import Checkpoint
from ...checkpoints.writing.merged import Elsewhere
from ...data.task import Task
from ...errors import PairingError
from ...mitigation.live_weights import LiveInterventions
from ...mitigation.remedies.remedy import Case, Remedy
from ...models.tuned_model import OpenedModel, open_for_task, open_language_model
from ..corpus_loss import losses_by_corpus
from ..measure_settings import LossSettings
from ..sensitivities import Directions, sensitivities, task_batches
from .base_inputs import sample_inputs
from .data_shares import DataShare
from .outcome import Outcome
from .task_outcomes import task_outcome

Scored = Mapping[str, tuple[OpenedModel, list[str]]]  # by task, the model and its labels in order


@dataclass(frozen=True)
class Measuring:
    """How a model is measured."""

    losses: LossSettings
    tasks: Mapping[str, Task]
    seed: int

    def outcome(self, language: OpenedModel, scored: Scored, share: DataShare, answers: bool) -> Outcome:
        """The losses of every document and example of a share; with ``answers`` also which answers are right."""
        return Outcome(
            losses_by_corpus(language, share.corpora, self.losses, self.seed),
            {
                name: task_outcome(opened, labels, self.tasks[name], share.examples[name], answers)
                for name, (opened, labels) in scored.items()
            },
        )

    def causal(self, language: OpenedModel) -> Scored:
        """Of the tasks those that a causal language model answers itself."""
        if language.is_masked:
            return {}
        return {name: (language, []) for name, task in self.tasks.items() if task.kind == "causal"}


class Bench:
    """The models that measure a tuned model: as a language model, and one more for tasks of another kind."""

    def __init__(
        self,
        measuring: Measuring,
        language: OpenedModel,
        scored: Scored,
        live_of: Mapping[int, LiveInterventions],
    ) -> None:
        """``live_of`` has the weights of every model by its id, those of the language model first."""
        self._measuring, self._language, self._scored, self._live_of = measuring, language, scored, live_of
        self._live = list(live_of.values())

    def use(self, cases: Sequence[Case]) -> None:
        """Take the matrices that the next remedies change."""
        for one in self._live:
            one.use(cases)

    def measured(self, remedy: Remedy, elsewhere: Elsewhere, share: DataShare, answers: bool) -> Outcome:
        """The outcome of the tuned model under a remedy."""
        for one in self._live:
            one.set(remedy, elsewhere)
        return self._measuring.outcome(self._language, self._scored, share, answers)

    def inputs(
        self, base: Remedy, elsewhere: Elsewhere, names: Sequence[str], share: DataShare
    ) -> dict[str, Tensor]:
        """A sample of the base's inputs of matrices; ``base`` is the remedy that gives the model the base's weights."""
        live = self._live[0]
        live.set(base, elsewhere)
        documents = [text for parts in share.corpora.values() for part in parts for text in part.documents]
        modules = {name: module for name in names if (module := live.module_of(name)) is not None}
        found = sample_inputs(self._language, modules, documents, self._measuring.seed)
        live.reset()
        return found

    def training_examples(self, task: str, most: int) -> DataShare:
        """The first examples of a task's training split."""
        return DataShare("training", {}, {task: self._measuring.tasks[task].train[:most]})

    def sensitivities(
        self, directions: Mapping[str, Directions], task: str, share: DataShare
    ) -> dict[str, list[float]]:
        """What the tuned model's loss on a task's examples feels of every direction, by matrix."""
        opened, labels = self._scored[task]
        live = self._live_of[id(opened.model)]
        live.reset()
        modules = {name: module for name in directions if (module := live.module_of(name)) is not None}
        if missing := [name for name in directions if name not in modules]:
            raise PairingError(
                f"the model that is measured has no module with the complete weight '{missing[0]}'; choose another "
                "remedy"
            )
        batches = task_batches(opened, self._measuring.tasks[task], share.examples[task], labels)
        at = {modules[name]: part for name, part in directions.items()}
        found = sensitivities(opened.model, batches, at)
        return {name: found[module].tolist() for name, module in modules.items()}

    @property
    def other_names(self) -> list[str]:
        """The base's names of tuned tensors that no case is of."""
        return list(dict.fromkeys(name for one in self._live for name in one.other_names))

    def norm_of_others(self, elsewhere: Elsewhere) -> float:
        return self._live[0].norm_of_others(elsewhere)


@contextmanager
def opened_bench(
    measuring: Measuring, tuned: str, base: str | None, base_side: Checkpoint, others: Sequence[str]
) -> Iterator[Bench]:
    """Open the tuned model for as long as the block lasts; ``others`` are the base's tensors that no case is of."""
    language = open_language_model(tuned, base)
    shared = measuring.causal(language)
    scored = {
        name: shared.get(name) or open_for_task(tuned, task, base) for name, task in measuring.tasks.items()
    }
    distinct = {id(one.model): one.model for one in (language, *(opened for opened, _ in scored.values()))}
    with ExitStack() as stack:
        live = {
            number: stack.enter_context(LiveInterventions(model, base_side, (), others))
            for number, model in distinct.items()
        }
        yield Bench(measuring, language, scored, live)
