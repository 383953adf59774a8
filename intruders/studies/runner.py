"""A study on one machine: its runs one after another, or several side by side in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import SettingError
from .config import Study
from .expand import Run, expand
from .perform import DiskFullError, is_done, perform
from .record import RunRecord
from .stages import Callbacks
from .study_folder import StudyFolder
from .tables import Tables, refuse_newer_tables
from .workers import side_by_side


@dataclass(frozen=True)
class Progress:
    """Who wants to hear how far a study is; by default nobody."""

    on_start: Callable[[int, int], None] = lambda done, total: None
    on_stage: Callable[[Run, str], None] = lambda run, stage: None
    on_run: Callable[[Run, str, int, int], None] = lambda run, status, done, total: None
    callbacks: Callbacks = tuple  # of the training of runs in this process


@dataclass(frozen=True)
class Outcome:
    """What a call did."""

    folder: Path
    runs: int
    finished: int
    failed: dict[str, str] = field(default_factory=dict)  # run id -> one line
    others: list[str] = field(default_factory=list)  # runs of an earlier form of the file


def run_study(
    study: Study,
    out: str | Path,
    *,
    resume: bool = False,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Outcome:
    """Does what is missing of a study in the folder ``out``, and writes its tables after every run.

    A finished run is kept as it is, a killed one goes on, a failed one is tried again; while one fails, the others
    proceed. ``resume`` insists that there is something to go on with. ``jobs`` is how many runs are at work at once.
    Raises IntrudersError for settings, a folder or a disk that cannot be used; KeyboardInterrupt passes through, and
    what is finished stays.
    """
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise SettingError(f"jobs is {jobs!r}; expected a number of runs at once, 1 or more")
    runs = expand(study)
    folder = StudyFolder(Path(out))
    folder.open_for(study, must_exist=resume)
    with folder.locked():
        refuse_newer_tables(folder)
        folder.keep(study, runs)
        tables = Tables(folder, runs)
        missing = [run for run in runs if not is_done(run, folder.run(run.id), folder.bases)]
        done = len(runs) - len(missing)
        progress = progress or Progress()
        progress.on_start(done, len(runs))
        tables.write()
        if jobs == 1:
            over = _one_by_one(missing, folder, progress)
        else:
            over = side_by_side(missing, folder, jobs, lambda run: progress.on_stage(run, "at work"))
        try:
            for run in over:
                done += 1
                tables.write()
                status = str(RunRecord(folder.run(run.id)).read().get("status"))
                progress.on_run(run, status, done, len(runs))
        finally:
            with suppress(OSError, DiskFullError):
                tables.write()
        return _outcome(folder, runs)


def _outcome(folder: StudyFolder, runs: Sequence[Run]) -> Outcome:
    records = {run.id: RunRecord(folder.run(run.id)).read() for run in runs}
    return Outcome(
        folder.path,
        len(runs),
        sum(record.get("status") == "finished" for record in records.values()),
        {name: str(record["error"]) for name, record in records.items() if record.get("status") == "failed"},
        folder.others(runs),
    )


def _one_by_one(runs: Sequence[Run], folder: StudyFolder, progress: Progress) -> Iterator[Run]:
    for run in runs:

        def on_stage(name: str, run: Run = run) -> None:
            progress.on_stage(run, name)

        perform(run, folder.run(run.id), folder.bases, callbacks=progress.callbacks, on_stage=on_stage)
        yield run
