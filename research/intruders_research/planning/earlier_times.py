"""The time of a study from earlier runs: seconds per row of training, and seconds of every measure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

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


# By what an earlier run is like a planned one, the most alike first.
_LIKENESS = (["base", "task", "method"], ["base", "task"], ["base"])
_MEASURE = "seconds of "  # before the name of a measure, in the name of its column


def time_lines(runs: Sequence[Run], folders: Sequence[str], out: str | None = None) -> Iterator[str]:
    """Yield the time of the missing runs, in words. Finished runs in ``out``, the study's folder, do not count."""
    own = None if out is None else StudyFolder(user_path(out))
    digests: dict[str, str] = {}
    missing = [run for run in runs if own is None or not is_done(run, own.run(run.id), digests)]
    if len(missing) < len(runs):
        yield f"{len(runs) - len(missing):,} of {len(runs):,} runs are finished in '{out}'"
    rows = [row for folder in [*folders, *([out] if out else [])] for row in _times_in(user_path(folder))]
    if not rows:
        if folders:
            yield f"time: no finished runs in {', '.join(map(repr, folders))} yet to tell it from"
        return
    known = pd.DataFrame(rows)
    medians, steps = _medians(known), known.groupby("setting")["steps"].median()
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


def _times_in(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the times of the finished runs of a study's folder, of published tables, or of a folder of several.

    ``per_row`` are the seconds of training on one row, forward and backward; of a run that stops at a score, ``steps``
    are those that it took.
    """
    if (folder / PUBLISHED).is_file():
        yield from _published_times(PublishedStudy.load(folder))
        return
    for file in sorted(folder.glob("runs/*/run.json")):
        record = RunRecord(file.parent).read()
        if record.get("status") == "finished":
            yield from _times_of(record, *_steps_and_seconds(file.parent, record))
    for file in sorted(folder.glob(f"*/{PUBLISHED}")):
        yield from _published_times(PublishedStudy.load(file.parent))


def _published_times(published: PublishedStudy) -> Iterator[dict[str, Any]]:
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


def _times_of(record: Mapping[str, Any], steps: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yield the times of a run that took these steps and seconds to train; nothing of one that trained nothing."""
    config, stages = record.get("config"), record.get("stages", {})
    if config is None or not steps:
        return
    measures = {
        f"{_MEASURE}{name}": float(stage["seconds"]) for name, stage in stages.items() if name not in _TRAINED
    }
    if "sequence" in stages:
        # What is left of the one stage of a sequence are its audits and scores.
        measures[f"{_MEASURE}sequence"] = max(0.0, float(stages["sequence"]["seconds"]) - seconds)
    rows = steps * int(config["batch_size"]) * int(config["gradient_accumulation_steps"])
    yield {
        "base": str(record["base"]),
        "task": " > ".join(record.get("tasks", [])) or str(config["task"]),
        "method": str(config["method"]),
        "setting": _setting_of(record),
        "steps": steps,
        "per_row": seconds / rows,
        **measures,
    }


def _setting_of(record: Mapping[str, Any]) -> str:
    """Return all that was chosen for a run but its seed, from its description or its record."""
    config = {name: value for name, value in record["config"].items() if name not in ("seed", "out")}
    return json.dumps([record["kind"], record["base"], record["tasks"], config], sort_keys=True)


def _medians(known: pd.DataFrame) -> dict[tuple[str, ...], pd.Series[float]]:
    """Return the medians of the earlier runs of every base, of its every task, and of that by every method."""
    seconds = ["per_row", *(name for name in known if str(name).startswith(_MEASURE))]
    return {
        tuple(map(str, key)): alike[seconds].median().fillna(0.0)
        for columns in _LIKENESS
        for key, alike in known.groupby(columns)
    }


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
    run: Run, medians: Mapping[tuple[str, ...], pd.Series[float]], steps_by_setting: pd.Series[float]
) -> float | None:
    """Estimate a run's seconds by medians over the most similar earlier runs. None if none has its base."""
    assert run.config is not None
    own = {"base": run.base, "task": " > ".join(run.tasks) or run.config.task, "method": run.config.method}
    wanted = (tuple(own[name] for name in columns) for columns in _LIKENESS)
    alike = next((medians[wish] for wish in wanted if wish in medians), None)
    steps: float | None = steps_of(run)
    if alike is None or steps is None:
        return None
    if run.config.match is not None:
        steps = min(steps, float(steps_by_setting.get(_setting_of(run.description()), steps)))
    measures = sum(float(alike.get(f"{_MEASURE}{stage.name}", 0.0)) for stage in stages_of(run))
    return steps * rows_a_step(run.config) * float(alike["per_row"]) + measures
