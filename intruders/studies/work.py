"""The work on runs: the missing stages of each are done in its folder, and a store gets what is finished.

Runs always work in a folder of this machine. To a store at a URL each finished stage is copied completely, its record
last. The files that a record lists therefore exist in the store, and a run can resume from them on another machine.
"""

import json
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DiskFullError, SettingError, StoreError, first_line, in_one_line
from ..system.files import stop_on_full_disk, write_atomically
from ..system.store import Store
from .inputs import inputs_of, model_of
from .runs import Run
from .stage import Callbacks, RunAtWork, Stage, began_in
from .stages import STAGES, stages_of
from .study_folder import FINDINGS, RUN, RunRecord, StudyFolder, changed_input, is_finished
from .tables import COLUMNS

FILES = ("study.yaml", "study.json", FINDINGS, *(f"{table}.parquet" for table in COLUMNS))


@dataclass(frozen=True)
class Workplace:
    """The folder of a study, and the URL that keeps its results, if there is one; it can be sent to another machine."""

    store: Store
    precision: str | None = None  # of trainings whose own is auto, as the finished ones have it

    @classmethod
    def of(cls, out: str) -> "Workplace":
        return cls(Store.at(out, "studies"))

    @property
    def folder(self) -> StudyFolder:
        return StudyFolder(self.store.path)

    @property
    def seen(self) -> StudyFolder:
        """The runs as the tables see them: those of the folder, or a copy of the small files in the store."""
        return self.folder if self.store.url is None else StudyFolder(self.store.path / "seen")

    def perform(
        self,
        run: Run,
        callbacks: Callbacks = tuple,
        on_stage: Callable[[str], None] = lambda name: None,
    ) -> None:
        """Do the missing stages of a run, whose record says how it ended. DiskFullError and Ctrl-C end a study."""
        self._fetch_run(run.id)
        self.store.bring("bases")
        at = RunAtWork(run, self.folder.run(run.id), self.store.path / "bases", callbacks, self.precision)
        failure = at.folder / "error.txt"
        try:
            with stop_on_full_disk(at.folder, "run the same command again; what is finished is kept"):
                self._do_missing(at, on_stage)
                failure.unlink(missing_ok=True)
        except DiskFullError:
            raise
        except Exception as error:
            RunRecord(at.folder).fail(in_one_line(error))
            failure.write_text(traceback.format_exc(), encoding="utf-8")
        self._send(run.id, RUN)

    def _do_missing(self, at: RunAtWork, on_stage: Callable[[str], None]) -> None:
        run, folder, record = at.run, at.folder, RunRecord(at.folder)
        # Of a run that was taken over, what the other study did not measure cannot be: its model is not here.
        record.begin(run, anew="taken_over" in record.read() and not is_done(run, folder))
        inputs, is_trained_now = inputs_of(run), False
        for stage in stages_of(run):
            if not is_trained_now and _is_there(stage, run, record):
                done = record.read()["stages"][stage.name]
                changed = changed_input(done, inputs | model_of(folder))
                if changed is None:
                    continue
                if stage.trains:
                    raise SettingError(
                        f"{changed} is not what it was when this run was trained; restore it, or choose another out, "
                        "or remove the folder of the run"
                    )
            on_stage(stage.name)
            began = time.perf_counter()
            stage.do(at)
            seconds = time.perf_counter() - began
            more: dict[str, Any] = {"inputs": inputs if stage.trains else inputs | model_of(folder)}
            if stage.trains:  # not done again over what is there
                is_trained_now = True
                used = began_in(folder).get("precision")
                more |= {} if used is None else {"precision": used}
            record.finish_stage(stage.name, stage.settings(run), seconds, **more)
            self._send(run.id, *stage.results, RUN)
            if stage.name == "evaluate":  # no other machine measures the base again
                self.store.send("bases")
        record.finish()

    def perform_quietly(self, run: Run) -> None:
        """Perform a run in a process of its own, without what libraries print on import."""
        from ..models.quiet import hush_imports

        hush_imports()
        self.perform(run)

    def refresh(self, runs: Iterable[Run]) -> None:
        """Bring what the tables need of runs, also of those that another machine began; nothing that is here."""
        seen = replace(self.store, path=self.seen.path)
        for run in runs:
            record, here = self._record_there(run.id), self.seen.run(run.id) / RUN
            content = json.dumps(record, indent=2)
            if record is not None and not (here.is_file() and here.read_text(encoding="utf-8") == content):
                for file in (file for stage in STAGES for file in stage.files):
                    seen.bring(f"runs/{run.id}/{file}")
                here.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(here, content.encode())

    def missing(self, runs: Sequence[Run]) -> list[Run]:
        digests: dict[str, str] = {}  # of bases and data, which many runs share
        return [run for run in runs if not is_done(run, self.seen.run(run.id), digests)]

    def fail(self, run: Run, error: str) -> None:
        """Note the failure of a run that could not do it itself."""
        self._fetch_run(run.id)
        record = RunRecord(self.folder.run(run.id))
        record.begin(run)
        record.fail(error)
        self._send(run.id, RUN)

    def note_end(self, run: Run, how: str) -> None:
        """Note that the process of a run ended, and how, unless the run could still do so itself."""
        if RunRecord(self.folder.run(run.id)).read().get("status") not in ("finished", "failed"):
            self.fail(run, f"the process of the run ended {how}; the next call resumes it")

    def _send(self, run_id: str, *names: str) -> None:
        for name in names:
            self.store.send(f"runs/{run_id}/{name}")

    def _fetch_run(self, run_id: str) -> None:
        """Bring what is finished of a run, unless this machine has as much of it already."""
        record, folder = self._record_there(run_id) or {}, self.folder.run(run_id)
        if record.get("stages", {}).keys() <= RunRecord(folder).read().get("stages", {}).keys():
            return
        unfinished = folder.with_name(f".{run_id}.part")
        for old in (folder, unfinished):
            shutil.rmtree(old, ignore_errors=True)
        self.store.bring(f"runs/{run_id}", unfinished)
        unfinished.rename(folder)

    def _record_there(self, run_id: str) -> dict[str, Any] | None:
        """Read the record of a run in the store; None if it does not exist yet, or there is no URL."""
        name = f"runs/{run_id}/{RUN}"
        content = self.store.read(name)
        try:
            record: dict[str, Any] | None = None if content is None else json.loads(content)
        except ValueError as error:
            raise StoreError(
                f"'{self.store.url}/{name}' cannot be read as the record of a run: {first_line(error)}; restore it, or "
                "remove it"
            ) from None
        return record


