"""The time of a study from earlier runs: seconds per row of training, and seconds of every measure."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from intruders.settings import settings_of
from intruders.studies.compare_settings import rows_in, setting_of
from intruders.studies.results import load_results
from intruders.studies.runs import Run
from intruders.studies.stages import stages_of
from intruders.studies.study_folder import PUBLISHED, StudyFolder
from intruders.studies.tables import settings_row
from intruders.studies.work import is_done
from intruders.system.files import user_path
from intruders.training.finetune_config import FinetuneConfig

from ..published.published_study import stages_in
from .costs import rows_a_step, steps_of

# By what an earlier run is like a planned one, the most alike first.
_LIKENESS = (["base", "task", "method"], ["base", "task"], ["base"])
_DEFAULTS = {name: setting.default for name, setting in settings_of(FinetuneConfig).items()}
_MEASURE = "seconds of "  # before the name of a measure, in the name of its column


def time_lines(runs: Sequence[Run], folders: Sequence[str], out: str | None = None) -> Iterator[str]:
    """Yield the time of the missing runs, in words. Finished runs in ``out``, the study's folder, do not count."""
    own = None if out is None else StudyFolder(user_path(out))
    digests: dict[str, str] = {}
    missing = [run for run in runs if own is None or not is_done(run, own.run(run.id), digests)]
    if len(missing) < len(runs):
        yield f"{len(runs) - len(missing):,} of {len(runs):,} runs are finished in '{out}'"
    tables = [
        _times(study) for folder in [*folders, *([out] if out else [])] for study in _studies_in(folder)
    ]
    known = pd.concat(tables) if tables else pd.DataFrame()
    if known.empty:
        if folders:
            yield f"time: no finished runs in {', '.join(map(repr, folders))} yet to tell it from"
        return
    medians, steps = _medians(known), known.groupby("setting")["steps"].median()
    estimates = [(run, _seconds(run, medians, steps)) for run in missing if run.config is not None]
    told = [(run, seconds) for run, seconds in estimates if seconds is not None]
    stopping = [run for run, _ in told if run.config is not None and run.config.match is not None]
    unknown = [run for run in stopping if _setting_of(settings_row(run)) not in steps]
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


def _studies_in(folder: str) -> list[Path]:
    """Return the folder if it has the tables of a study, else the folders of published tables in it."""
    path = user_path(folder)
    published = sorted(file.parent for file in path.glob(f"*/{PUBLISHED}"))
    return [path] if StudyFolder(path).is_study else published


def _times(folder: Path) -> pd.DataFrame:
    """Return the times of the finished runs of a study's folder, or of published tables.

    ``per_row`` are the seconds of training on one row, forward and backward; of a run that stops at a score, ``steps``
    are those that it took.
    """
    runs = load_results(folder).runs
    done = runs[(runs["status"] == "finished") & (runs["trained_steps"] > 0)]
    rows = done["trained_steps"] * done["batch_size"] * done["gradient_accumulation_steps"]
    settings = [_setting_of(row) for row in rows_in(done)]
    times = done[["base", "task", "method"]].assign(
        setting=settings, steps=done["trained_steps"], per_row=done["seconds"] / rows
    )
    stages = stages_in(folder)
    measures = [
        {
            # What is left of the one stage of a sequence are its audits and scores.
            f"{_MEASURE}{name}": max(0.0, stage["seconds"] - (seconds if name == "sequence" else 0.0))
            for name, stage in stages.get(run_id, {}).items()
            if name != "train"
        }
        for run_id, seconds in zip(done["run_id"], done["seconds"], strict=True)
    ]
    return times.join(pd.DataFrame(measures, index=times.index, dtype=float))


def _setting_of(row: dict[str, Any]) -> str:
    """Return all that was chosen for a run but its seed, from its row in the table of runs.

    A setting that came with a later version is not in older tables, and had its default.
    """
    known = {name: value for name, value in row.items() if not pd.isna(value)}
    return f"{row['base']} {row['task']} {setting_of(_DEFAULTS | known)}"


def _medians(known: pd.DataFrame) -> "dict[tuple[str, ...], pd.Series[float]]":
    """Return the medians of the earlier runs of every base, of its every task, and of that by every method."""
    seconds = ["per_row", *(name for name in known if str(name).startswith(_MEASURE))]
    return {
        tuple(map(str, key)): alike[seconds].median().fillna(0.0)
        for columns in _LIKENESS
        for key, alike in known.groupby(columns)
    }


def _seconds(
    run: Run, medians: "Mapping[tuple[str, ...], pd.Series[float]]", steps_by_setting: "pd.Series[float]"
) -> float | None:
    """Estimate a run's seconds by medians over the most similar earlier runs. None if none has its base."""
    assert run.config is not None
    own = settings_row(run)
    wanted = (tuple(own[name] for name in columns) for columns in _LIKENESS)
    alike = next((medians[wish] for wish in wanted if wish in medians), None)
    steps: float | None = steps_of(run)
    if alike is None or steps is None:
        return None
    if run.config.match is not None:
        steps = min(steps, float(steps_by_setting.get(_setting_of(own), steps)))
    measures = sum(float(alike.get(f"{_MEASURE}{stage.name}", 0.0)) for stage in stages_of(run))
    return steps * rows_a_step(run.config) * float(alike["per_row"]) + measures
