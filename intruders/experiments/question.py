"""What every experiment is asked about: base and tuned model, the audit of them, seeds, and how models are loaded."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..audits.audit import AuditedWhole, audited_whole
from ..audits.audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..audits.result.audit_result import Audit
from ..checkpoints.opening.model_sum import parts_of
from ..checkpoints.opening.open import Opened
from ..checkpoints.pairing.names_of_base import under_common_names
from ..checkpoints.pairing.open_sides import open_sides, sides_on_disk
from ..checkpoints.pairing.pair_sides import pair_sides
from ..checkpoints.pairing.pairing import PairedMatrix
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.selection import EVERY_MATRIX
from ..checkpoints.writing.companions import own_tokenizer_files
from ..checkpoints.writing.training_record import FinetunedFolder
from ..data.columns import Columns
from ..data.load_task import load_task
from ..data.task import Example, Task
from ..mitigation.remedies.remedy import intruder_indices
from ..models.base_model import digest_of_model
from ..models.encoding import fitting
from ..models.loading_settings import AS_STORED, Loading
from ..models.stored_dtype import recorded_dtypes
from ..models.tuned_model import open_for_task
from ..settings.numbers import check_seeds
from ..system.digests import json_digest
from ..system.files import user_path
from ..system.folders import working_folder
from ..system.progress import Progress, silent


@dataclass(frozen=True)
class Question:
    """Two models by name. They are opened, paired and audited when an experiment first asks for it."""

    base: str | None  # None where an adapter names it
    tuned: str
    data_seed: int | None = None  # of the tasks' rows; None for that of the run that trained the model
    seed: int = 0
    audit: AuditSettings | Audit | str | os.PathLike[str] = AS_USUAL
    loading: Loading = AS_STORED
    compute: Compute = ANYWHERE
    progress: Progress = silent

    @classmethod
    def about(
        cls, base: object, tuned: object, data_seed: int | None = None, seed: int = 0, **settings: Any
    ) -> "Question":
        """Take the models as a person gave them; one alone is the tuned one, whose adapter names its base."""
        check_seeds(seed=seed, data_seed=data_seed)
        source, model = sides_on_disk(base, tuned)
        return cls(source, model, data_seed, seed, **settings)

    @cached_property
    def rows_by(self) -> int:
        return FinetunedFolder.of(self.tuned).data_seed if self.data_seed is None else self.data_seed

    def tasks(self, names: Iterable[str], columns: Columns) -> dict[str, Task]:
        return {name: load_task(name, columns, self.rows_by) for name in names}

    def fitting(self, task: Task, splits: Mapping[str, list[Example]]) -> dict[str, list[Example]]:
        """Return the rows of a task by split without the completions that the tuned model cannot read whole."""
        if task.kind != "causal":  # a text to classify is cut
            return dict(splits)
        opened = open_for_task(self.tuned, task, self.base, self.loading)
        return {
            split: fitting(opened.tokenizer, rows, opened.context, f"{split} split of task {task.name!r}")
            for split, rows in splits.items()
        }

    @contextmanager
    def working_in(self, folder: str | os.PathLike[str] | None, name: str) -> Iterator[Path | None]:
        """Hold a folder of finished measurements; models that cannot be opened are refused before it is made."""
        _ = self.both
        with working_folder(None if folder is None else user_path(folder), name) as held:
            yield held

    @cached_property
    def both(self) -> tuple[Checkpoint, Opened]:
        """Base and tuned model, opened; CheckpointError where either cannot be found or read."""
        return open_sides(self.base, self.tuned)

    @property
    def base_source(self) -> str:
        """Where the base is, also if an adapter names it."""
        return self.both[0].source if self.base is None else self.base

    @property
    def stacks(self) -> Checkpoint:
        """The base with the stacks of experts that the tuned model has."""
        base, tuned = self.both
        return under_common_names(base, [part for part, _ in parts_of(tuned)])[0]

    @cached_property
    def pairs(self) -> Sequence[PairedMatrix]:
        """Every matrix that the tuned model may have changed, embeddings and heads among them."""
        return pair_sides(*self.both, EVERY_MATRIX).pairs

    @cached_property
    def audited(self) -> AuditedWhole:
        """The pairing of both, and the audit that was given or is made of it."""
        return audited_whole(*self.both, self.audit, self.compute, self.progress)

    @property
    def is_adapter(self) -> bool:
        return not isinstance(self.both[1], Checkpoint)

    def key(self) -> dict[str, Any]:
        """Return what identifies both models by content, and the types that they are loaded in."""
        loaded = [self.base_source] if self.is_adapter else [self.base_source, self.tuned]
        return {
            "base": digest_of_model(self.base_source),
            "tuned": digest_of_model(self.tuned),
            **recorded_dtypes(self.loading, loaded),
            # Without its own tokenizer an adapter's examples are read with its base's.
            **({"reads": "as trained"} if own_tokenizer_files(self.tuned) else {}),
        }


def digest_of_intruders(audit: Audit) -> str:
    """Return a hash of which vectors are intruders: a given audit may differ from what its settings would find."""
    return json_digest([[matrix.name, intruder_indices(matrix)] for matrix in audit.matrices])
