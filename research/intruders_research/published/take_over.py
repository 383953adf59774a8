"""Finished runs of published tables, taken over into a study of one's own: only where every setting is the same."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from intruders.errors import ResultFileError, SettingError
from intruders.studies.inputs import inputs_of
from intruders.studies.runs import Run
from intruders.studies.stages import stages_of
from intruders.studies.study_folder import PUBLISHED, TAKEN_OVER, RunRecord, StudyFolder, changed_input
from intruders.studies.tables import settings_row, to_parquet
from intruders.studies.work import is_done
from intruders.system.files import user_path, write_atomically

from .published_study import PublishedRun, PublishedStudy

_MOST_DIFFERENCES = 3  # settings that are named, of a run that is refused


@dataclass(frozen=True)
class TakeOver:
    """The published runs that a study can use, decided before anything is written."""

    published: PublishedStudy
    runs: list[tuple[Run, PublishedRun]]
    refused: dict[str, str] = field(default_factory=dict)  # id of a published run -> why, in one line

    def into(self, folder: StudyFolder) -> list[str]:
        """Write the rows and the record of every run that is not finished in ``folder``; return their ids.

        A run appears when its record is written, which is last: after a kill the same call does the rest.
        """
        source = {
            "study": self.published.name,
            "published": self.published.date,
            "study_file_sha256": self.published.study_digest,
        }
        taken = []
        for run, theirs in self.runs:
            if is_done(run, folder.run(run.id)):
                continue
            rows = self.published.rows_of(theirs.id)
            kept = folder.run(run.id) / TAKEN_OVER
            kept.mkdir(parents=True, exist_ok=True)
            for table, own in rows.items():
                write_atomically(kept / f"{table}.parquet", to_parquet(table, own))
            RunRecord(folder.run(run.id)).take_over(run, theirs.stages, source, rows)
            taken.append(run.id)
        return taken


def plan_take_over(path: str | Path, runs: Sequence[Run], name: str = "") -> TakeOver:
    """Match published runs with those of a study by the digest of their settings.

    Args:
      path: a folder of published tables, or one with such folders of several studies.
      runs: those of the study that may use them.
      name: that of the study.

    Raises:
      ResultFileError: the folder is damaged, or says one thing of a run and its tables another.
      SettingError: not a single run can be taken over.
    """
    folder = user_path(path)
    if name and not (folder / PUBLISHED).is_file():
        folder = _of_study(name, folder)
    published = PublishedStudy.load(folder)
    by_digest = {run.digest: run for run in runs}
    matched: list[tuple[Run, PublishedRun]] = []
    refused: dict[str, str] = {}
    digests: dict[str, str] = {}
    ours: list[dict[str, Any]] = []  # of all runs, once one is refused
    for theirs in published.runs:
        own = by_digest.get(theirs.digest)
        if own is None:
            ours = ours or [_flat(run.settings()) | {"experiment": run.experiment} for run in runs]
            refused[theirs.id] = _nearest(theirs, ours)
        elif reason := _other_measures(own, theirs) or _other_inputs(own, theirs, digests):
            refused[theirs.id] = reason
        else:
            _check_rows(own, theirs, published)
            matched.append((own, theirs))
    if not matched:
        reason = (
            "; ".join(f"{run}: {why}" for run, why in list(refused.items())[:1]) or "it has no finished run"
        )
        raise SettingError(
            f"--from '{path}' has no run of this study file ({reason}); pass the tables of the same settings, or "
            "remove --from"
        )
    return TakeOver(published, matched, refused)


def _of_study(name: str, folder: Path) -> Path:
    """Return which of the published tables in ``folder`` are those of the study; the folder itself if none are."""
    for file in sorted(folder.glob(f"*/{PUBLISHED}")):
        try:
            if PublishedStudy.read_record(file.parent).name == name:
                return file.parent
        except ResultFileError:  # of another study, mostly, whose damage does not matter here
            continue
    return folder / name if (folder / name / PUBLISHED).is_file() else folder


def _other_measures(own: Run, theirs: PublishedRun) -> str:
    """Return why a run's measures cannot be used: missing, or with other settings; empty if they can."""
    for stage in stages_of(own):
        kept = theirs.stages.get(stage.name)
        wanted = json.loads(json.dumps(stage.settings(own)))
        if not isinstance(kept, dict):
            return f"'{stage.name}' was not measured, and the model is not published"
        settings = kept.get("settings")
        if settings != wanted:
            return f"'{stage.name}' was measured by other settings: {_differences(wanted, settings or {})}"
    return ""


def _other_inputs(own: Run, theirs: PublishedRun, digests: dict[str, str]) -> str:
    here = inputs_of(own, digests)
    for stage in stages_of(own):
        name = changed_input(theirs.stages[stage.name], here)
        if name is not None:
            return f"{name} has another content here than the one that it was made from"
    return ""


def _nearest(theirs: PublishedRun, ours: Sequence[dict[str, Any]]) -> str:
    """Describe how a published run differs from the study's nearest run, by the settings of all runs."""
    there = _flat(theirs.settings) | {"experiment": theirs.experiment}
    nearest = min(ours, key=lambda settings: len(_differing(settings, there)), default={})
    return f"the nearest run of the file differs in {_differences(nearest, there)}"


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    config = settings.get("config")
    return {key: value for key, value in settings.items() if key != "config"} | dict(config or {})


def _differing(own: dict[str, Any], there: dict[str, Any]) -> list[str]:
    return sorted(key for key in own.keys() | there.keys() if own.get(key) != there.get(key))


def _differences(own: dict[str, Any], there: dict[str, Any]) -> str:
    names = _differing(own, there)
    named = [f"{key} ({own.get(key)!r} here, {there.get(key)!r} there)" for key in names[:_MOST_DIFFERENCES]]
    more = f" and {len(names) - _MOST_DIFFERENCES} more" if len(names) > _MOST_DIFFERENCES else ""
    return f"{', '.join(named)}{more}"


def _check_rows(run: Run, theirs: PublishedRun, published: PublishedStudy) -> None:
    """Refuse a table of runs that differs from the study's file in a setting, or counts rows that others lack."""
    tables = published.rows_of(run.id)
    row = next(iter(tables.get("runs", [])), {})
    for column, expected in ({"status": "finished"} | settings_row(run)).items():
        # A column that came with a later version is not in older tables.
        if column in row and row[column] != expected:
            raise ResultFileError(
                f"'{published.folder}': runs.parquet has {column} {row[column]!r} for the run {run.id!r}; the study "
                f"file has {expected!r}; the tables are of another version, so run this study without --from"
            )
    for table, expected in _counted(row, theirs.stages).items():
        number = len(tables.get(table, []))
        if number != expected:
            raise ResultFileError(
                f"'{published.folder}' has {number} rows of the run {run.id!r} in {table}.parquet; expected "
                f"{expected}, as its stages tell; publish the study again"
            )


def _counted(row: dict[str, Any], stages: dict[str, Any]) -> dict[str, int]:
    counted = {"runs": 1}
    if "audit" in stages:
        counted |= {table: int(row.get(table) or 0) for table in ("matrices", "vectors")}
    if "evaluate" in stages:
        counted["losses"] = len(set(stages["evaluate"]["settings"].get("loss_on", ())))
    return counted
