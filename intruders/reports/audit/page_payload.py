"""The data of an audit that a page needs to draw and recount it, in as few bytes as possible."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from ...audits.result.audit_result import Audit
from ...audits.result.records import CERTIFICATES, AuditedMatrix
from ...audits.scales.critical_scales_result import CriticalScales
from ...charts.chart import numbers
from ...checkpoints.stored.names import ModulePath, module_paths
from ...system.documents import json_number
from ...system.plain_values import plain


def audit_payload(audit: Audit, label: str | None = None) -> dict[str, Any]:
    """Return plain JSON values: bounds in full, since the page counts from them, the rest rounded."""
    paths = module_paths([matrix.name for matrix in audit.matrices])
    return {
        "label": label or audit.tuned_source,
        "base": audit.base_source,
        "tuned": audit.tuned_source,
        "kind": audit.tuned_kind,
        "k": audit.k,
        "epsilon": audit.epsilon,
        "matrices": [_matrix(matrix, path) for matrix, path in zip(audit.matrices, paths, strict=True)],
    }


def _matrix(matrix: AuditedMatrix, path: ModulePath) -> dict[str, Any]:
    update = matrix.update
    return {
        "name": matrix.name,
        "stack": path.stack,
        "layer": path.layer,
        "module": path.kind,
        "shape": list(matrix.shape),
        "rank": matrix.rank,
        "frobenius": _rounded(update.frobenius),
        "spectral": _rounded(update.spectral),
        "relative": _rounded(matrix.relative_update),
        "effectiveRank": _rounded(update.effective_rank),
        "effectiveRankError": _rounded(update.effective_rank_error),
        "stableRank": _rounded(update.stable_rank),
        "index": [vector.index for vector in matrix.vectors],
        "values": [_rounded(vector.singular_value) for vector in matrix.vectors],
        "lower": _exact(vector.max_cosine[0] for vector in matrix.vectors),
        "upper": _exact(vector.max_cosine[1] for vector in matrix.vectors),
        "intruder": [int(vector.intruder) for vector in matrix.vectors],
        "certificate": [CERTIFICATES.index(vector.certificate) for vector in matrix.vectors],
        "ambiguous": [vector.index for vector in matrix.vectors if vector.ambiguous],
        "baseValues": [_rounded(value) for value in matrix.base_singular_values],
        "similarity": packed_cosines(matrix.similarity),
        "subspaces": _subspaces(matrix),
    }


def _subspaces(matrix: AuditedMatrix) -> dict[str, float | None] | None:
    if matrix.subspaces is None:
        return None
    return {
        name: None if value is None else _rounded(value) for name, value in plain(matrix.subspaces).items()
    }


def scales_payload(scales: CriticalScales) -> dict[str, Any]:
    """Return critical scales as plain JSON values; an infinite scale is null."""
    return {
        "matrices": {
            matrix.name: numbers([matrix.measured, matrix.predicted, matrix.searched])
            for matrix in scales.matrices
        },
        "figure": scales.chart().payload(),
    }


def _exact(values: Iterable[float]) -> list[float | None]:
    return [json_number(value) for value in values]


def _rounded(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def packed_cosines(similarity: npt.NDArray[np.float32]) -> dict[str, Any]:
    """Pack cosines as bytes in base64, row by row: 1/255 is finer than a color scale shows."""
    steps = np.rint(np.clip(np.nan_to_num(similarity), 0, 1) * 255).astype(np.uint8)
    return {"shape": list(steps.shape), "bytes": base64.b64encode(steps.tobytes()).decode()}
