"""What measures need of a model's training: its base, its labels and the seed of its data.

A run of ``intruders finetune`` has it in ``run.json``. A model that is made from a run gets it in a file of its own:
a copy of ``run.json`` would pass for the run itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ...system.documents import read_document
from ...system.files import write_atomically

RUN, TRAINING = "run.json", "training.json"
# Of both files.
SCHEMA = 1


def training_record(folder: Path) -> dict[str, Any] | None:
    """Return the record of the run that trained the model in a folder; None if the folder has none.

    Raises:
      ResultFileError: the record cannot be read.
    """
    for name in (RUN, TRAINING):
        try:
            is_file = (folder / name).is_file()
        except (OSError, ValueError):  # a hub id, or no path at all
            return None
        if is_file:
            return read_document(folder / name, "the record of a run", SCHEMA)
    return None


def keep_training(record: dict[str, Any], folder: Path) -> None:
    """Write what a model made from a run needs of the run's record."""
    facts = {
        "schema": SCHEMA,
        "status": record.get("status"),
        "config": _some_of(record, "config", ("base", "data_seed")),
        "task": _some_of(record, "task", ("labels",)),
    }
    write_atomically(folder / TRAINING, (json.dumps(facts, indent=2) + "\n").encode())


def _some_of(record: dict[str, Any], part: str, keys: tuple[str, ...]) -> dict[str, Any]:
    section = record.get(part)
    return {key: section[key] for key in keys if key in section} if isinstance(section, dict) else {}
