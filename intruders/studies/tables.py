"""The study's tables as Parquet: made anew from the runs' folders, written whole or not at all, read by anyone."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..detection.files import ResultFileError, write_atomically
from .expand import Run
from .results import COLUMNS, SCHEMA, Results
from .rows import Rows, rows_of
from .study_folder import StudyFolder

_METADATA = b"intruders_study"
_WHOLE = {
    "rank", "steps", "batch_size", "gradient_accumulation_steps", "seed", "max_length", "max_train_samples",
    "max_eval_samples", "data_seed", "eval_steps", "save_steps", "logging_steps", "audit_steps", "stop_above",
    "trained_steps", "k", "intruders", "vectors", "affected_matrices", "matrices", "layer", "rows", "columns",
    "index", "step", "stage", "task_index",
}  # fmt: skip
_SWITCHES = {"train_all", "gradient_checkpointing", "drop_too_long", "no_header", "intruder"}
_TEXTS = {
    "run_id", "experiment", "kind", "status", "error", "stopped_by", "corpus", "loss_measure", "name",
    "certificate", "control", "measure", "on", "task", "base", "out", "method", "alpha", "target_modules", "init_a",
    "adapters", "start_from", "lr_scheduler_type", "precision", "text", "label", "prompt", "completion", "score",
    "validation_file", "test_file", "match", "report_to",
}  # fmt: skip


class Tables:
    """The tables of one study. A run whose record has not changed since is not read again."""

    def __init__(self, folder: StudyFolder, seen: StudyFolder, runs: Sequence[Run]) -> None:
        """``folder`` takes the tables; ``seen`` has the runs that they are made from."""
        self._folder, self._seen, self._runs = folder, seen, runs
        self._known: dict[str, tuple[bytes, Rows]] = {}

    def write(self) -> None:
        """Write every table from what the runs' folders hold now."""
        found: dict[str, list[dict[str, Any]]] = {table: [] for table in COLUMNS}
        for run in self._runs:
            for table, rows in self._rows(run).items():
                found[table] += rows
        for table, rows in found.items():
            write_atomically(self._folder.table(table), _parquet(table, rows))

    def _rows(self, run: Run) -> Rows:
        folder = self._seen.run(run.id)
        record = folder / "run.json"
        content = record.read_bytes() if record.is_file() else b""
        if run.id not in self._known or self._known[run.id][0] != content:
            self._known[run.id] = (content, rows_of(run, folder))
        return self._known[run.id][1]


def load_results(path: str | Path) -> Results:
    """The tables of a study's folder. ResultFileError for one that is no study, is broken, or of a newer version."""
    folder = StudyFolder(Path(path))
    name = folder.document()["name"]
    frames = {table: _read(folder.table(table), table) for table in COLUMNS}
    failed = frames["runs"].loc[frames["runs"]["status"] == "failed", "run_id"]
    return Results(folder=folder.path, name=name, failed=list(failed), **frames)


def refuse_newer_tables(folder: StudyFolder) -> None:
    """ResultFileError when a table was written by a newer version, before it would be written over."""
    for table in COLUMNS:
        file = folder.table(table)
        if file.is_file():
            _check_schema(file, _metadata(file))


def _parquet(table: str, rows: list[dict[str, Any]]) -> bytes:
    # By Arrow and not by pandas, so that a column without a value yet has its type, and a whole number stays whole.
    arrow = pa.Table.from_pylist(
        [{name: row.get(name) for name in COLUMNS[table]} for row in rows], _schema(table)
    )
    metadata = {_METADATA: json.dumps({"schema": SCHEMA, "table": table}).encode()}
    file = io.BytesIO()
    pq.write_table(arrow.replace_schema_metadata(metadata), file, compression="zstd")
    return file.getvalue()


def _schema(table: str) -> pa.Schema:
    return pa.schema([(name, _type(name)) for name in COLUMNS[table]])


def _type(name: str) -> pa.DataType:
    if name in _WHOLE:
        return pa.int64()
    if name in _SWITCHES:
        return pa.bool_()
    return pa.string() if name in _TEXTS else pa.float64()


def _read(file: Path, table: str) -> pd.DataFrame:
    """A table; empty where it is not there yet. Columns that an older version did not write are missing values."""
    if not file.is_file():
        empty: pd.DataFrame = _schema(table).empty_table().to_pandas()
        return empty
    _check_schema(file, _metadata(file))
    frame: pd.DataFrame = pq.read_table(file).to_pandas()
    return frame.reindex(columns=COLUMNS[table])


def _metadata(file: Path) -> dict[bytes, bytes]:
    try:
        return pq.read_schema(file).metadata or {}
    except (pa.ArrowException, OSError) as error:
        raise ResultFileError(
            f"'{file}' is not a whole Parquet file; remove it, and intruders study makes it anew from the runs"
        ) from error


def _check_schema(file: Path, metadata: dict[bytes, bytes]) -> None:
    if _METADATA not in metadata:
        raise ResultFileError(f"'{file}' is not a table that intruders study wrote; move it away")
    schema = json.loads(metadata[_METADATA]).get("schema")
    if not isinstance(schema, int) or schema > SCHEMA:
        raise ResultFileError(
            f"'{file}' was written by a newer version of intruders (schema {schema}, this one reads {SCHEMA}); "
            "update intruders, or take another folder"
        )
