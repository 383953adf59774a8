"""The folder of a study and that of a run: the paths of their files, and the records of what was done.

study.yaml     the file as it was given last
study.json     its name, settings and runs, with the number of the schema
runs/ID/       everything of one run; run.json says what it is, which stages are finished, and what went wrong
bases/HASH/    losses of a base, measured once
*.parquet      the tables; findings.json the verdicts of the analyses
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ResultFileError, SettingError
from ..settings.settings_class import shown
from ..system.documents import read_document
from ..system.files import write_atomically
from ..system.folders import other_entries
from ..system.plain_values import from_plain
from ..system.result_protocol import json_bytes
from .runs import Run
from .study import Study

SCHEMA = 1
FINDINGS = "findings.json"
RUN = "run.json"  # in the folder of a run, its record
MODEL = "model"  # the folder of a run's fine-tuning
AUDIT = "audit.json"  # the audit of that model
TAKEN_OVER = "taken-over"  # the rows of a run that another study published, in the place of its results
REPORT = "report.html"  # the page of the study, where no other place is given
PUBLISHED = "published.json"  # in a folder of published tables, which has no runs


@dataclass(frozen=True)
class _Version:
    """The file of a study as it was run since a day."""

    sha256: str
    date: str


# What is read of study.json, where it exists.
_READ: Mapping[str, Any] = {
    "name": str,
    "file": str,
    "files": list[_Version],
    "analyses": list[str],
    "select": list[str],
    "support": dict[str, str],
    "primary": dict[str, str],
    "compare_with": str | None,
    "inputs": dict[str, str],
}


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study; files are read only when a method needs them."""

    path: Path

    def run(self, run_id: str) -> Path:
        return self.path / "runs" / run_id

    def table(self, name: str) -> Path:
        return self.path / f"{name}.parquet"

    @property
    def is_study(self) -> bool:
        return (self.path / "study.json").is_file()

    def document(self) -> dict[str, Any]:
        """Read study.json. ResultFileError if it does not exist, is broken, or is of a newer version."""
        file = self.path / "study.json"
        if self.path.is_file():
            raise ResultFileError(f"'{self.path}' is a file, and not the folder of a study; pass the folder")
        document = read_document(file, "the record of a study", SCHEMA)
        if document is None:
            raise ResultFileError(f"'{self.path}' is not the folder of a study: it has no study.json")
        if "name" not in document:
            raise ResultFileError(f"'{file}' is not the record of a study; choose another folder")
        for key in document:
            try:
                from_plain(_READ.get(key, Any), document[key])
            except (LookupError, TypeError, ValueError) as error:
                how = "fetch the folder again" if (self.path / PUBLISHED).is_file() else "restore the file"
                raise ResultFileError(
                    f"'{file}' is damaged: its {key} is {shown(document[key])}; expected what a study wrote; {how}, or "
                    "choose another folder"
                ) from error
        return document

    def require_is_for(self, study: Study, *, must_exist: bool) -> None:
        """Raise SettingError unless the folder is new, empty, or of this study, whose file may have changed since."""
        why = None
        if must_exist and not self.is_study:
            why = "contains no study to resume; remove --resume, or pass its folder"
        elif self.path.exists() and not self.path.is_dir():
            why = "cannot be written: it is a file, and no folder; choose another folder"
        elif (self.path / PUBLISHED).is_file():
            why = (
                "contains the published tables of a study; pass another folder as --out, and this one as --from to "
                "take its runs over"
            )
        elif self.is_study:
            if (name := self.document()["name"]) != study.name:
                why = (
                    f"contains the study {name!r}, and this file is {study.name!r}; choose another folder, or write "
                    f"name: {name} into the file if it is the same study"
                )
        elif self.path.is_dir() and {*other_entries(self.path)} - {"study.yaml"}:
            why = "is not empty and not a study; choose another folder"
        if why is not None:
            raise SettingError(f"out '{self.path}' {why}")

    def require_same_inputs(self, inputs: Mapping[str, str], seen: "StudyFolder | None" = None) -> None:
        """Raise SettingError if runs, also ``seen`` ones of other machines, were begun on other data or bases."""
        if not any((seen or self).path.glob("runs/*/run.json")):
            return
        before = self.document().get("inputs", {})
        for path, digest in inputs.items():
            if before.get(path, digest) != digest:
                raise SettingError(
                    f"{path!r} has changed since runs of the study in '{self.path}' were begun, which could not be "
                    "compared with others; restore it, or choose another folder"
                )

    def keep(self, study: Study, runs: Sequence[Run], inputs: Mapping[str, str] | None = None) -> None:
        """Write down what is to be done, since when the file says so, and the digests of its data and bases."""
        files = self.document().get("files", []) if self.is_study else []
        digest = hashlib.sha256(study.text.encode()).hexdigest()
        if not files or files[-1]["sha256"] != digest:
            files.append({"sha256": digest, "date": datetime.now(UTC).date().isoformat()})
        write_atomically(self.path / "study.yaml", study.text.encode())
        document = {
            "schema": SCHEMA,
            "name": study.name,
            "analyses": list(study.analyses),
            "file": study.file,
            "files": files,  # every version of the file that was run, the first one first
            "select": list(study.select),
            "support": study.support,
            "primary": study.primary,
            "compare_with": study.compare_with,
            "resources": asdict(study.resources),
            "experiments": [asdict(experiment) for experiment in study.experiments],
            "runs": [run.id for run in runs],
            "inputs": dict(inputs or {}),
        }
        content = json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n"
        write_atomically(self.path / "study.json", content.encode())

    def others(self, runs: Sequence[Run]) -> list[str]:
        known = {run.id for run in runs}
        folders = (folder for folder in (self.path / "runs").glob("*") if folder.is_dir())
        return sorted(folder.name for folder in folders if folder.name not in known)


