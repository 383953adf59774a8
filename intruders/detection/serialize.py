"""An audit as JSON of schema 1, and the one door to saving and loading it.

The document is checked field by field on reading: a file is believed only as far as it is an audit.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..checkpoints.pairing import Skipped
from ..errors import SettingError
from .files import ResultFileError, read_bytes, write_atomically
from .table import SCHEMA, Audit, Matrix, UpdateSize, Vector

CERTIFICATES = ("overlap", "mass", "moment", "exact")


class BrokenDocumentError(ValueError):
    """A document that is not an audit of a schema known here; the text says where it fails."""


def save(audit: Audit, path: str | os.PathLike[str]) -> None:
    """Write `audit` to `path`, as JSON or Parquet by its suffix, whole or not at all."""
    check_suffix(path)
    if Path(path).suffix.lower() == ".json":
        write_atomically(path, (to_json(audit) + "\n").encode())
    else:
        from .parquet import to_parquet

        write_atomically(path, to_parquet(audit))


def load(path: str | os.PathLike[str]) -> Audit:
    """Read the audit that `save` wrote to `path`; raises ResultFileError for anything else."""
    check_suffix(path)
    content = read_bytes(path)
    try:
        if Path(path).suffix.lower() == ".json":
            document = json.loads(content)
        else:
            from .parquet import document_from_parquet

            document = document_from_parquet(content)
        return from_document(document)
    except (ValueError, OverflowError, RecursionError) as error:
        why = " ".join(str(error).split())
        raise ResultFileError(f"'{path}' cannot be read as a saved audit: {why[:300]}") from error


def check_suffix(path: str | os.PathLike[str]) -> None:
    """Raise SettingError unless `path` names one of the two formats."""
    if Path(path).suffix.lower() not in (".json", ".parquet"):
        raise SettingError(f"'{path}': an audit is kept as .json or .parquet; end the path with one of these")


def to_json(audit: Audit) -> str:
    """The document as JSON text. Numbers are written so that reading gives back the same ones."""
    return json.dumps(to_document(audit), allow_nan=False, ensure_ascii=False)


def to_document(audit: Audit) -> dict[str, Any]:
    """The audit as nested plain values: schema 1, see docs/reports.md."""
    return {**header(audit), "matrices": [_matrix_to_record(matrix) for matrix in audit.matrices]}


def header(audit: Audit) -> dict[str, Any]:
    """Everything but the matrices."""
    return {
        "schema": SCHEMA,
        "intruders_version": audit.versions.get("intruders", "unknown"),
        "base": {"source": audit.base_source},
        "tuned": {"source": audit.tuned_source, "kind": audit.tuned_kind},
        "settings": {**audit.settings, "k": audit.k, "epsilon": audit.epsilon, "exact": audit.exact},
        "totals": {
            "matrices": len(audit.matrices),
            "vectors": audit.vectors,
            "intruders": audit.intruders,
            "seconds": _number(audit.seconds),
        },
        "versions": dict(audit.versions),
        "skipped": [{"name": skipped.name, "reason": skipped.reason} for skipped in audit.skipped],
    }


def _matrix_to_record(matrix: Matrix) -> dict[str, Any]:
    similarity = np.ascontiguousarray(matrix.similarity, dtype="<f4")
    return {
        "name": matrix.name,
        "shape": list(matrix.shape),
        "rank": matrix.rank,
        "intruders": matrix.intruders,
        "intruder_energy_share": _number(matrix.intruder_energy_share),
        "update": {
            "frobenius": _number(matrix.update.frobenius),
            "spectral": _number(matrix.update.spectral),
            "effective_rank": _number(matrix.update.effective_rank),
            "effective_rank_error": _number(matrix.update.effective_rank_error),
            "stable_rank": _number(matrix.update.stable_rank),
        },
        "vectors": [
            {
                "index": vector.index,
                "singular_value": _number(vector.singular_value),
                "max_cosine": [_number(bound) for bound in vector.max_cosine],
                "intruder": vector.intruder,
                "certificate": vector.certificate,
                "ambiguous": vector.ambiguous,
            }
            for vector in matrix.vectors
        ],
        "base_singular_values": [_number(value) for value in matrix.base_singular_values],
        # Little-endian single precision in base64: a tenth of its size in digits, and exact.
        "similarity": {
            "shape": list(similarity.shape),
            "float32": base64.b64encode(similarity.tobytes()).decode(),
        },
    }


def _number(value: float) -> float | None:
    """JSON has no NaN and no infinity: both are written as null, and read as NaN."""
    return float(value) if math.isfinite(value) else None


def from_document(document: object) -> Audit:
    """The audit that a document describes; raises BrokenDocumentError where it does not describe one."""
    schema = _get(document, "schema", "document", int)
    if schema > SCHEMA:
        raise BrokenDocumentError(
            f"it has schema {schema}; this version reads up to {SCHEMA}, so upgrade intruders"
        )
    if schema != SCHEMA:
        raise BrokenDocumentError(f"it has schema {schema}; expected {SCHEMA}")
    base, tuned = (_get(document, key, "document", dict) for key in ("base", "tuned"))
    settings = dict(_get(document, "settings", "document", dict))
    totals = _get(document, "totals", "document", dict)
    versions = _get(document, "versions", "document", dict)
    matrices = [_matrix_from_record(record) for record in _get(document, "matrices", "document", list)]
    audit = Audit(
        base_source=_get(base, "source", "base", str),
        tuned_source=_get(tuned, "source", "tuned", str),
        tuned_kind=_get(tuned, "kind", "tuned", str),
        k=_get(settings, "k", "settings", int),
        epsilon=_get_float(settings, "epsilon", "settings"),
        exact=_get(settings, "exact", "settings", bool),
        seconds=_get_float(totals, "seconds", "totals"),
        matrices=matrices,
        skipped=[
            Skipped(name=_get(record, "name", "skipped", str), reason=_get(record, "reason", "skipped", str))
            for record in _get(document, "skipped", "document", list)
        ],
        settings={key: value for key, value in settings.items() if key not in ("k", "epsilon", "exact")},
        versions={key: _get(versions, key, "versions", str) for key in versions},
    )
    _check_totals(audit, totals)
    return audit


def _check_totals(audit: Audit, totals: dict[str, Any]) -> None:
    counted = {"matrices": len(audit.matrices), "vectors": audit.vectors, "intruders": audit.intruders}
    for key, count in counted.items():
        if (stated := _get(totals, key, "totals", int)) != count:
            raise BrokenDocumentError(f"its totals say {stated} {key}, and it holds {count}")


def _matrix_from_record(record: object) -> Matrix:
    name = _get(record, "name", "matrix", str)
    rows, columns = _pair(record, "shape", name, int)
    update = _get(record, "update", name, dict)
    return Matrix(
        name=name,
        shape=(rows, columns),
        rank=_get(record, "rank", name, (int, type(None))),
        vectors=[_vector_from_record(vector, name) for vector in _get(record, "vectors", name, list)],
        update=UpdateSize(
            frobenius=_get_float(update, "frobenius", name),
            spectral=_get_float(update, "spectral", name),
            effective_rank=_get_float(update, "effective_rank", name),
            effective_rank_error=_get_float(update, "effective_rank_error", name),
            stable_rank=_get_float(update, "stable_rank", name),
        ),
        base_singular_values=[_float(v, name) for v in _get(record, "base_singular_values", name, list)],
        similarity=_similarity_from_record(_get(record, "similarity", name, dict), name),
    )


def _vector_from_record(record: object, name: str) -> Vector:
    lower, upper = _pair(record, "max_cosine", name, (int, float, type(None)))
    certificate = _get(record, "certificate", name, str)
    if certificate not in CERTIFICATES:
        raise BrokenDocumentError(
            f"'{name}' has the certificate '{certificate}'; expected one of {CERTIFICATES}"
        )
    return Vector(
        index=_get(record, "index", name, int),
        singular_value=_get_float(record, "singular_value", name),
        max_cosine=(_float(lower, name), _float(upper, name)),
        intruder=_get(record, "intruder", name, bool),
        certificate=certificate,
        ambiguous=_get(record, "ambiguous", name, bool),
    )


def _similarity_from_record(record: dict[str, Any], name: str) -> npt.NDArray[np.float32]:
    rows, columns = _pair(record, "shape", name, int)
    try:
        raw = base64.b64decode(_get(record, "float32", name, str), validate=True)
    except binascii.Error as error:
        raise BrokenDocumentError(f"the similarity matrix of '{name}' is not base64 ({error})") from error
    if rows < 0 or columns < 0 or len(raw) != 4 * rows * columns:
        raise BrokenDocumentError(
            f"the similarity matrix of '{name}' has {len(raw)} bytes; expected {rows} x {columns} x 4"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(rows, columns).astype(np.float32)


def _get(record: object, key: str, where: str, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(record, dict) or key not in record:
        raise BrokenDocumentError(f"'{where}' has no '{key}'")
    return _of_kind(record[key], f"{where}.{key}", kind)


def _get_float(record: object, key: str, where: str) -> float:
    return _float(_get(record, key, where, (int, float, type(None))), f"{where}.{key}")


def _float(value: object, where: str) -> float:
    number = _of_kind(value, where, (int, float, type(None)))
    return math.nan if number is None else float(number)


def _pair(record: object, key: str, where: str, kind: type | tuple[type, ...]) -> tuple[Any, Any]:
    values = _get(record, key, where, list)
    if len(values) != 2:
        raise BrokenDocumentError(f"'{where}.{key}' has {len(values)} entries; expected 2")
    return _of_kind(values[0], f"{where}.{key}", kind), _of_kind(values[1], f"{where}.{key}", kind)


def _of_kind(value: object, where: str, kind: type | tuple[type, ...]) -> Any:
    kinds = kind if isinstance(kind, tuple) else (kind,)
    # bool is an int to isinstance, and True is no matrix size.
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        expected = " or ".join("null" if k is type(None) else k.__name__ for k in kinds)
        raise BrokenDocumentError(f"'{where}' is {str(value)[:40]!r}; expected {expected}")
    return value
