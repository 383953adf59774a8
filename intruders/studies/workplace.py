"""The folder that a study works in and the store of its results: one folder for both, or a folder and a URL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ..system.remote_folder import local_folder
from .perform import is_done, perform
from .remote_store import Store
from .run_record import RunRecord
from .runs import Run
from .stage import Callbacks, Stage
from .study_folder import FINDINGS, TABLES, StudyFolder


@dataclass(frozen=True)
class Workplace:
    """A value that can be sent to another process or, with a store or a mounted folder, to another machine."""

    folder: StudyFolder
    store: Store | None = None
    precision: str | None = None  # of trainings whose own is auto, as the finished ones have it

    @classmethod
    def of(cls, out: str) -> Workplace:
        """Return the workplace that ``out`` names: a folder, or a URL. SettingError for a URL that cannot be used."""
        return cls(StudyFolder(local_folder(out, "studies")), Store.at(out))

    @property
    def seen(self) -> StudyFolder:
        """The runs as the tables see them: those of the folder, or a copy of the small files in the store."""
        return self.folder if self.store is None else StudyFolder(self.folder.path / "seen")

    def perform(
        self,
        run: Run,
        callbacks: Callbacks = tuple,
        on_stage: Callable[[str], None] = lambda name: None,
    ) -> bool:
        """Do the missing stages of a run; see :func:`.perform.perform`. Finished ones reach the store at once."""
        folder, store = self.folder.run(run.id), self.store
        do_missing = partial(
            perform,
            run,
            folder,
            self.folder.bases,
            precision=self.precision,
            callbacks=callbacks,
            on_stage=on_stage,
        )
        if store is None:
            return do_missing()
        store.fetch_run(folder)
        store.fetch_bases(self.folder.bases)

        def after_stage(stage: Stage) -> None:
            store.put_stage(folder, stage.results)
            if stage.name == "evaluate":
                store.put_bases(self.folder.bases)

        is_finished = do_missing(after_stage=after_stage)
        store.put_record(folder)
        return is_finished

    def perform_quietly(self, run: Run) -> bool:
        """Perform a run in a process of its own, without what libraries print on import."""
        from ..models.quiet import hush_imports

        hush_imports()
        return self.perform(run)

    def refresh(self, run_id: str) -> None:
        """Bring what the tables need of a run."""
        if self.store is not None:
            self.store.fetch_for_tables(self.seen.run(run_id))

    def refresh_all(self, runs: Sequence[Run]) -> None:
        """Bring what the tables need of every run, also of those that another machine began."""
        for run in runs:
            self.refresh(run.id)

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        """Return the runs that are not finished, by what :meth:`refresh` brought."""
        unfinished = []
        digests: dict[str, str] = {}  # of bases and data, which many runs share
        for run in runs:
            if not is_done(run, self.seen.run(run.id), digests):
                unfinished.append(run)
        return unfinished

    def fail(self, run: Run, error: str) -> None:
        """Note the failure of a run that could not do it itself."""
        record = RunRecord(self.folder.run(run.id))
        if self.store is not None:
            self.store.fetch_run(record.folder)
        record.begin(run)
        record.fail(error)
        if self.store is not None:
            self.store.put_record(record.folder)

    def note_end(self, run: Run, how: str) -> None:
        """Note that the process of a run ended, and how, unless the run could still do so itself."""
        if RunRecord(self.folder.run(run.id)).read().get("status") not in ("finished", "failed"):
            self.fail(run, f"the process of the run ended {how}; the next call resumes it")

    def fetch_study(self) -> None:
        """Bring the study's own files."""
        for file in self._files() if self.store is not None else ():
            assert self.store is not None
            self.store.fetch_file(file)

    def put_study(self) -> None:
        """Put the study's own files."""
        for file in self._files() if self.store is not None else ():
            assert self.store is not None
            self.store.put_file(file)

    def put_findings(self) -> None:
        """Put the verdicts, which are written when the study's own files are in the store already."""
        if self.store is not None:
            self.store.put_file(self.folder.path / FINDINGS)

    def _files(self) -> list[Path]:
        names = ["study.yaml", "study.json", FINDINGS]
        return [*(self.folder.path / name for name in names), *map(self.folder.table, TABLES)]
