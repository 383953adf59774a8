"""A study of seconds on tiny models, as the text of its file."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from intruders.studies import stages
from intruders.studies.run_study import run_study
from intruders.studies.stage import RunAtWork
from intruders.studies.study import Study, study_from_text
from tests.tiny import short_task

# Where it does not matter what is measured: a score on 200 examples, the default, takes longer than the training.
BRIEF = {"audit": {"k": 4}, "max_examples": 2}
LORA = {"method": "lora", "rank": 1, "alpha": 16, "lr": 0.5}
FULL = {"method": "full", "lr": 1e-3}


def tiny_study(llama: Path, **changes: Any) -> dict[str, Any]:
    """Two methods on one task, with every measure; ``changes`` go over the experiment's settings."""
    experiment = {
        "base": str(llama),
        "task": changes.get("task") or short_task(llama.parent),
        "max_train_samples": 16,
        "max_eval_samples": 2,
        "max_new_tokens": 8,  # a tiny model never ends an answer by itself
        "max_length": 300,
        "steps": 2,
        "batch_size": 4,
        "precision": "fp32",
        "audit_steps": 1,
        "methods": [LORA, FULL],
        "measure": {
            "audit": {"k": 4},
            "loss_on": ["pydoc"],
            "max_documents": 2,
            "max_tokens": 64,  # of a document of twenty thousand
            "max_examples": 2,
            "window": 32,
            "critical_scale": True,
            "output_energy": True,
            "intervene": {"scales": [0], "controls": ["shrink"]},
        },
    }
    return {"name": "tiny", "experiments": {"matched": deepcopy(experiment | changes)}}


def contents(folder: Path) -> dict[str, bytes]:
    files = (file for file in folder.rglob("*") if file.is_file() and file.name != ".lock")
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def parsed(document: dict[str, Any]) -> Study:
    return study_from_text(yaml.safe_dump(document, sort_keys=False), name="file", where="study 'file.yaml'")


def stages_do(monkeypatch: pytest.MonkeyPatch, do: Callable[[RunAtWork], None], work: str = "") -> None:
    """Let the stage of that name, or every one for "", do something else."""
    others = (replace(stage, do=do) if work in ("", stage.name) else stage for stage in stages.STAGES)
    monkeypatch.setattr(stages, "STAGES", tuple(others))


def cut_off_at(work: str, study: Study, out: str | Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a study until it comes to a stage, or to any for "", as Ctrl-C ends it there."""

    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        stages_do(patched, stopped, work)
        with pytest.raises(KeyboardInterrupt):
            run_study(study, out)
