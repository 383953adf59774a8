"""One table as a Parquet file, and back to rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ...system.parquet import parquet_bytes
from .results import read_complete
from .table_columns import COLUMNS, METADATA_KEY, SCHEMA, arrow_schema

Rows = dict[str, list[dict[str, Any]]]  # by table

# Of bounds of max cosines: about a millionth, and single precision proves them no better. With all 53 digits of doubles
# they were nearly half of the bytes of a published study.
_DIGITS = 20  # binary
_OUTWARD = {"max_cosine_lower": pc.floor, "max_cosine_upper": pc.ceil}


def to_parquet(table: str, rows: list[dict[str, Any]]) -> bytes:
    """Return the content of the file; columns that a row does not have are missing values.

    Bounds of max cosines are rounded outward, so that they stay proved.
    """
    # By Arrow and not by pandas, so that a column without a value yet has its type, and a whole number stays whole.
    arrow = pa.Table.from_pylist(
        [{name: row.get(name) for name in COLUMNS[table]} for row in rows], arrow_schema(table)
    )
    for column in sorted(_OUTWARD.keys() & set(COLUMNS[table])):
        units = _OUTWARD[column](pc.multiply(arrow[column], 2.0**_DIGITS))
        arrow = arrow.set_column(
            arrow.schema.get_field_index(column), arrow.field(column), pc.divide(units, 2.0**_DIGITS)
        )
    return parquet_bytes(
        arrow, {METADATA_KEY: {"schema": SCHEMA, "table": table}}, only_texts=True, is_small=True
    )


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read the rows of a table's file, integers as such and missing values as None.

    Raises:
      ResultFileError: it is not such a file, or of a newer version.
    """
    rows: list[dict[str, Any]] = read_complete(file).to_pylist()
    return rows
