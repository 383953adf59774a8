"""The rows of a run that was taken over, in its folder as they were published: one Parquet file per table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ...errors import NewerVersionError, ResultFileError, what_is_wrong
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


def taken_rows(run_folder: Path, written: Iterable[str], tables: Iterable[str] = tuple(COLUMNS)) -> Rows:
    """Read the rows of one run, by table, from its folder.

    Args:
      run_folder: That of the run.
      written: The tables of which rows were written, at least.
      tables: Those that are read.

    Raises:
      ResultFileError: a table is damaged or missing, without which the run would miss its rows, and no one would see
        it. NewerVersionError: a newer version wrote one.
    """
    files = {table: run_folder / TAKEN_OVER / f"{table}.parquet" for table in tables}
    for table in written:
        if table in files and not files[table].is_file():
            raise _without_rows(run_folder, f"'{files[table]}' does not exist")
    try:
        return {table: read_rows(file) for table, file in files.items() if file.is_file()}
    except NewerVersionError:
        raise
    except ResultFileError as error:
        raise _without_rows(run_folder, what_is_wrong(error)) from error


def _without_rows(run_folder: Path, told: str) -> ResultFileError:
    return ResultFileError(
        f"{told}; expected rows of a run that was taken over; remove '{run_folder}', and run the study again with "
        "--from, which takes the run over again"
    )
