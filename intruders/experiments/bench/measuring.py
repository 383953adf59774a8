"""What is measured of a model: its losses on documents and examples, its answers, and tasks of the harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...data.task import Task
from ...measures.corpus_loss import losses_by_corpus
from ...measures.harness import digest_of_own_tasks, harness_items
from ...measures.measure_settings import NO_HARNESS, HarnessSettings, LossSettings
from ...measures.outcome import Outcome
from ...models.tuned_model import OpenedModel
from .data_shares import DataShare
from .live_models import Scored
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

    def outcome(
        self, language: OpenedModel | None, scored: Scored, share: DataShare, answers: bool
    ) -> Outcome:
        """Measure the losses of every document and example of a share.

        With ``answers`` also measure which answers are right, and the tasks of lm-evaluation-harness. Without a
        language model no text is read.
        """
        return Outcome(
            {} if language is None else losses_by_corpus(language, share.corpora, self.losses, self.seed),
            {
                name: task_outcome(opened, labels, self.tasks[name], share.examples[name], answers)
                for name, (opened, labels) in scored.items()
            },
            harness_items(language, self.harness, limit=self.harness_limit, seed=self.seed)
            if answers and self.harness.lm_eval and language is not None
            else {},
        )