def is_done(run: Run, folder: Path, known: dict[str, str] | None = None) -> bool:
    """Return whether ``run`` is complete, from what base, data and model still are; ``known`` are digests so far."""
    record, stages = RunRecord(folder), stages_of(run)
    content = record.read()
    if content.get("status") != "finished" or not all(_is_there(stage, run, record) for stage in stages):
        return False
    # A run that was taken over has no model; one in its folder is of an earlier, unfinished training here.
    inputs = inputs_of(run, known) | ({} if record.is_taken_over else model_of(folder))
    return all(changed_input(content["stages"][stage.name], inputs) is None for stage in stages)


def _is_there(stage: Stage, run: Run, record: RunRecord) -> bool:
    if not is_finished(record.read(), stage.name, stage.settings(run)):
        return False
    return record.is_taken_over or stage.is_there(record.folder)


def precisions_of(runs: Iterable[Run], folder: StudyFolder) -> dict[str, str]:
    """Return what ``auto`` was, fp32 or bf16, in every run trained by it: other machines may take another."""
    known = {}
    for run in runs:
        if run.config is not None and run.config.precision == "auto":
            at = folder.run(run.id)
            stages = RunRecord(at).read().get("stages", {})
            finished = stages.get("train", stages.get("sequence"))
            if finished is not None and (used := finished.get("precision") or began_in(at).get("precision")):
                known[run.id] = str(used)
    return known
