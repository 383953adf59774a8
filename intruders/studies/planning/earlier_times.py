"""The time of a study from earlier runs: seconds per row of training, and seconds of every measure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from ...system.documents import read_document
from ...system.files import user_path
from ..describe.runs import Run
from ..work.perform import is_done
from ..work.run_record import SCHEMA
from ..work.stages import stages_of
from ..work.study_folder import MODEL, StudyFolder
from .costs import rows_a_step, steps_of

_TRAINED = ("train", "sequence")


@dataclass(frozen=True)
class Times:
    """The times of one earlier run, in seconds."""

    base: str
    task: str  # of a sequence all, in order
    method: str
    per_row: float  # of training, forward and backward
    stages: dict[str, float]  # of the measures


def time_lines(runs: Sequence[Run], folders: Sequence[str], out: str | None = None) -> Iterator[str]:
    """Yield the time of the missing runs, in words. Finished runs in ``out``, the study's folder, do not count."""
    own = None if out is None else StudyFolder(user_path(out))
    digests: dict[str, str] = {}
    missing = [run for run in runs if own is None or not is_done(run, own.run(run.id), digests)]
    if len(missing) < len(runs):
        yield f"{len(runs) - len(missing):,} of {len(runs):,} runs are finished in '{out}'"
    known = [
        times for folder in [*folders, *([out] if out else [])] for times in _times_in(user_path(folder))
    ]
    if not known:
        if folders:
            yield f"time: no finished runs in {', '.join(map(repr, folders))} yet to tell it from"
        return
    estimates = [(run, _seconds(run, known)) for run in missing if run.config is not None]
    told = [seconds for _, seconds in estimates if seconds is not None]
    yield (
        f"time: about {sum(told) / 3600:.1f} hours for {len(told):,} runs, one after another and each trained for "
        f"all of its steps, from the times of {len(known):,} earlier runs"
    )
    without = len(estimates) - len(told)
    if without:
        yield f"time: {without:,} runs more, of which no earlier run has the base, or the number of steps is unknown"


def _times_in(folder: Path) -> Iterator[Times]:
    for file in sorted(folder.glob("runs/*/run.json")):
        record = read_document(file, "the record of a run of a study", SCHEMA) or {}
        config, stages = record.get("config"), record.get("stages", {})
        steps, seconds = _steps_and_seconds(file.parent, record)
        if config is None or record.get("status") != "finished" or not steps:
            continue
        task = " > ".join(record.get("tasks", [])) or str(config["task"])
        others = {name: float(stage["seconds"]) for name, stage in stages.items() if name not in _TRAINED}
        if "sequence" in stages:
            # What is left of the one stage of a sequence are its audits and scores.
            others["sequence"] = max(0.0, float(stages["sequence"]["seconds"]) - seconds)
        rows = steps * int(config["batch_size"]) * int(config["gradient_accumulation_steps"])
        yield Times(str(record["base"]), task, str(config["method"]), seconds / rows, others)


def _steps_and_seconds(folder: Path, record: dict[str, Any]) -> tuple[int, float]:
    """Return the steps and seconds of the training alone, over all stages of a sequence."""
    if record.get("kind") == "sequence":
        sequence = read_document(folder / "sequence.json", "a sequence", 1) or {}
        return sum(sequence.get("steps", [])), float(sequence.get("seconds", 0.0))
    training = read_document(folder / MODEL / "run.json", "the record of a run", 1) or {}
    return int(training.get("steps", 0)), float(training.get("seconds", {}).get("training", 0.0))


def _seconds(run: Run, known: Sequence[Times]) -> float | None:
    """Estimate a run's seconds by medians over the most similar earlier runs. None if none has its base."""
    assert run.config is not None
    task = " > ".join(run.tasks) or run.config.task
    wanted = [(run.base, task, run.config.method), (run.base, task), (run.base,)]
    by_likeness = (
        [times for times in known if (times.base, times.task, times.method)[: len(wish)] == wish]
        for wish in wanted
    )
    alike = next(filter(None, by_likeness), None)
    if alike is None:
        return None
    steps = steps_of(run)
    if steps is None:
        return None
    measures = 0.0
    for stage in stages_of(run):
        took = [times.stages[stage.name] for times in alike if stage.name in times.stages]
        measures += median(took) if took else 0.0
    return steps * rows_a_step(run.config) * median(times.per_row for times in alike) + measures
