"""What a folder says of the training of the model in it: one of ``intruders finetune``, or a model made from it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoints.opening.model_sum import is_sum
from ..checkpoints.stored.locate import locate
from ..checkpoints.writing.training_record import training_record


@dataclass(frozen=True)
class FinetunedFolder:
    """The facts about a model from the record of its run."""

    base: str | None
    labels: list[str] | None  # of a classifier, in the order of its classes
    data_seed: int  # by another one, rows that were trained on would be among those that are scored
    max_length: int | None = None  # tokens of a row that the training read

    @classmethod
    def of(cls, source: str | Path) -> FinetunedFolder | None:
        """Read the record in a folder; None for a model that no run of this package trained, and for a sum of models.

        Raises:
          ResultFileError: the record cannot be read.
        """
        record = None if is_sum(str(source)) else training_record(locate(str(source)))
        if record is None:
            return None
        config, task = _part(record, "config"), _part(record, "task")
        base, labels, seed = config.get("base"), task.get("labels"), config.get("data_seed")
        length = config.get("max_length")
        return cls(
            base=base if isinstance(base, str) else None,
            labels=[str(label) for label in labels] if labels else None,
            data_seed=seed if isinstance(seed, int) else 0,
            max_length=length if isinstance(length, int) else None,
        )


def data_seed_of(model: str) -> int:
    """Return the data seed of the run that trained a model; 0 for a model that no run of this package trained."""
    folder = FinetunedFolder.of(model)
    return 0 if folder is None else folder.data_seed


def _part(record: dict[str, Any], name: str) -> dict[str, Any]:
    section = record.get(name)
    return section if isinstance(section, dict) else {}
