"""The study's tables: their columns, and their Parquet files, which are made from the runs' folders."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ..errors import NewerVersionError, ResultFileError, what_is_wrong
from ..settings import settings_of
from ..system.documents import of_schema
from ..system.files import write_atomically
from ..system.parquet import document_in, parquet_bytes
from ..training.finetune_config import ADAPTER_ONLY, FinetuneConfig
from .runs import Run
from .stage import Columns, Rows, Stage, told_what_to_remove
from .stages import STAGES, stages_of
from .study_folder import MODEL, PUBLISHED, TAKEN_OVER, RunRecord, StudyFolder, is_finished

SCHEMA = 1
METADATA_KEY = b"intruders_study"

# Every setting of the fine-tuning is a column under its own name; lists are joined by commas.
SETTINGS = list(settings_of(FinetuneConfig))
_NUMBERS = ((int,), (float,), (bool,))


# One row a run.
RUNS: Columns = {
    "run_id": str,
    "experiment": str,
    "kind": str,  # finetune, sequence or random-rank-one
    "status": str,  # finished, failed or pending
    "error": str,  # one line, of a failed run
    "seconds": float,  # of training, without the measures
    **{  # lists, and what is a number or a text, are texts
        name: setting.kinds[0] if setting.kinds in _NUMBERS and not setting.is_list else str
        for name, setting in settings_of(FinetuneConfig).items()
    },
    "adapters": str,  # merge or keep, of a sequence
    "retrain_heads": bool,  # whether a sequence trains heads of earlier tasks again; missing where they are kept
}
# Of a public set: the hub, or the digest of the local copy that stood in.
LAST: Columns = {"data_source": str}

_ARROW = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def columns_of(stages: Iterable[Stage]) -> dict[str, Columns]:
    """Return the columns of every table, in order, with their types."""
    types, order = dict(RUNS), list(RUNS)
    tables: dict[str, dict[str, type]] = {}
    for stage in stages:
        types |= stage.columns
        before = order[-1]
        for name in stage.columns:
            order.insert(order.index(stage.after.get(name, before)) + 1, name)
            before = name
        for table, columns in stage.tables.items():
            tables[table] = {**tables.get(table, {"run_id": str}), **columns}
    return {"runs": {**{name: types[name] for name in order}, **LAST}, **tables}


COLUMNS = columns_of(STAGES)


def arrow_schema(table: str) -> pa.Schema:
    return pa.schema([(name, _ARROW[kind]) for name, kind in COLUMNS[table].items()])


# Of bounds of max cosines: about a millionth, and single precision proves them no better. With all 53 digits of doubles
# they were nearly half of the bytes of a published study.
_DIGITS = 20  # binary
_OUTWARD = {"max_cosine_lower": pc.floor, "max_cosine_upper": pc.ceil}


def to_parquet(table: str, rows: list[dict[str, Any]]) -> bytes:
    """Return the content of the file. Bounds of max cosines are rounded outward, so that they stay proved."""
    # By Arrow and not by pandas, so that a column without a value yet has its type, and a whole number stays whole.
    arrow = pa.Table.from_pylist(rows, arrow_schema(table))
    for column in sorted(_OUTWARD.keys() & set(COLUMNS[table])):
        units = _OUTWARD[column](pc.multiply(arrow[column], 2.0**_DIGITS))
        arrow = arrow.set_column(
            arrow.schema.get_field_index(column), arrow.field(column), pc.divide(units, 2.0**_DIGITS)
        )
    return parquet_bytes(
        arrow, {METADATA_KEY: {"schema": SCHEMA, "table": table}}, only_texts=True, is_small=True
    )


def typed(frame: pd.DataFrame, table: str) -> pd.DataFrame:
    """Return the frame with the columns of ``table``, each of its type: number, nullable flag or text."""
    frame = frame.reindex(columns=list(COLUMNS[table]))
    columns: dict[str, pd.Series[Any]] = {}
    for name, kind in COLUMNS[table].items():
        if kind in (str, bool):
            columns[name] = frame[name].astype("boolean" if kind is bool else object)
        else:
            columns[name] = pd.to_numeric(frame[name], errors="coerce")
    # At once: a column set alone is an array of its own, and a hundred of them are gone through by every selection.
    return pd.DataFrame(columns, index=frame.index)


def read_complete(file: Path) -> pa.Table:
    """Read a table of a study, all of it; refuse it as :func:`check_table_schema` does."""
    check_table_schema(file)
    return _read(file, pq.read_table)


def _read(file: Path, by: Callable[[Path], Any]) -> Any:
    """Read a file by a function of pyarrow; say of one that it cannot read what to do."""
    try:
        return by(file)
    except (pa.ArrowException, OSError) as error:
        is_published = (file.parent / PUBLISHED).is_file()
        how = (
            "fetch it again"
            if is_published
            else "remove it, and intruders study makes it again from the runs"
        )
        raise ResultFileError(f"'{file}' is not a complete Parquet file; {how}") from error


def check_table_schema(file: Path) -> None:
    """Raise ResultFileError if a file is not a complete table of its name, NewerVersionError of a newer version's."""
    try:
        document = document_in(_read(file, pq.read_schema), METADATA_KEY)
    except KeyError:
        raise ResultFileError(f"'{file}' is not a table that intruders study wrote; move it away") from None
    of_schema(document, str(file), "a table of a study", SCHEMA)
    if document.get("table") != file.stem:
        raise ResultFileError(
            f"'{file}' is the table {document.get('table')!r} of a study; expected {file.stem!r}; move it away"
        )


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a table as :func:`read_complete` does, integers as such and missing values as None."""
    rows: list[dict[str, Any]] = read_complete(file).to_pylist()
    return rows


def write_tables(folder: StudyFolder, of_runs: Iterable[Rows]) -> None:
    """Write the tables of a study from the rows of its runs, as :func:`rows_of` gives them."""
    tables: Rows = {table: [] for table in COLUMNS}
    for of_run in of_runs:
        for table, rows in of_run.items():
            tables[table] += rows
    for table, rows in tables.items():
        write_atomically(folder.table(table), to_parquet(table, rows))


def refuse_newer_tables(folder: StudyFolder) -> None:
    """Raise ResultFileError if a newer version wrote a table, before it is overwritten."""
    for table in COLUMNS:
        file = folder.table(table)
        if file.is_file():
            check_table_schema(file)


def rows_of(run: Run, folder: Path) -> Rows:
    """Return what is known of ``run`` so far, by table. An unfinished run has a row in ``runs`` at least."""
    kept = RunRecord(folder)
    record = kept.read()
    # The study's file may have changed since the record was written, and the work may have been stopped.
    finished = [stage for stage in stages_of(run) if is_finished(record, stage.name, stage.settings(run))]
    is_done = finished == stages_of(run)
    if is_done and kept.is_taken_over:
        return taken_rows(folder, record.get("taken_tables", ()))
    status = str(record.get("status", "pending"))
    # No file tells whether a begun run is at work or was killed. What an earlier version of the study's file finished
    # may not be finished by this one.
    if status == "running" or (status == "finished" and not is_done):
        status = "pending"
    row = settings_row(run) | {"status": status, "error": record.get("error")}
    tables: Rows = {"runs": [row]}
    for stage in finished:
        if stage.is_there(folder):  # its files may have been removed since
            # A model without its record cannot be told from another one.
            removed = folder if stage.results[0] == MODEL else folder / stage.results[0]
            file = folder / stage.files[0]
            with told_what_to_remove(removed, file):
                row |= stage.row(file, tables)
    return {table: [{"run_id": run.id} | row for row in rows] for table, rows in tables.items()}


def settings_row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = {"experiment": run.experiment, "kind": run.kind}
    config = run.description()["config"] or {"base": run.base, "seed": run.seed}
    for name in SETTINGS:
        value = config.get(name)
        row[name] = ",".join(map(str, value)) if isinstance(value, list) else value
    if config.get("method") == "full":
        row |= dict.fromkeys(ADAPTER_ONLY)  # that it does not have
    if isinstance(row["alpha"], float):
        row["alpha"] = f"{row['alpha']:g}"
    if run.kind == "sequence":
        row |= {
            "task": ",".join(run.tasks),
            "adapters": run.adapters,
            "retrain_heads": run.retrain_heads or None,
        }
    if run.kind != "finetune":  # of a fine-tuning its audit says it
        row |= {"k": run.measure.audit.k, "epsilon": run.measure.audit.epsilon}
    return row


def taken_rows(run_folder: Path, written: Iterable[str]) -> Rows:
    """Read the rows of one run, by table. ResultFileError for one of those ``written`` that is damaged or missing."""
    files = {table: run_folder / TAKEN_OVER / f"{table}.parquet" for table in COLUMNS}
    try:
        for table in written:
            if table in files and not files[table].is_file():
                raise ResultFileError(f"'{files[table]}' does not exist")
        return {table: read_rows(file) for table, file in files.items() if file.is_file()}
    except NewerVersionError:
        raise
    except ResultFileError as error:
        raise ResultFileError(
            f"{what_is_wrong(error)}; expected rows of a run that was taken over; remove '{run_folder}', and run the "
            "study again with --from, which takes the run over again"
        ) from error
