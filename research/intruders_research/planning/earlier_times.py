"""The time of a study from earlier runs: seconds per row of training, and seconds of every measure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from intruders.studies.runs import Run
from intruders.studies.stages import stages_of
from intruders.studies.study_folder import MODEL, PUBLISHED, RunRecord, StudyFolder
from intruders.studies.tables import read_rows, taken_rows
from intruders.studies.work import is_done
from intruders.system.documents import read_document
from intruders.system.files import user_path
from intruders.training.finetune_config import FinetuneConfig

from ..published.published_study import PublishedRun, PublishedStudy
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
    steps: int  # of training; of one that stops at a score those that it took
    setting: str  # all that was chosen but the seed


@dataclass(frozen=True)
class Medians:
    """Medians over earlier runs that are alike, in seconds."""

    per_row: float
    stages: dict[str, float]


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
    medians, steps = _medians(known), _steps_by_setting(known)
    estimates = [(run, _seconds(run, medians, steps)) for run in missing if run.config is not None]
    told = [(run, seconds) for run, seconds in estimates if seconds is not None]
    stopping = [run for run, _ in told if run.config is not None and run.config.match is not None]
    unknown = [run for run in stopping if _setting_of(run.description()) not in steps]
    extent = "at most about" if unknown else "about"
    trained = "" if stopping else " and each trained for all of its steps"
    hours = sum(seconds for _, seconds in told) / 3600
    yield (
        f"time: {extent} {hours:.1f} hours for {len(told):,} runs, one after another{trained}, from the times of "
        f"{len(known):,} earlier runs"
    )
    if len(unknown) < len(stopping):
        yield (
            f"time: {len(stopping) - len(unknown):,} of these runs stop at a score (match) and count with the steps "
            "that earlier runs of their setting took"
        )
    if unknown:
        yield (
            f"time: {len(unknown):,} of these runs stop at a score (match) and count with all of their steps, an upper "
            "bound, since no earlier run has their setting"
        )
    without = len(estimates) - len(told)
    if without:
        yield f"time: {without:,} runs more, of which no earlier run has the base, or the number of steps is unknown"


def _times_in(folder: Path) -> Iterator[Times]:
    """Yield the times of the finished runs of a study's folder, of published tables, or of a folder of several."""
    if (folder / PUBLISHED).is_file():
        yield from _published_times(PublishedStudy.load(folder))
        return
    for file in sorted(folder.glob("runs/*/run.json")):
        record = RunRecord(file.parent).read()
        if record.get("status") == "finished":
            yield from _times_of(record, *_steps_and_seconds(file.parent, record))
    for file in sorted(folder.glob(f"*/{PUBLISHED}")):
        yield from _published_times(PublishedStudy.load(file.parent))


def _published_times(published: PublishedStudy) -> Iterator[Times]:
    rows = {row["run_id"]: row for row in read_rows(published.folder / "runs.parquet")}
    for run in published.runs:
        yield from _times_of(_record_of(run), *_trained(rows.get(run.id, {})))


def _trained(row: Mapping[str, Any]) -> tuple[int, float]:
    """Return the steps and seconds of a training from its row in the table of runs."""
    return int(row.get("trained_steps") or 0), float(row.get("seconds") or 0.0)


def _record_of(run: PublishedRun) -> dict[str, Any]:
    """Return what the record of a published run says of it, where only the settings that are no default are kept."""
    settings = run.settings
    config = settings.get("config")
    if config is not None:
        config = FinetuneConfig.from_mapping({**config, "out": MODEL}, f"run {run.id!r}").as_dict()
    return {"tasks": []} | settings | {"config": config, "stages": run.stages}


def _times_of(record: Mapping[str, Any], steps: int, seconds: float) -> Iterator[Times]:
    """Yield the times of a run that took these steps and seconds to train; nothing of one that trained nothing."""
    config, stages = record.get("config"), record.get("stages", {})
    if config is None or not steps:
        return
    task = " > ".join(record.get("tasks", [])) or str(config["task"])
    others = {name: float(stage["seconds"]) for name, stage in stages.items() if name not in _TRAINED}
    if "sequence" in stages:
        # What is left of the one stage of a sequence are its audits and scores.
        others["sequence"] = max(0.0, float(stages["sequence"]["seconds"]) - seconds)
    rows = steps * int(config["batch_size"]) * int(config["gradient_accumulation_steps"])
    yield Times(
        str(record["base"]),
        task,
        str(config["method"]),
        seconds / rows,
        others,
        steps,
        _setting_of(record),
    )


def _setting_of(record: Mapping[str, Any]) -> str:
    """Return all that was chosen for a run but its seed, from its description or its record."""
    config = {name: value for name, value in record["config"].items() if name not in ("seed", "out")}
    return json.dumps([record["kind"], record["base"], record["tasks"], config], sort_keys=True)


def _steps_by_setting(known: Sequence[Times]) -> dict[str, float]:
    """Return the median steps of the earlier runs of every setting."""
    taken: dict[str, list[int]] = {}
    for times in known:
        taken.setdefault(times.setting, []).append(times.steps)
    return {setting: median(steps) for setting, steps in taken.items()}


def _medians(known: Sequence[Times]) -> dict[tuple[str, ...], Medians]:
    """Return the medians of the earlier runs of every base, of its every task, and of that by every method."""
    alike: dict[tuple[str, ...], list[Times]] = {}
    for times in known:
        for likeness in ((times.base, times.task, times.method), (times.base, times.task), (times.base,)):
            alike.setdefault(likeness, []).append(times)
    medians: dict[tuple[str, ...], Medians] = {}
    for wish, group in alike.items():
        stages: dict[str, list[float]] = {}
        for times in group:
            for name, seconds in times.stages.items():
                stages.setdefault(name, []).append(seconds)
        medians[wish] = Medians(
            median(times.per_row for times in group),
            {name: median(seconds) for name, seconds in stages.items()},
        )
    return medians


def _steps_and_seconds(folder: Path, record: dict[str, Any]) -> tuple[int, float]:
    """Return the steps and seconds of the training alone, over all stages of a sequence."""
    if RunRecord(folder).is_taken_over:
        return _trained(next(iter(taken_rows(folder, ["runs"], ["runs"])["runs"]), {}))
    if record.get("kind") == "sequence":
        sequence = read_document(folder / "sequence.json", "a sequence", 1) or {}
        return sum(sequence.get("steps", [])), float(sequence.get("seconds", 0.0))
    training = read_document(folder / MODEL / "run.json", "the record of a run", 1) or {}
    return int(training.get("steps", 0)), float(training.get("seconds", {}).get("training", 0.0))


def _seconds(
    run: Run, medians: Mapping[tuple[str, ...], Medians], steps_by_setting: Mapping[str, float]
) -> float | None:
    """Estimate a run's seconds by medians over the most similar earlier runs. None if none has its base."""
    assert run.config is not None
    task = " > ".join(run.tasks) or run.config.task
    wanted = [(run.base, task, run.config.method), (run.base, task), (run.base,)]
    alike = next((medians[wish] for wish in wanted if wish in medians), None)
    if alike is None:
        return None
    steps: float | None = steps_of(run)
    if steps is None:
        return None
    if run.config.match is not None:
        steps = min(steps, steps_by_setting.get(_setting_of(run.description()), steps))
    measures = sum(alike.stages.get(stage.name, 0.0) for stage in stages_of(run))
    return steps * rows_a_step(run.config) * alike.per_row + measures
