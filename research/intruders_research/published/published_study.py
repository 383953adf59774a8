"""A folder of published tables: its record, and a check that its files are the published ones.

published.json   the date, the version, the SHA-256 of every file, the runs with their settings, and the deviations
study.yaml       the file of the study; study.json what it expanded to
*.parquet        the tables; documents and examples are of every run's evaluation
findings.json    the verdicts
deviations.md    what people wrote on deviations, where they did
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from intruders.errors import ResultFileError, in_one_line
from intruders.studies.stage import Rows
from intruders.studies.study_folder import PUBLISHED, RUN, RunRecord
from intruders.studies.tables import COLUMNS, read_rows
from intruders.system.documents import read_document
from intruders.system.files import read_bytes
from intruders.system.plain_values import from_plain

SCHEMA = 1


@dataclass(frozen=True)
class PublishedRun:
    """A finished run: what it was, and by which settings each of its stages was done."""

    id: str
    digest: str  # of the experiment's name and the settings
    experiment: str
    settings: dict[str, Any]
    stages: dict[str, Any]
    taken_over: dict[str, Any] | None = None  # the tables that it is from, where another study made it
    evaluation: dict[str, Any] | None = None  # documents with their digests, scores, versions and machine


@dataclass(frozen=True)
class PublishedStudy:
    """Published tables, by their record."""

    folder: Path
    name: str
    date: str
    files: dict[str, str]  # SHA-256 by name
    deviations: list[str]  # from the study's file, as far as the records tell
    runs: list[PublishedRun]  # those that are finished

    @classmethod
    def load(cls, folder: Path) -> "PublishedStudy":
        """Read the folder and check every file in it.

        Raises:
          ResultFileError: as :meth:`read_record`; or a file is missing, or is not the one that was published.
        """
        published = cls.read_record(folder)
        for name, digest in published.files.items():
            if "/" in name or not (folder / name).is_file():
                raise ResultFileError(f"'{folder}' has no '{name}', which it lists; fetch the folder again")
            if sha256(read_bytes(folder / name)) != digest:
                raise ResultFileError(
                    f"'{folder / name}' is not the file that was published (its SHA-256 differs from "
                    f"{PUBLISHED}); fetch the folder again"
                )
        return published

    @classmethod
    def read_record(cls, folder: Path) -> "PublishedStudy":
        """Read published.json alone: it names the study and its runs, whatever became of the other files.

        Raises:
          ResultFileError: it does not exist, is damaged, or is of a newer version (NewerVersionError).
        """
        document = read_document(folder / PUBLISHED, "the record of published tables", SCHEMA)
        if document is None:
            raise ResultFileError(
                f"'{folder}' has no {PUBLISHED}; expected published tables of a study; pass a folder that "
                "`intruders publish RUNS FOLDER` wrote"
            )
        try:
            given = {"folder": str(folder), "date": document["published"]}
            published: PublishedStudy = from_plain(cls, document | given)
            _ = published.study_digest
        except (LookupError, TypeError, ValueError) as error:
            raise ResultFileError(
                f"'{folder / PUBLISHED}' is damaged: {in_one_line(error)}; fetch it again"
            ) from error
        return published

    @property
    def study_digest(self) -> str:
        """The SHA-256 of the study's file."""
        return self.files["study.yaml"]

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


def stages_in(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the stages of the runs of a study's folder, or of published tables, as their records have them."""
    if (folder / PUBLISHED).is_file():
        return {run.id: run.stages for run in PublishedStudy.read_record(folder).runs}
    records = [RunRecord(file.parent) for file in folder.glob(f"runs/*/{RUN}")]
    return {record.folder.name: record.read().get("stages", {}) for record in records}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
