"""The rows of a run that was taken over, in its folder as they were published: one Parquet file per table."""

from __future__ import annotations

from pathlib import Path

from ...system.files import write_atomically
from ..work.study_folder import TAKEN_OVER
from .table_columns import COLUMNS
from .table_files import Rows, read_rows, to_parquet


def keep_taken_rows(run_folder: Path, rows: Rows) -> None:
    """Write the rows of one run, by table, into its folder."""
    folder = run_folder / TAKEN_OVER
    folder.mkdir(parents=True, exist_ok=True)
    for table, own in rows.items():
        write_atomically(folder / f"{table}.parquet", to_parquet(table, own))


def taken_rows(run_folder: Path) -> Rows:
    """Read the rows of one run, by table, from its folder."""
    files = {table: run_folder / TAKEN_OVER / f"{table}.parquet" for table in COLUMNS}
    return {table: read_rows(file) for table, file in files.items() if file.is_file()}