def changed_input(finished: Mapping[str, Any], inputs: Mapping[str, str]) -> str | None:
    """Return an input of a finished stage's record that has another digest in ``inputs``; None without one."""
    then: dict[str, str] = finished.get("inputs", {})
    return next((name for name, digest in then.items() if inputs.get(name, digest) != digest), None)


def is_finished(record: Mapping[str, Any], stage: str, settings: Mapping[str, Any]) -> bool:
    finished = record.get("stages", {}).get(stage)
    return finished is not None and finished.get("settings") == json.loads(json.dumps(settings))


@dataclass(frozen=True)
class RunRecord:
    """``run.json`` of one run's folder. It is written after what it tells of, and so never ahead of the files."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / RUN

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

    @property
    def is_taken_over(self) -> bool:
        """True if the run was finished elsewhere: its rows are here, and its model and audits are not."""
        return "taken_over" in self.read() and (self.folder / TAKEN_OVER).is_dir()

    def take_over(
        self, run: Run, stages: dict[str, Any], source: dict[str, Any], tables: Iterable[str]
    ) -> None:
        """Note that ``run`` was finished elsewhere, in these ``stages``, where its rows are from, and their tables."""
        ended = {"stages": stages, "status": "finished", "error": None}
        self._write(run.description() | ended | {"taken_over": source, "taken_tables": list(tables)})

    def begin(self, run: Run, *, anew: bool = False) -> None:
        """Note that work on ``run`` has begun; stages that are finished stay so, unless all is done ``anew``."""
        self.folder.mkdir(parents=True, exist_ok=True)
        before = {} if anew else self.read()
        self._write({"stages": {}} | before | run.description() | {"status": "running", "error": None})

    def finish_stage(self, stage: str, settings: dict[str, Any], seconds: float, **more: Any) -> None:
        """Note that a stage is finished, its inputs, and in which precision it trained, if it did."""
        record = self.read()
        record["stages"][stage] = {"settings": settings, "seconds": round(seconds, 3), **more}
        self._write(record)

    def finish(self) -> None:
        self._write(self.read() | {"status": "finished", "error": None})

    def fail(self, error: str) -> None:
        self._write(self.read() | {"status": "failed", "error": error})

    def _write(self, record: dict[str, Any]) -> None:
        write_atomically(self.file, json_bytes({"schema": SCHEMA} | record, indent=2))
