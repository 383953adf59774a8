"""The study's tables as Parquet: made from the runs' folders, and written completely or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...system.files import write_atomically
from ..describe.runs import Run
from ..work.study_folder import StudyFolder
from .results import check_table_schema
from .rows import rows_of
from .table_columns import COLUMNS
from .table_files import Rows, to_parquet


class Tables:
    """The tables of one study. A run whose record has not changed since is not read again."""

    def __init__(self, folder: StudyFolder, seen: StudyFolder, runs: Sequence[Run]) -> None:
        """Write tables to ``folder``, made from the runs in ``seen``."""
        self._folder, self._seen, self._runs = folder, seen, runs
        self._known: dict[str, tuple[bytes, Rows]] = {}

    def write(self) -> None:
        """Write every table from what the runs' folders contain now."""
        tables: dict[str, list[dict[str, Any]]] = {table: [] for table in COLUMNS}
        for run in self._runs:
            for table, rows in self._rows(run).items():
                tables[table] += rows
        for table, rows in tables.items():
            write_atomically(self._folder.table(table), to_parquet(table, rows))

    def forget(self, run_id: str) -> None:
        """Read a run again, which was worked on: its record may be what it was, if a stage took as long as before."""
        self._known.pop(run_id, None)

    def _rows(self, run: Run) -> Rows:
        folder = self._seen.run(run.id)
        record = folder / "run.json"
        content = record.read_bytes() if record.is_file() else b""
        if run.id not in self._known or self._known[run.id][0] != content:
            self._known[run.id] = (content, rows_of(run, folder))
        return self._known[run.id][1]


def refuse_newer_tables(folder: StudyFolder) -> None:
    """Raise ResultFileError if a newer version wrote a table, before it is overwritten."""
    for table in COLUMNS:
        file = folder.table(table)
        if file.is_file():
            check_table_schema(file)
