"""The rows of a run that was taken over, in its folder as they were published: one Parquet file per table."""

from __future__ import annotations

from pathlib import Path

from ...errors import NewerVersionError, ResultFileError
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
    """Read the rows of one run, by table, from its folder. ResultFileError for a damaged table, as without one."""
    files = {table: run_folder / TAKEN_OVER / f"{table}.parquet" for table in COLUMNS}
    try:
        return {table: read_rows(file) for table, file in files.items() if file.is_file()}
    except NewerVersionError:
        raise
    except ResultFileError as error:
        # Without this table alone the run would miss its rows, and no one would see it.
        raise ResultFileError(
            f"{str(error).partition('; ')[0]}; expected rows of a run that was taken over; remove '{run_folder}', and "
            "run the study again with --from, which takes the run over again"
        ) from error
