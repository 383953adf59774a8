"""The columns of a study's tables, and their types: those of every run, and those that its stages fill."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from ..settings import Setting, settings_of
from ..training.finetune_config import FinetuneConfig
from .stage import Columns, Stage
from .stages import STAGES
from .study_folder import TABLES

SCHEMA = 1
METADATA_KEY = b"intruders_study"

# Every setting of the fine-tuning is a column under its own name; lists are joined by commas.
SETTINGS = list(settings_of(FinetuneConfig))


def _type_of(setting: Setting) -> type:
    """Return the type of a setting's column: lists, and what is a number or a text, are texts."""
    if setting.is_list or len(setting.kinds) > 1 or setting.kinds[0] not in (int, float, bool):
        return str
    return setting.kinds[0]


# One row a run.
RUNS: Columns = {
    "run_id": str,
    "experiment": str,
    "kind": str,  # finetune, sequence or random-rank-one
    "status": str,  # finished, failed or pending
    "error": str,  # one line, of a failed run
    "seconds": float,  # of training, without the measures
    **{name: _type_of(setting) for name, setting in settings_of(FinetuneConfig).items()},
    "adapters": str,  # merge or keep, of a sequence
    "retrain_heads": bool,  # whether a sequence trains heads of earlier tasks again; missing where they are kept
}
LAST: Columns = {
    "data_source": str
}  # of a public set: the hub, or the digest of the local copy that stood in

_ARROW: Mapping[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


def columns_of(stages: Iterable[Stage]) -> dict[str, Columns]:
    """Return the columns of every table, in order, with their types."""
    runs: dict[str, type] = dict(RUNS)
    tables: dict[str, dict[str, type]] = {table: {"run_id": str} for table in TABLES if table != "runs"}
    for stage in stages:
        before = list(runs)[-1]
        for name, kind in stage.columns.items():
            before = stage.after.get(name, before)
            runs = _with(runs, name, kind, before)
            before = name
        for table, columns in stage.tables.items():
            tables[table] |= columns
    return {"runs": {**runs, **LAST}, **tables}


def _with(columns: Columns, name: str, kind: type, before: str) -> dict[str, type]:
    names = list(columns)
    names.insert(names.index(before) + 1, name)
    return {column: kind if column == name else columns[column] for column in names}


COLUMNS = columns_of(STAGES)


def arrow_schema(table: str) -> pa.Schema:
    return pa.schema([(name, _ARROW[kind]) for name, kind in COLUMNS[table].items()])
