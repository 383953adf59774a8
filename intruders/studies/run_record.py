"""The record of a run of a study, ``run.json`` in its folder: what it is, what is finished, and what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ResultFileError
from ..system.documents import read_document
from ..system.files import write_atomically
from .runs import Run
from .study_folder import TAKEN_OVER

SCHEMA = 1
NO_INPUTS: Mapping[str, str] = MappingProxyType({})
# Those that a stage always leaves rows in.
_TABLES = {"audit": ("matrices", "vectors"), "sequence": ("sequences",), "mechanism": ("mechanism",)}


def changed_input(finished: Mapping[str, Any], inputs: Mapping[str, str]) -> str | None:
    """Return an input of a finished stage's record that has another digest in ``inputs``; None without one."""
    then: dict[str, str] = finished.get("inputs", {})
    return next((name for name, digest in then.items() if inputs.get(name, digest) != digest), None)


def is_finished(record: Mapping[str, Any], stage: str, settings: Mapping[str, Any]) -> bool:
    """Return True if a stage of a run's record is finished with these settings."""
    finished = record.get("stages", {}).get(stage)
    return finished is not None and finished.get("settings") == json.loads(json.dumps(settings))


@dataclass(frozen=True)
class RunRecord:
    """``run.json`` of one folder. It is written after what it tells of, so that it is never ahead of the files."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "run.json"

    def read(self) -> dict[str, Any]:
        """Read the record; empty if it does not exist. ResultFileError if it is broken or of a newer version."""
        record = read_document(self.file, "the record of a run of a study", SCHEMA) or {}
        stages = record.get("stages", {})
        if not isinstance(stages, dict) or not all(isinstance(stage, dict) for stage in stages.values()):
            raise ResultFileError(
                f"'{self.file}' is not the record of a run of a study: its stages are no objects by name; remove it, "
                "and run the study again"
            )
        return record

    def begin(self, run: Run) -> None:
        """Note that work on ``run`` has begun; stages that are finished stay so."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._write({"stages": {}} | self.read() | run.description() | {"status": "running", "error": None})

    @property
    def is_taken_over(self) -> bool:
        """True if the run was finished elsewhere: its rows are here, and its model and audits are not."""
        return "taken_over" in self.read() and (self.folder / TAKEN_OVER).is_dir()

    @property
    def taken_tables(self) -> list[str]:
        """The tables of which rows of a run that was taken over were written.

        Records of earlier versions do not list them: for those, the tables that its stages never leave empty.
        """
        record = self.read()
        listed = record.get("taken_tables")
        if isinstance(listed, list):
            return list(map(str, listed))
        return ["runs", *(table for stage in record.get("stages", {}) for table in _TABLES.get(stage, ()))]

    def take_over(
        self, run: Run, stages: dict[str, Any], source: dict[str, Any], tables: Iterable[str]
    ) -> None:
        """Note that ``run`` was finished elsewhere, in these ``stages``, where its rows are from, and their tables."""
        ended = {"stages": stages, "status": "finished", "error": None}
        self._write(run.description() | ended | {"taken_over": source, "taken_tables": list(tables)})

    def forget_what_was_taken_over(self) -> None:
        """Note that nothing is finished here of a run that was taken over."""
        record = self.read()
        record.pop("taken_over", None)
        record.pop("taken_tables", None)
        self._write(record | {"stages": {}, "status": "pending"})

    def has(self, stage: str, settings: dict[str, Any]) -> bool:
        """Return True if a stage is finished with these settings."""
        return is_finished(self.read(), stage, settings)

    def changed(self, stage: str, inputs: Mapping[str, str]) -> str | None:
        """Return an input of a finished stage that has another digest now; None without one.

        Records of earlier versions do not say what they were made from.
        """
        return changed_input(self.read().get("stages", {}).get(stage, {}), inputs)

    def finish_stage(
        self,
        stage: str,
        settings: dict[str, Any],
        seconds: float,
        inputs: Mapping[str, str] = NO_INPUTS,
        precision: str | None = None,
    ) -> None:
        """Note that a stage is finished, and in which precision it trained, if it did."""
        record = self.read()
        record["stages"][stage] = {
            "settings": settings,
            "seconds": round(seconds, 3),
            "inputs": dict(inputs),
        } | ({} if precision is None else {"precision": precision})
        self._write(record)

    def finish(self) -> None:
        self._write(self.read() | {"status": "finished", "error": None})

    def fail(self, error: str) -> None:
        """Note one line on what went wrong."""
        self._write(self.read() | {"status": "failed", "error": error})

    def _write(self, record: dict[str, Any]) -> None:
        content = json.dumps({"schema": SCHEMA} | record, indent=2, ensure_ascii=False) + "\n"
        write_atomically(self.file, content.encode())
