"""A folder of published tables: its record, and a check that its files are the published ones.

published.json   the date, the version, the SHA-256 of every file, the runs with their settings, and the deviations
study.yaml       the file of the study; study.json what it expanded to
*.parquet        the tables; findings.json the verdicts
deviations.md    what people wrote on deviations, where they did
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from intruders.errors import BrokenDocumentError, ResultFileError
from intruders.studies.stage import Rows
from intruders.studies.study_folder import PUBLISHED
from intruders.studies.tables import COLUMNS, read_rows
from intruders.system.documents import get_field, read_document
from intruders.system.files import read_bytes

SCHEMA = 1


@dataclass(frozen=True)
class PublishedRun:
    """A finished run: what it was, and by which settings each of its stages was done."""

    id: str
    digest: str  # of the experiment's name and the settings
    experiment: str
    settings: dict[str, Any]
    stages: dict[str, Any]


@dataclass(frozen=True)
class PublishedStudy:
    """Published tables, by their record."""

    folder: Path
    document: dict[str, Any]

    @classmethod
    def load(cls, folder: Path) -> PublishedStudy:
        """Read the folder and check every file in it.

        Raises:
          ResultFileError: as :meth:`read_record`; or a file is missing, or is not the one that was published.
        """
        published = cls.read_record(folder)
        for name, digest in get_field(published.document, "files", PUBLISHED, dict).items():
            if "/" in name or not (folder / name).is_file():
                raise ResultFileError(f"'{folder}' has no '{name}', which it lists; fetch the folder again")
            if sha256(read_bytes(folder / name)) != digest:
                raise ResultFileError(
                    f"'{folder / name}' is not the file that was published (its SHA-256 differs from "
                    f"{PUBLISHED}); fetch the folder again"
                )
        return published

    @classmethod
    def read_record(cls, folder: Path) -> PublishedStudy:
        """Read published.json alone: it names the study and its runs, whatever became of the other files.

        Raises:
          ResultFileError: it does not exist, is damaged, or is of a newer version (NewerVersionError).
        """
        document = read_document(folder / PUBLISHED, "the record of published tables", SCHEMA)
        if document is None:
            raise ResultFileError(
                f"'{folder}' has no {PUBLISHED}; expected published tables of a study; pass a folder that "
                "`intruders report RUNS --data FOLDER` wrote"
            )
        try:
            published = cls(folder, document)
            _ = published.runs, published.name, published.date, published.study_digest, published.deviations
        except BrokenDocumentError as error:
            raise ResultFileError(f"'{folder / PUBLISHED}' is damaged: {error}; fetch it again") from error
        return published

    @property
    def name(self) -> str:
        return str(get_field(self.document, "name", PUBLISHED, str))

    @property
    def date(self) -> str:
        return str(get_field(self.document, "published", PUBLISHED, str))

    @property
    def study_digest(self) -> str:
        """The SHA-256 of the study's file."""
        files = get_field(self.document, "files", PUBLISHED, dict)
        return str(get_field(files, "study.yaml", f"{PUBLISHED}.files", str))

    @property
    def deviations(self) -> list[str]:
        """The deviations from the study's file, as far as the records tell."""
        return [str(line) for line in get_field(self.document, "deviations", PUBLISHED, list)]

    @cached_property
    def runs(self) -> list[PublishedRun]:
        """The finished runs."""
        records = get_field(self.document, "runs", PUBLISHED, list)
        return [_run(record, f"{PUBLISHED}.runs[{at}]") for at, record in enumerate(records)]

    @cached_property
    def _rows(self) -> dict[str, dict[str, list[dict[str, Any]]]]:
        """The rows by table, then by run; each file is read once."""
        tables: dict[str, dict[str, list[dict[str, Any]]]] = {}
        for table in COLUMNS:
            file = self.folder / f"{table}.parquet"
            by_run = tables.setdefault(table, {})
            for row in read_rows(file) if file.is_file() else ():
                by_run.setdefault(str(row.get("run_id")), []).append(row)
        return tables

    def rows_of(self, run_id: str) -> Rows:
        """Return the rows of one run, by table; tables without one are left out."""
        return {table: by_run[run_id] for table, by_run in self._rows.items() if run_id in by_run}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _run(record: Any, where: str) -> PublishedRun:
    return PublishedRun(
        id=get_field(record, "id", where, str),
        digest=get_field(record, "digest", where, str),
        experiment=get_field(record, "experiment", where, str),
        settings=get_field(record, "settings", where, dict),
        stages=get_field(record, "stages", where, dict),
    )
