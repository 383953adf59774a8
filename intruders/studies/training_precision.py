"""The precision that a study trains in: where it is ``auto``, later runs train as the finished ones did.

``auto`` is bf16 on one machine and fp32 on another, so a study that is continued elsewhere would compare the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoints.writing.training_record import SCHEMA
from ..system.documents import read_document
from ..training.finetune_config import FinetuneConfig
from .run_record import RunRecord
from .runs import Run
from .study_folder import MODEL, StudyFolder

TRAINING = ("train", "sequence")  # stages that train


def precisions_of(runs: Iterable[Run], folder: StudyFolder) -> dict[str, str]:
    """Return what ``auto`` was in every run that has been trained by it, by run id: ``fp32`` or ``bf16``.

    Runs that an earlier version published are left out, since no record tells it.
    """
    known = {}
    for run in runs:
        if run.config is None or run.config.precision != "auto":
            continue
        stages = RunRecord(folder.run(run.id)).read().get("stages", {})
        finished = [stages[name] for name in TRAINING if name in stages]
        if finished:
            used = finished[0].get("precision") or began_in(folder.run(run.id)).get("precision")
            if used is not None:
                known[run.id] = str(used)
    return known


def most_common(precisions: Mapping[str, str]) -> str | None:
    """Return the precision of most runs; None without runs."""
    return Counter(precisions.values()).most_common(1)[0][0] if precisions else None


def as_the_others(config: FinetuneConfig, folder: Path, settled: str | None) -> FinetuneConfig:
    """Return ``config`` with the precision that its run began with in ``folder``, or with that of the finished runs."""
    if config.precision != "auto":
        return config
    used = began_in(folder).get("precision", settled)
    return config if used is None else replace(config, precision=used)


def began_in(folder: Path) -> dict[str, Any]:
    """Return the record of the training in a run's folder, or of the first of a sequence; empty without one."""
    for model in (MODEL, f"{MODEL}/stage-1"):
        record = read_document(folder / model / "run.json", "the record of a run", SCHEMA)
        if record is not None:
            return record
    return {}
