"""An audit as one Parquet table: one row per vector, values of the matrix repeated, the rest in its metadata.

The columns are those of `Audit.to_pandas` and more, so that DuckDB, pandas or polars answer questions without
this package. Repeated values cost almost nothing after dictionary encoding and compression.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import BrokenDocumentError
from ...system.parquet import document_in, parquet_bytes
from .frames import vector_frame
from .records import UPDATE_COLUMNS, AuditedMatrix
from .subspaces import SUBSPACE_COLUMNS

METADATA_KEY = b"intruders"


def to_parquet(header: Mapping[str, Any], matrices: Sequence[AuditedMatrix]) -> bytes:
    """The table as the content of a Parquet file; ``header`` is the document without its matrices."""
    return parquet_bytes(vector_table(matrices), {METADATA_KEY: header})


def vector_table(matrices: Sequence[AuditedMatrix]) -> pa.Table:
    """One row a vector, with everything that is known of it and of its matrix."""
    owners = [matrix for matrix in matrices for _ in matrix.vectors]
    return pa.table(
        {
            **{name: pa.array(column.tolist()) for name, column in vector_frame(matrices).items()},
            "rank": pa.array([matrix.rank for matrix in owners], pa.int64()),
            **{name: _of_update(owners, name) for name in UPDATE_COLUMNS},
            "base_singular_values": pa.array(
                [m.base_singular_values for m in owners], pa.list_(pa.float64())
            ),
            # Of each tuned vector y_j its own column of the similarity matrix: |<x_i, y_j>| over i.
            "similarity": pa.array(_similarity_columns(matrices), pa.list_(pa.float32())),
            **_of_subspaces(owners),
        }
    ).cast(vector_schema())


def document_from_parquet(content: bytes) -> dict[str, Any]:
    """The same document as the JSON holds, from a Parquet file; BrokenDocumentError for others."""
    try:
        table = pq.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise BrokenDocumentError(f"it is not a complete Parquet file ({error})") from error
    try:
        document = document_in(table.schema, METADATA_KEY)
    except KeyError:
        raise BrokenDocumentError(
            "it is a Parquet file, but not one that `intruders` wrote as an audit"
        ) from None
    if not isinstance(document, dict):
        raise BrokenDocumentError("its metadata are not those of an audit")
    if document.get("schema") == 1:
        known = {*table.column_names, *SUBSPACE_COLUMNS}  # which older files have not
        if missing := [name for name in vector_schema().names if name not in known]:
            raise BrokenDocumentError(f"it has no column '{missing[0]}'")
        document["matrices"] = matrices_from_rows(table.to_pylist())
    return document


def matrices_from_rows(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The matrices as the JSON holds them, from rows of :func:`vector_table`."""
    groups: list[list[dict[str, Any]]] = []
    for row in rows:
        if not groups or groups[-1][0]["name"] != row["name"]:
            groups.append([])
        groups[-1].append(row)
    return [_matrix_from_rows(group) for group in groups]


def _matrix_from_rows(rows: list[dict[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    try:
        similarity = np.array(
            [row["similarity"] for row in rows], dtype="<f4"
        ).T  # (base vectors, tuned vectors)
    except (TypeError, ValueError) as error:
        raise BrokenDocumentError(f"the similarity columns of '{first['name']}' differ in length") from error
    return {
        "name": first["name"],
        "shape": [first["rows"], first["columns"]],
        "rank": first["rank"],
        "update": {name: first[name] for name in UPDATE_COLUMNS},
        "vectors": [
            {
                "index": row["index"],
                "singular_value": row["singular_value"],
                "max_cosine": [row["max_cosine_lower"], row["max_cosine_upper"]],
                "intruder": row["intruder"],
                "certificate": row["certificate"],
                "ambiguous": row["ambiguous"],
            }
            for row in rows
        ],
        "base_singular_values": first["base_singular_values"],
        "similarity": {
            "shape": list(similarity.shape),
            "float32": base64.b64encode(np.ascontiguousarray(similarity).tobytes()).decode(),
        },
        "subspaces": _subspaces_of_row(first),
    }


def _subspaces_of_row(row: dict[str, Any]) -> dict[str, Any] | None:
    """Return the subspaces of a row; None for a row of an older file, which has no chance of a max cosine."""
    if row.get("max_cosine_chance") is None:
        return None
    return {name: row[name] for name in SUBSPACE_COLUMNS}


_FLOATS = pa.list_(pa.float64())


def _of_update(owners: list[AuditedMatrix], name: str) -> pa.Array:
    return pa.array([getattr(matrix.update, name) for matrix in owners], pa.float64())


def _of_subspaces(owners: list[AuditedMatrix]) -> dict[str, pa.Array]:
    """A column of each number; null for one that is not known, and for all of a matrix of an older audit."""
    records = [{} if matrix.subspaces is None else matrix.subspaces.to_record() for matrix in owners]
    return {
        name: pa.array([record.get(name) for record in records], pa.float64()) for name in SUBSPACE_COLUMNS
    }


def _similarity_columns(matrices: Sequence[AuditedMatrix]) -> list[Any]:
    return [matrix.similarity[:, j] for matrix in matrices for j in range(len(matrix.vectors))]


def vector_schema() -> pa.Schema:
    """The columns of an audit's Parquet."""
    floats = ("singular_value", "max_cosine_lower", "max_cosine_upper")
    return pa.schema(
        [
            ("name", pa.string()),
            *[(name, pa.int64()) for name in ("rows", "columns", "index")],
            *[(name, pa.float64()) for name in floats],
            ("intruder", pa.bool_()),
            ("certificate", pa.string()),
            ("ambiguous", pa.bool_()),
            ("rank", pa.int64()),
            *[(name, pa.float64()) for name in UPDATE_COLUMNS],
            ("base_singular_values", _FLOATS),
            ("similarity", pa.list_(pa.float32())),
            *[(name, pa.float64()) for name in SUBSPACE_COLUMNS],
        ]
    )
