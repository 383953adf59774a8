"""Audited matrices as tables: one row per vector with the values of its matrix repeated, and one row per matrix.

The first is the content of an audit's Parquet file, with the rest of the audit in its metadata, so that DuckDB, pandas
or polars answer questions without this package. Repeated values cost almost nothing after dictionary encoding.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain, groupby
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ...errors import BrokenDocumentError
from ...system.documents import json_number
from ...system.parquet import document_in
from .records import CERTIFICATES, UPDATE_COLUMNS, AuditedMatrix, UpdateSize, Vector
from .subspaces import SUBSPACE_COLUMNS, Subspaces

METADATA_KEY = b"intruders"


class _Column(NamedTuple):
    name: str
    kind: pa.DataType
    values: Callable[[AuditedMatrix], Iterable[Any]]  # one per vector


def _of_vector(name: str, kind: pa.DataType, value: Callable[[Vector], Any] | None = None) -> _Column:
    value = value or attrgetter(name)
    return _Column(name, kind, lambda matrix: map(value, matrix.vectors))


def _of_matrix(name: str, kind: pa.DataType, value: Callable[[AuditedMatrix], Any]) -> _Column:
    return _Column(name, kind, lambda matrix: [value(matrix)] * len(matrix.vectors))


def _of_update(name: str) -> _Column:
    return _of_matrix(name, pa.float64(), lambda matrix: getattr(matrix.update, name))


def _of_subspaces(name: str) -> _Column:
    """Return the column of a number; null where it is not known."""
    return _of_matrix(name, pa.float64(), lambda matrix: json_number(getattr(matrix.subspaces, name, None)))


# Everything that is known of a vector and of its matrix: the only list of it. The first ones are Audit.to_pandas().
_COLUMNS = (
    _of_matrix("name", pa.string(), lambda matrix: matrix.name),
    _of_matrix("rows", pa.int64(), lambda matrix: matrix.shape[0]),
    _of_matrix("columns", pa.int64(), lambda matrix: matrix.shape[1]),
    _of_vector("index", pa.int64()),
    _of_vector("singular_value", pa.float64()),
    _of_vector("max_cosine_lower", pa.float64(), lambda vector: vector.max_cosine[0]),
    _of_vector("max_cosine_upper", pa.float64(), lambda vector: vector.max_cosine[1]),
    _of_vector("intruder", pa.bool_()),
    _of_vector("certificate", pa.string()),
    _of_vector("ambiguous", pa.bool_()),
    _of_matrix("rank", pa.int64(), lambda matrix: matrix.rank),
    *map(_of_update, UPDATE_COLUMNS),
    _of_matrix("base_singular_values", pa.list_(pa.float64()), lambda matrix: matrix.base_singular_values),
    # Of each tuned vector y_j its own column of the similarity matrix: |<x_i, y_j>| over i.
    _Column("similarity", pa.list_(pa.float32()), lambda matrix: list(matrix.similarity.T)),
    *map(_of_subspaces, SUBSPACE_COLUMNS),
)
VECTOR_COLUMNS = [column.name for column in _COLUMNS[:10]]
_MAY_LACK = {
    "rank",
    "singular_value",
    "max_cosine_lower",
    "max_cosine_upper",
    *UPDATE_COLUMNS,
    *SUBSPACE_COLUMNS,
}

# Columns that are the same in all rows of a matrix, and those of single vectors, from which a row per matrix is made.
_SAME_IN_MATRIX = ["rows", "columns", "rank", *UPDATE_COLUMNS, *SUBSPACE_COLUMNS, "base_value"]
COUNTED = ["name", "index", "singular_value", "intruder", "certificate", "ambiguous", *_SAME_IN_MATRIX]
# relative_update is shown next to the spectral norm, which it is made of.
_AFTER_SPECTRAL = UPDATE_COLUMNS.index("spectral") + 1
MATRIX_COLUMNS = [
    *("name", "rows", "columns", "rank", "vectors", "intruders", "intruder_energy_share"),
    *UPDATE_COLUMNS[:_AFTER_SPECTRAL],
    "relative_update",
    *UPDATE_COLUMNS[_AFTER_SPECTRAL:],
    "ambiguous",
    *(f"by_{name}" for name in CERTIFICATES),
    *SUBSPACE_COLUMNS,
]


def vector_schema() -> pa.Schema:
    """The columns of an audit's Parquet."""
    return pa.schema([(column.name, column.kind) for column in _COLUMNS])


def vector_table(matrices: Sequence[AuditedMatrix], columns: Sequence[str] | None = None) -> pa.Table:
    """One row a vector, with everything that is known of it and of its matrix, or with some columns of it."""
    chosen = [column for column in _COLUMNS if columns is None or column.name in columns]
    return pa.table(
        {
            column.name: pa.array(list(chain.from_iterable(map(column.values, matrices))), column.kind)
            for column in chosen
        }
    )


def vector_frame(matrices: Sequence[AuditedMatrix]) -> pd.DataFrame:
    """One row a singular vector, in the order of the audit."""
    frame: pd.DataFrame = vector_table(matrices, VECTOR_COLUMNS).to_pandas()
    return frame


def with_base_values(table: pa.Table, matrices: Sequence[AuditedMatrix]) -> pa.Table:
    """Add the largest singular value of the base to a table of these matrices; 0 where none is known."""
    values = [next(iter(matrix.base_singular_values), 0.0) for matrix in matrices for _ in matrix.vectors]
    return table.append_column("base_value", pa.array(values, pa.float64()))


