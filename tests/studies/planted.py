"""Made-up studies in which the truth is planted, for tests of the analyses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from intruders.studies.results import COLUMNS, Results
from intruders.training.config import FinetuneConfig

DEFAULTS = FinetuneConfig(base="tiny", task="words", out="out", steps=100).as_dict()


def run(run_id: str, **changes: Any) -> dict[str, Any]:
    """The row of a finished fine-tuning that reached its match criterion; nothing about it is remarkable."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS["runs"])
    row |= {key: ",".join(value) if isinstance(value, list) else value for key, value in DEFAULTS.items()}
    row |= {
        "run_id": run_id,
        "experiment": "matched",
        "kind": "finetune",
        "status": "finished",
        "seconds": 10.0,
        "match": "accuracy=0.90",
        "trained_steps": 100,
        "stopped_by": "match",
        "validation_accuracy": 0.91,
        "accuracy": 0.90,
        "accuracy_low": 0.85,
        "accuracy_high": 0.94,
        "corpus": "pydoc",
        "loss_measure": "cross-entropy",
        "base_loss": 2.9,
        "loss": 3.0,
        "loss_change": 0.1,
        "loss_change_low": 0.05,
        "loss_change_high": 0.15,
        "k": 10,
        "epsilon": 0.5,
        "intruders": 0,
        "vectors": 200,
        "affected_matrices": 0,
        "matrices": 20,
        "intruder_energy_share": 0.0,
        "update_frobenius": 1.0,
        "relative_update": 0.1,
        "effective_rank": 4.0,
        "critical_scale": 2.0,
        "seed": 0,
    }
    return row | changes


def study(**tables: list[Mapping[str, Any]]) -> Results:
    """Results of the given rows; tables that are not given are empty."""
    frames = {
        name: pd.DataFrame([dict(row) for row in tables.get(name, [])], columns=columns)
        for name, columns in COLUMNS.items()
    }
    failed = frames["runs"].loc[frames["runs"]["status"] == "failed", "run_id"].tolist()
    return Results(folder=Path("nowhere"), failed=failed, **frames)
