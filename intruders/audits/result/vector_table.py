"""Audited matrices as tables: one row per vector with the values of its matrix repeated, and one row per matrix.

The first is the content of an audit's Parquet file, with the rest of the audit in its metadata, so that DuckDB, pandas
or polars answer questions without this package. Repeated values cost almost nothing after dictionary encoding.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ...system.parquet import document_in
from ...system.plain_values import plain
from .records import CERTIFICATES, SUBSPACE_COLUMNS, UPDATE_COLUMNS, AuditedMatrix, matrix_of

METADATA_KEY = b"intruders"

# Everything that is known of a vector and of its matrix: the only list of it. The first ones are Audit.to_pandas().
_COLUMNS: dict[str, pa.DataType] = {
    "name": pa.string(),
    "rows": pa.int64(),
    "columns": pa.int64(),
    "index": pa.int64(),
    "singular_value": pa.float64(),
    "max_cosine_lower": pa.float64(),
    "max_cosine_upper": pa.float64(),
    "intruder": pa.bool_(),
    "certificate": pa.string(),
    "ambiguous": pa.bool_(),
    "rank": pa.int64(),
    **dict.fromkeys(UPDATE_COLUMNS, pa.float64()),
    "base_singular_values": pa.list_(pa.float64()),
    "similarity": pa.list_(pa.float32()),  # of each tuned vector y_j its own column: |<x_i, y_j>| over i
    **dict.fromkeys(SUBSPACE_COLUMNS, pa.float64()),  # null where a number is not known
}
VECTOR_SCHEMA = pa.schema(_COLUMNS)
# A fleet's tables have the largest singular value of the base too; 0 where none is known.
WITH_BASE_VALUE = VECTOR_SCHEMA.append(pa.field("base_value", pa.float64()))
VECTOR_COLUMNS = VECTOR_SCHEMA.names[:10]

# Columns of vectors from which a row per matrix is made, and those that are the same in all rows of a matrix.
COUNTED = [
    *("index", "singular_value", "intruder", "certificate", "ambiguous"),
    *("name", "rows", "columns", "rank", *UPDATE_COLUMNS, *SUBSPACE_COLUMNS, "base_value"),
]
MATRIX_COLUMNS = [
    *("name", "rows", "columns", "rank", "vectors", "intruders", "intruder_energy_share"),
    # The relative update stands next to the spectral norm, which it is made of.
    *("frobenius", "spectral", "relative_update", "effective_rank", "effective_rank_error", "stable_rank"),
    "ambiguous",
    *(f"by_{name}" for name in CERTIFICATES),
    *SUBSPACE_COLUMNS,
]


def rows_of_matrix(matrix: AuditedMatrix) -> Iterator[dict[str, Any]]:
    """Yield one row per vector: its values, and those of its matrix."""
    of_matrix = {
        "name": matrix.name,
        "rows": matrix.shape[0],
        "columns": matrix.shape[1],
        "rank": matrix.rank,
        **vars(matrix.update),
        "base_singular_values": matrix.base_singular_values,
        "base_value": next(iter(matrix.base_singular_values), 0.0),
        **(plain(matrix.subspaces) or {}),
    }
    for vector, similarity in zip(matrix.vectors, matrix.similarity.T, strict=True):
        lower, upper = vector.max_cosine
        bounds = {"max_cosine_lower": lower, "max_cosine_upper": upper}
        yield {**of_matrix, **vars(vector), **bounds, "similarity": similarity}


def vector_table(matrices: Iterable[AuditedMatrix], columns: Sequence[str] | None = None) -> pa.Table:
    """Return one row per vector with its values and those of its matrix, or with some of these columns."""
    chosen = (
        VECTOR_SCHEMA if columns is None else pa.schema([WITH_BASE_VALUE.field(name) for name in columns])
    )
    return pa.Table.from_pylist([row for matrix in matrices for row in rows_of_matrix(matrix)], chosen)


def matrices_of_rows(rows: pa.Table) -> pd.DataFrame:
    """Return one row per matrix, from the columns ``COUNTED`` of rows of vectors; further columns stay.

    The rows of a matrix follow each other, and the first has the index 0: models of a fleet may have equal names.
    """
    frame: pd.DataFrame = rows.to_pandas()
    is_first = frame["index"] == 0
    matrix = is_first.cumsum()
    largest = frame["singular_value"].groupby(matrix).transform("max").replace(0.0, 1.0)
    # As energy_share_of, for all matrices together: a call for each would take most of the time.
    energy = (frame["singular_value"] / largest) ** 2
    counted = {"vectors": 1, "intruders": frame["intruder"], "ambiguous": frame["ambiguous"]}
    counted |= {f"by_{name}": frame["certificate"] == name for name in CERTIFICATES}
    counted |= {"energy": energy, "intruder_energy": energy * frame["intruder"]}
    sums = pd.DataFrame(counted, frame.index).groupby(matrix).sum().reset_index(drop=True)
    table = frame[is_first].drop(columns="ambiguous").reset_index(drop=True).join(sums)
    table["relative_update"] = relative_updates(table["spectral"].to_numpy(), table["base_value"].to_numpy())
    table["intruder_energy_share"] = (table["intruder_energy"] / table["energy"]).fillna(0.0)
    return table.astype({"rank": "Int64"})


def relative_updates(
    spectral: np.ndarray[Any, Any], base_value: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return ``||D||_2 / s_1(W0)`` of every matrix; NaN where the base's largest singular value is zero or unknown."""
    return np.asarray(
        np.divide(spectral, base_value, out=np.full(len(spectral), np.nan), where=base_value > 0)
    )


def read_vector_table(content: bytes) -> tuple[dict[str, Any], pa.Table]:
    """Return the document of a Parquet file, without its matrices, and the table; ValueError for others."""
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"it is not a complete Parquet file ({error})") from error
    try:
        document = document_in(table.schema, METADATA_KEY)
    except KeyError:
        raise ValueError("it is a Parquet file, but not one that `intruders` wrote as an audit") from None
    return document, table


def matrices_in(table: pa.Table) -> list[AuditedMatrix]:
    """Return the matrices of a table of vectors; LookupError, TypeError or ValueError if it is another one."""
    if missing := [name for name in VECTOR_SCHEMA.names if name not in table.column_names]:
        raise ValueError(f"it has no column '{missing[0]}'")
    try:
        table = table.select(VECTOR_SCHEMA.names).cast(VECTOR_SCHEMA)
    except (pa.ArrowException, NotImplementedError) as error:
        raise ValueError(f"a column has another type than an audit's ({error})") from error
    matrices = []
    for _, of_matrix in groupby(table.to_pylist(), key=itemgetter("name")):
        rows = list(of_matrix)
        first = rows[0]
        record = {
            **first,
            "shape": [first["rows"], first["columns"]],
            "update": first,
            # A matrix that nothing of the kind was measured of has no chance of a max cosine either.
            "subspaces": None if first["max_cosine_chance"] is None else first,
            "vectors": [
                {**row, "max_cosine": [row["max_cosine_lower"], row["max_cosine_upper"]]} for row in rows
            ],
        }
        matrices.append(matrix_of(record, np.array([row["similarity"] for row in rows], np.float32).T))
    return matrices