def matrix_frame(matrices: Sequence[AuditedMatrix]) -> pd.DataFrame:
    """One row a matrix; `rank` is missing where the update did not come as low-rank factors.

    `relative_update` is ||D||_2 / s_1(W0): the update's largest singular value over the base's.
    """
    return matrices_of_rows(with_base_values(vector_table(matrices, COUNTED), matrices))[MATRIX_COLUMNS]


def matrices_of_rows(rows: pa.Table, owner: str | None = None) -> pd.DataFrame:
    """Return one row per matrix, from rows of vectors; of several models if there is a column ``owner``.

    That column comes first. Besides the columns of :func:`matrix_frame` there are ``largest``, the largest singular
    value of the matrix, and ``energy``, the sum of squares of all examined ones over its square.
    """
    keys = ["name"] if owner is None else [owner, "name"]
    if rows.num_rows == 0:
        # The columns are there without a row too: a loop over checkpoints also meets one that changed nothing.
        return pd.DataFrame(columns=[*keys[:-1], *MATRIX_COLUMNS]).astype({"rank": "Int64"})
    frame = rows.select([*keys[:-1], *COUNTED]).to_pandas()
    groups = frame.groupby(keys, sort=False)
    table = groups[["singular_value", *_SAME_IN_MATRIX]].first()
    largest = groups["singular_value"].transform("max").replace(0.0, 1.0)
    # As energy_share_of, for all matrices together: a call for each would take most of the time.
    frame["energy"] = (frame["singular_value"] / largest) ** 2
    frame["intruder_energy"] = frame["energy"] * frame["intruder"]
    for name in CERTIFICATES:
        frame[f"by_{name}"] = frame["certificate"] == name
    counted = ["intruder", "ambiguous", "energy", "intruder_energy", *(f"by_{name}" for name in CERTIFICATES)]
    groups = frame.groupby(keys, sort=False)
    table["vectors"] = groups.size()
    table = table.join(groups[counted].sum())
    table["relative_update"] = relative_updates(table["spectral"].to_numpy(), table["base_value"].to_numpy())
    table["intruder_energy_share"] = (table["intruder_energy"] / table["energy"]).fillna(0.0)
    table["rank"] = table["rank"].astype("Int64")
    renamed: pd.DataFrame = table.rename(columns={"intruder": "intruders", "singular_value": "largest"})
    return renamed.reset_index()


def relative_updates(
    spectral: np.ndarray[Any, Any], base_value: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Return ``||D||_2 / s_1(W0)`` of every matrix; NaN where the base's largest singular value is zero or unknown."""
    return np.asarray(
        np.divide(spectral, base_value, out=np.full(len(spectral), np.nan), where=base_value > 0)
    )


def read_vector_table(content: bytes) -> tuple[dict[str, Any], pa.Table]:
    """Return the document of a Parquet file, without its matrices, and the table; BrokenDocumentError for others."""
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
    return document, table


def matrices_in(table: pa.Table) -> list[AuditedMatrix]:
    """Return the matrices of a table of vectors; BrokenDocumentError if it is another one."""
    schema = vector_schema()
    if missing := [name for name in schema.names if name not in table.column_names]:
        raise BrokenDocumentError(f"it has no column '{missing[0]}'")
    try:
        table = table.select(schema.names).cast(schema)
    except (pa.ArrowException, NotImplementedError) as error:
        raise BrokenDocumentError(f"a column has another type than an audit's ({error})") from error
    for name in schema.names:
        if name not in _MAY_LACK and table[name].null_count:
            raise BrokenDocumentError(f"its column '{name}' lacks values")
    groups = groupby(table.to_pylist(), key=itemgetter("name"))
    return [_matrix_of(list(rows)) for _, rows in groups]


def _matrix_of(rows: list[dict[str, Any]]) -> AuditedMatrix:
    first = rows[0]
    if unknown := {row["certificate"] for row in rows} - set(CERTIFICATES):
        raise BrokenDocumentError(
            f"'{first['name']}' has the certificate '{unknown.pop()}'; expected one of {CERTIFICATES}"
        )
    try:
        similarity = np.array([row["similarity"] for row in rows], dtype=np.float32).T
    except (TypeError, ValueError) as error:
        raise BrokenDocumentError(f"the similarity columns of '{first['name']}' differ in length") from error

    def number(row: dict[str, Any], name: str) -> float:
        return math.nan if row[name] is None else float(row[name])

    return AuditedMatrix(
        name=first["name"],
        shape=(first["rows"], first["columns"]),
        rank=first["rank"],
        vectors=[
            Vector(
                index=row["index"],
                singular_value=number(row, "singular_value"),
                max_cosine=(number(row, "max_cosine_lower"), number(row, "max_cosine_upper")),
                intruder=row["intruder"],
                certificate=row["certificate"],
                ambiguous=row["ambiguous"],
            )
            for row in rows
        ],
        update=UpdateSize(*(number(first, name) for name in UPDATE_COLUMNS)),
        base_singular_values=first["base_singular_values"],
        similarity=np.ascontiguousarray(similarity),
        # A matrix that nothing of the kind was measured of has no chance of a max cosine either.
        subspaces=None
        if first["max_cosine_chance"] is None
        else Subspaces(*(number(first, name) for name in SUBSPACE_COLUMNS)),
    )
