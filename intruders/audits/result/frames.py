"""Audited matrices as pandas tables: one row per vector, or one row per matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pandas as pd

from .records import CERTIFICATES, UPDATE_COLUMNS, AuditedMatrix
from .subspaces import SUBSPACE_COLUMNS

VECTOR_COLUMNS = [
    "name",
    "rows",
    "columns",
    "index",
    "singular_value",
    "max_cosine_lower",
    "max_cosine_upper",
    "intruder",
    "certificate",
    "ambiguous",
]

# relative_update is shown next to the spectral norm, which it is made of.
_AFTER_SPECTRAL = UPDATE_COLUMNS.index("spectral") + 1
_SIZES = [*UPDATE_COLUMNS[:_AFTER_SPECTRAL], "relative_update", *UPDATE_COLUMNS[_AFTER_SPECTRAL:]]

_OF_MATRIX = [
    "name",
    "rows",
    "columns",
    "rank",
    "vectors",
    "intruders",
    "intruder_energy_share",
    *_SIZES,
    "ambiguous",
]


def vector_frame(matrices: Sequence[AuditedMatrix]) -> pd.DataFrame:
    """One row a singular vector, in the order of the audit."""
    rows = [
        (
            matrix.name,
            *matrix.shape,
            vector.index,
            vector.singular_value,
            *vector.max_cosine,
            vector.intruder,
            vector.certificate,
            vector.ambiguous,
        )
        for matrix in matrices
        for vector in matrix.vectors
    ]
    return pd.DataFrame(rows, columns=VECTOR_COLUMNS)


def matrix_columns() -> list[str]:
    """The columns of :func:`matrix_frame`."""
    counted = [f"by_{name}" for name in CERTIFICATES]
    return [*_OF_MATRIX, *counted, *SUBSPACE_COLUMNS]


def _sizes(matrix: AuditedMatrix) -> dict[str, float]:
    sizes = {name: getattr(matrix.update, name) for name in UPDATE_COLUMNS}
    sizes["relative_update"] = matrix.relative_update
    return {name: sizes[name] for name in _SIZES}


def _subspaces(matrix: AuditedMatrix) -> dict[str, float]:
    if matrix.subspaces is None:
        return dict.fromkeys(SUBSPACE_COLUMNS, float("nan"))
    return {name: getattr(matrix.subspaces, name) for name in SUBSPACE_COLUMNS}


def matrix_frame(matrices: Sequence[AuditedMatrix]) -> pd.DataFrame:
    """One row a matrix; `rank` is missing where the update did not come as low-rank factors.

    `relative_update` is ||D||_2 / s_1(W0): the update's largest singular value over the base's.
    """
    rows = []
    for matrix in matrices:
        certificates = Counter(vector.certificate for vector in matrix.vectors)
        rows.append(
            {
                "name": matrix.name,
                "rows": matrix.shape[0],
                "columns": matrix.shape[1],
                "rank": matrix.rank,
                "vectors": len(matrix.vectors),
                "intruders": matrix.intruders,
                "intruder_energy_share": matrix.intruder_energy_share,
                **_sizes(matrix),
                "ambiguous": sum(vector.ambiguous for vector in matrix.vectors),
                **{f"by_{name}": certificates[name] for name in CERTIFICATES},
                **_subspaces(matrix),
            }
        )
    # The columns are there without a row too: a loop over checkpoints also meets one that changed nothing.
    return pd.DataFrame(rows, columns=matrix_columns()).astype({"rank": "Int64"})
