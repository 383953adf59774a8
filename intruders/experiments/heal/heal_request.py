"""What a healing is asked for, with its data loaded, and the key by which it is known again."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...audits.audit_settings import AuditSettings
from ...audits.result.audit_result import Audit
from ...data.columns import Columns
from ...data.corpora import Corpora, digests_of
from ...data.load_task import described_task
from ...data.task import Task, names_given
from ...measures.kept_outcomes import digest_of_intruders
from ...models.loading_settings import Loading
from ...settings.numbers import check_seeds
from ..bench.given_sides import GivenSides, OpenedSides
from .heal_data import how_drawn, load_tasks, load_texts, read_prompts
from .heal_settings import HealSettings


@dataclass(frozen=True)
class HealRequest:
    """What decides the doses: the models, the data, and how they are learned."""

    sources: GivenSides
    tasks: Mapping[str, Task]
    corpora: Corpora
    prompts: Sequence[str] | None
    settings: HealSettings
    audit: AuditSettings | Audit
    seed: int
    loading: Loading
    task_settings: Mapping[str, Any]  # by which the tasks are scored again

    @classmethod
    def of(
        cls,
        base: str | os.PathLike[str] | None,
        tuned: str | os.PathLike[str] | None,
        *,
        task: str | Sequence[str],
        loss_on: str | Sequence[str],
        settings: HealSettings,
        columns: Columns | None,
        prompts: str | os.PathLike[str] | None,
        audit: AuditSettings | Audit | str | os.PathLike[str],
        data_seed: int | None,
        seed: int,
        loading: Loading,
    ) -> HealRequest:
        """Load the data and a saved audit, as :func:`intruders.heal` is given them.

        Raises:
          IntrudersError: a seed, a model, the task, the text, the prompts or the audit cannot be used.
        """
        check_seeds(seed=seed, data_seed=data_seed)
        sources = GivenSides.of(base, tuned)
        names, columns = names_given(task), columns or Columns()
        rows_by = sources.data_seed(data_seed)
        prompt_file = None if prompts is None else os.fspath(prompts)
        return cls(
            sources=sources,
            tasks=load_tasks(names, columns, rows_by, prompt_file),
            prompts=None if prompt_file is None else read_prompts(prompt_file),
            corpora=load_texts(names_given(loss_on), settings, seed),
            settings=settings,
            audit=Audit.load(audit) if isinstance(audit, str | os.PathLike) else audit,
            seed=seed,
            loading=loading,
            task_settings={
                "tasks": {name: described_task(name, columns) for name in names},
                "max_new_tokens": columns.max_new_tokens,
                "data_seed": rows_by,
            },
        )

    def key(self, sides: OpenedSides, form: str) -> dict[str, Any]:
        """Return what identifies this healing of the opened models, written in the given form."""
        return {
            **sides.key(self.loading),
            "settings": self.settings.recorded(),
            "seed": self.seed,
            "text": digests_of(self.corpora),
            "tasks": {name: task.fingerprint() for name, task in self.tasks.items()},
            "answers": {name: [task.score, task.max_new_tokens] for name, task in self.tasks.items()},
            "order": [*self.corpora, *self.tasks],  # doses are learned on the first text and the first task
            "audit": _audit_key(self.audit),
            "prompts": self.prompts,
            "form": form,
            **how_drawn(self.corpora),
        }


def _audit_key(audit: AuditSettings | Audit) -> dict[str, Any]:
    """Return which vectors are intruders: the settings that tell it, or what a given audit says."""
    if isinstance(audit, AuditSettings):
        return audit.recorded()
    return {**AuditSettings.of(audit).recorded(), "intruders": digest_of_intruders(audit)}
