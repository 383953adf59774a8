"""The tuned model in memory, under any remedy, measured on any share of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...checkpoints.stored.checkpoint import Checkpoint
from ...checkpoints.writing.merged import Elsewhere
from ...data.task import Task
from ...errors import PairingError
from ...measures.base_inputs import documents_of, sample_inputs
from ...measures.corpus_loss import losses_by_corpus
from ...measures.harness import digest_of_own_tasks, harness_items
from ...measures.measure_settings import NO_HARNESS, HarnessSettings, LossSettings
from ...measures.outcome import Outcome
from ...measures.sensitivities import Directions, sensitivities, task_batches
from ...mitigation.remedies.remedy import Case, Remedy
from ...models.loading_settings import AS_STORED, Loading
from ...models.tuned_model import OpenedModel
from .data_shares import DataShare
from .live_models import LiveModels, Scored, opened_live
from .task_outcomes import task_outcome


@dataclass(frozen=True)
class Measuring:
    """The settings by which a model is measured."""

    losses: LossSettings
    tasks: Mapping[str, Task]
    seed: int
    harness: HarnessSettings = NO_HARNESS
    harness_limit: int | None = None  # examples of each of its tasks

    def unit(self, share: DataShare, answers: bool) -> dict[str, Any]:
        """Return everything except the model that an evaluation depends on."""
        unit: dict[str, Any] = {"share": share.fingerprint(), "answers": answers}
        if answers and self.harness.lm_eval:
            unit |= {
                "harness": {
                    "tasks": list(self.harness.lm_eval),
                    "own": digest_of_own_tasks(self.harness),
                    "limit": self.harness_limit,
                }
            }
        return unit

    def outcome(self, language: OpenedModel, scored: Scored, share: DataShare, answers: bool) -> Outcome:
        """Measure the losses of every document and example of a share.

        With ``answers`` also measure which answers are right, and the tasks of lm-evaluation-harness.
        """
        return Outcome(
            losses_by_corpus(language, share.corpora, self.losses, self.seed),
            {
                name: task_outcome(opened, labels, self.tasks[name], share.examples[name], answers)
                for name, (opened, labels) in scored.items()
            },
            harness_items(language, self.harness, limit=self.harness_limit, seed=self.seed)
            if answers and self.harness.lm_eval
            else {},
        )


class Bench:
    """The models that measure a tuned model: as a language model, and one more for tasks of another kind."""

    def __init__(self, measuring: Measuring, language: OpenedModel, models: LiveModels) -> None:
        self._measuring, self._language, self._models = measuring, language, models
        self._live = list(models.weights.values())

    def unit(self, share: DataShare, answers: bool) -> dict[str, Any]:
        """Return :meth:`Measuring.unit`."""
        return self._measuring.unit(share, answers)

    def use(self, cases: Sequence[Case]) -> None:
        """Take the matrices that the next remedies change."""
        self._models.use(cases)

    def measured(self, remedy: Remedy, elsewhere: Elsewhere, share: DataShare, answers: bool) -> Outcome:
        """Return the outcome of the tuned model under a remedy."""
        self._models.set(remedy, elsewhere)
        return self._measuring.outcome(self._language, self._models.scored, share, answers)

    def inputs(
        self, base: Remedy, elsewhere: Elsewhere, names: Sequence[str], share: DataShare
    ) -> dict[str, Tensor]:
        """Sample the base's inputs of matrices; ``base`` is the remedy that sets the model to the base's weights."""
        live = self._live[0]
        live.set(base, elsewhere)
        documents = documents_of(share.corpora)
        inputs = sample_inputs(self._language, live.modules_of(names), documents, self._measuring.seed)
        live.reset()
        return inputs

    def training_examples(self, task: str, most: int) -> DataShare:
        """Return the first examples of a task's training split."""
        return DataShare("training", {}, {task: self._measuring.tasks[task].train[:most]})

    def sensitivities(
        self, directions: Mapping[str, Directions], task: str, share: DataShare
    ) -> dict[str, list[float]]:
        """Return the sensitivity of the tuned model's loss on a task's examples to every direction, by matrix."""
        opened, labels = self._models.scored[task]
        live = self._models.weights[id(opened.model)]
        live.reset()
        modules = live.modules_of(directions)
        if missing := [name for name in directions if name not in modules]:
            raise PairingError(
                f"the model that is measured has no module with the complete weight '{missing[0]}'; choose another "
                "remedy"
            )
        batches = task_batches(opened, self._measuring.tasks[task], share.examples[task], labels)
        at = {modules[name]: part for name, part in directions.items()}
        by_module = sensitivities(opened.model, batches, at)
        return {name: by_module[module].tolist() for name, module in modules.items()}

    @property
    def other_names(self) -> list[str]:
        """The base's names of tuned tensors that no case is of."""
        return list(dict.fromkeys(name for live in self._live for name in live.other_names))

    def norm_of_others(self, elsewhere: Elsewhere) -> float:
        return self._live[0].norm_of_others(elsewhere)


@contextmanager
def opened_bench(
    measuring: Measuring,
    tuned: str,
    base: str | None,
    base_side: Checkpoint,
    others: Sequence[str],
    loading: Loading = AS_STORED,
) -> Iterator[Bench]:
    """Open the tuned model within the block; ``others`` are the base's tensors without a case."""
    with opened_live(tuned, base, measuring.tasks, base_side, others, loading=loading) as models:
        assert models.language is not None
        yield Bench(measuring, models.language, models)
