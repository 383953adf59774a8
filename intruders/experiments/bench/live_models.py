"""The models that measure a tuned model, with weights that any remedy can change."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.writing.merged import Elsewhere, everywhere_as_tuned
from ...data.task import Task
from ...mitigation.live_weights import LiveInterventions
from ...mitigation.remedies.remedy import Case, Remedy
from ...models.loading_settings import Loading, require_whole_weights
from ...models.tuned_model import OpenedModel, open_for_task, open_language_model

Scored = Mapping[str, tuple[OpenedModel, list[str]]]  # by task, the model and its labels in order


@dataclass(frozen=True)
class LiveModels:
    """One as a language model, and one more for tasks of another kind."""

    language: OpenedModel | None  # None where no text is measured
    scored: Scored
    weights: Mapping[int, LiveInterventions]  # of every model by its id, those of the language model first

    def use(self, cases: Sequence[Case]) -> None:
        """Take the matrices that the next remedies change."""
        for interventions in self.weights.values():
            interventions.use(cases)

    def set(self, remedy: Remedy, elsewhere: Elsewhere = everywhere_as_tuned) -> None:
        """Give all models the weights that a remedy makes."""
        for interventions in self.weights.values():
            interventions.set(remedy, elsewhere)


def answered_by(language: OpenedModel, tasks: Mapping[str, Task]) -> Scored:
    """Return the tasks that a causal language model answers itself."""
    if language.is_masked:
        return {}
    return {name: (language, []) for name, task in tasks.items() if task.kind == "causal"}


def opened_for_tasks(
    language: OpenedModel | None, tuned: str, base: str | None, tasks: Mapping[str, Task], loading: Loading
) -> Scored:
    """Return every task with the model that it needs: the language model where that answers it, or one of its own."""
    shared = {} if language is None else answered_by(language, tasks)
    return {
        name: shared.get(name) or open_for_task(tuned, task, base, loading, merged=True)
        for name, task in tasks.items()
    }


@contextmanager
def opened_live(
    tuned: str,
    base: str | None,
    tasks: Mapping[str, Task],
    base_side: Checkpoint,
    others: Sequence[str],
    *,
    loading: Loading,
    reads_text: bool = True,
) -> Iterator[LiveModels]:
    """Open the tuned model within the block; ``others`` are the base's tensors without a case."""
    require_whole_weights(loading)
    language = open_language_model(tuned, base, loading, merged=True) if reads_text else None
    scored = opened_for_tasks(language, tuned, base, tasks, loading)
    opened = [
        *([] if language is None else [language]),
        *(opened_model for opened_model, _ in scored.values()),
    ]
    with ExitStack() as contexts:
        weights = {
            number: contexts.enter_context(LiveInterventions(model, base_side, (), others, recomputes=True))
            for number, model in {
                id(opened_model.model): opened_model.model for opened_model in opened
            }.items()
        }
        yield LiveModels(language, scored, weights)
