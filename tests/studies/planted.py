"""Made-up studies in which the truth is planted, for tests of the analyses."""

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from intruders.studies.results import Results
from intruders.studies.tables import COLUMNS, typed
from intruders.training.finetune_config import FinetuneConfig

DEFAULTS = FinetuneConfig(base="tiny", task="words", out="out", steps=100).as_dict()


def run(run_id: str, **changes: Any) -> dict[str, Any]:
    """The row of a finished fine-tuning that reached its match criterion; nothing about it is remarkable."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS["runs"])
    row |= {key: ",".join(value) if isinstance(value, list) else value for key, value in DEFAULTS.items()}
    row |= {
        "run_id": run_id, "experiment": "matched", "kind": "finetune", "status": "finished",
        "seconds": 10.0, "match": "accuracy=0.90", "trained_steps": 100, "stopped_by": "match",
        "validation_accuracy": 0.91, "accuracy": 0.90, "accuracy_low": 0.85, "accuracy_high": 0.94,
        "corpus": "pydoc", "loss_measure": "cross-entropy", "base_loss": 2.9, "loss": 3.0,
        "loss_change": 0.1, "loss_change_low": 0.05, "loss_change_high": 0.15, "k": 10, "epsilon": 0.5,
        "intruders": 0, "vectors": 200, "affected_matrices": 0, "matrices": 20,
        "intruder_energy_share": 0.0, "update_frobenius": 1.0, "relative_update": 0.1,
        "effective_rank": 4.0, "critical_scale": 2.0, "seed": 0,
    }  # fmt: skip
    return row | changes


def study(**tables: list[Mapping[str, Any]]) -> Results:
    """Results of the given rows; tables that are not given are empty."""
    frames = {
        name: typed(pd.DataFrame([dict(row) for row in tables.get(name, [])], columns=columns), name)
        for name, columns in COLUMNS.items()
    }
    failed = frames["runs"].loc[frames["runs"]["status"] == "failed", "run_id"].tolist()
    return Results(folder=Path("nowhere"), failed=failed, **frames)


def noise(*key: object, size: float = 1.0) -> float:
    """A number about zero that depends on ``key`` alone."""
    return size * random.Random(repr(key)).gauss(0, 1)


def comparisons(
    runs: list[dict[str, Any]], gains: Mapping[str, float], *, saved: float = 0.05, lost: float = 0.01
) -> list[dict[str, Any]]:
    """A comparison of remedies on every run: each gains as much as is planted, saves loss and costs accuracy alike."""
    rows = []
    for of in runs:
        common = dict.fromkeys(COLUMNS["remedies"]) | {
            "run_id": of["run_id"],
            "share": "report",
            "chosen": False,
        }
        tuned = {"remedy": "interpolate", "strength": 1.0, "corpus_loss": 3.0, "accuracy": 0.9}
        tuned |= {"loss": 3.0 + of["loss_change"]}
        rows.append(common | tuned)
        rows.append(common | tuned | {"strength": 0.0, "corpus_loss": 2.9, "loss": 3.0, "accuracy": 0.1})
        rows.append(common | tuned | {"strength": 0.8, "corpus_loss": 3.0 - saved / 2, "chosen": True})
        for remedy, gain in gains.items():
            found = gain + noise(of["run_id"], remedy, size=0.01)
            point = common | {"remedy": remedy, "strength": 0.5, "healed": 0.4, "kept": 0.9}
            point |= {"corpus_loss": 3.0 - saved, "accuracy": 0.9 - lost, "gain": found}
            point |= {"gain_low": found - 0.05, "gain_high": found + 0.05}
            rows.append(point | {"share": "choice", "gain": 9.0})
            rows.append(point | {"chosen": True, "over_allowance": False})
            rows.append(point | {"control": "shrink", "gain": -9.0})
        rows.append(common | {"remedy": "dg-hard", "reason": "a low-rank update has no noise"})
    return rows
