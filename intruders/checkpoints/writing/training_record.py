"""What measures need of a model's training: its base, its labels and the seed of its data.

A run of ``intruders finetune`` has it in ``run.json``; a model made from a run in a file of its own, which is no run.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...system.documents import read_document
from ...system.files import write_atomically
from ..opening.model_sum import is_sum
from ..stored.locate import locate

RUN, TRAINING = "run.json", "training.json"
# Of both files.
SCHEMA = 1


def training_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of the run that trained the model in a folder; None if the folder has none."""
    for name in (RUN, TRAINING):
        if os.path.isfile(folder / name):
            return read_document(folder / name, "the record of a run", SCHEMA)
    return None


def keep_training(record: dict[str, Any], folder: Path) -> None:
    """Write what a model made from a run needs of the run's record."""
    config, task = _section(record, "config"), _section(record, "task")
    facts = {
        "schema": SCHEMA,
        "status": record.get("status"),
        "config": {key: config[key] for key in ("base", "data_seed") if key in config},
        "task": {key: task[key] for key in ("labels",) if key in task},
    }
    write_atomically(folder / TRAINING, (json.dumps(facts, indent=2) + "\n").encode())


@dataclass(frozen=True)
class FinetunedFolder:
    """The facts about a model from the record of its run, as far as there is one and it has them."""

    base: str | None = None
    labels: list[str] | None = None  # of a classifier, in the order of its classes
    data_seed: int = 0  # by another one, rows that were trained on would be among those that are scored
    max_length: int | None = None  # tokens of a row that the training read

    @classmethod
    def of(cls, source: str | Path) -> "FinetunedFolder":
        """Read the record in a folder; a sum of models has none, nor a model that no run of ours trained."""
        record = None if is_sum(str(source)) else training_record(locate(str(source)))
        record = record or {}
        config, task = _section(record, "config"), _section(record, "task")
        base, labels, seed = config.get("base"), task.get("labels"), config.get("data_seed")
        length = config.get("max_length")
        return cls(
            base=base if isinstance(base, str) else None,
            labels=[str(label) for label in labels] if labels else None,
            data_seed=seed if isinstance(seed, int) else 0,
            max_length=length if isinstance(length, int) else None,
        )


def _section(record: dict[str, Any], name: str) -> dict[str, Any]:
    section = record.get(name)
    return section if isinstance(section, dict) else {}
