"""The rows of an audit: one matrix, its examined vectors and the size of its update, each with its plain form."""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ...errors import BrokenDocumentError
from ...system.documents import get_field, get_float, is_of_kind, json_number, read_float
from ...system.plain_values import plain
from .subspaces import SUBSPACE_COLUMNS, Subspaces


@dataclass(frozen=True)
class Vector:
    """One left singular vector of a tuned matrix, and how it was judged."""

    index: int  # 0 is the one with the largest singular value
    singular_value: float
    max_cosine: tuple[float, float]  # proved [lower, upper] of max_i |<x_i, y>|
    intruder: bool
    certificate: str  # one of CERTIFICATES
    ambiguous: bool  # the decision depends on the choice of vectors within a cluster of singular values

    def is_intruder_at(self, epsilon: float) -> bool | None:
        """Return whether the max cosine is below `epsilon`; None where the proved bounds do not tell."""
        lower, upper = self.max_cosine
        if upper < epsilon:
            return True
        return False if lower >= epsilon else None


@dataclass(frozen=True)
class UpdateSize:
    """The size of the update D = W - W0, and the number of directions over which it spreads."""

    frobenius: float
    spectral: float
    effective_rank: float  # exp of the entropy of the normalized singular values (Roy and Vetterli 2007)
    effective_rank_error: float  # of a stochastic estimate; 0 where it is exact
    stable_rank: float  # squared Frobenius norm over squared spectral norm


UPDATE_COLUMNS = tuple(field.name for field in fields(UpdateSize))


@dataclass(frozen=True)
class AuditedMatrix:
    """One audited weight matrix: its examined vectors, the size of its update, and its similarity matrix.

    Attributes:
      name: the base's name of the tensor.
      shape: (outputs, inputs).
      rank: the rank of the update where it came as low-rank factors, else None.
      vectors: the examined singular vectors, the strongest first.
      update: the norms and the effective rank of the update.
      base_singular_values: the leading singular values of the base, descending.
      similarity: (base vectors, tuned vectors), the absolute cosines of left singular vectors.
      subspaces: how the leading subspaces moved, and where the update lies; None if that was not measured.
    """

    name: str
    shape: tuple[int, int]
    rank: int | None
    vectors: list[Vector]
    update: UpdateSize
    base_singular_values: list[float]
    similarity: npt.NDArray[np.float32] = field(repr=False)
    subspaces: Subspaces | None = None

    def __post_init__(self) -> None:
        columns = self.similarity.shape[1] if self.similarity.ndim == 2 else -1
        if not self.vectors or columns != len(self.vectors) or self.similarity.dtype != np.float32:
            raise ValueError(
                f"'{self.name}' has {len(self.vectors)} vectors and a similarity matrix of shape "
                f"{self.similarity.shape}, {self.similarity.dtype}; expected one float32 column a vector"
            )

    @property
    def intruders(self) -> int:
        """Number of intruders among the examined vectors."""
        return sum(vector.intruder for vector in self.vectors)

    @property
    def relative_update(self) -> float:
        """||D||_2 / s_1(W0): the update's largest singular value over the base's; NaN for a base of zeros."""
        largest = self.base_singular_values[0] if self.base_singular_values else 0.0
        return self.update.spectral / largest if largest > 0 else math.nan

    @property
    def intruder_energy_share(self) -> float:
        """Sum of s_j^2 over the intruders, over the same sum over all examined vectors."""
        return energy_share(self.vectors)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, AuditedMatrix):
            return NotImplemented
        # The generated comparison would ask an array for its truth value.
        mine, theirs = dict(vars(self)), dict(vars(other))
        return np.array_equal(mine.pop("similarity"), theirs.pop("similarity")) and mine == theirs

    __hash__: ClassVar[None] = None  # type: ignore[assignment]


def energy_share(vectors: Iterable[Vector]) -> float:
    """Sum of s_j^2 over the intruders among `vectors`, over the same sum over all of them; in [0, 1]."""
    judged = list(vectors)
    return energy_share_of(
        [vector.singular_value for vector in judged], [vector.intruder for vector in judged]
    )


def energy_share_of(values: Sequence[float], intruder: Sequence[bool]) -> float:
    """Sum of s_j^2 over the singular values of intruders, over the same sum over all ``values``; in [0, 1]."""
    largest = max(values, default=0.0)
    if largest <= 0:
        return 0.0
    # Over the largest value: a square of 1e200 overflows.
    energies = [(value / largest) ** 2 for value in values]
    of_intruders = math.fsum(energy for energy, is_one in zip(energies, intruder, strict=True) if is_one)
    return of_intruders / math.fsum(energies)


CERTIFICATES = ("coordinates", "overlap", "mass", "moment", "exact")


def matrix_to_record(matrix: AuditedMatrix) -> dict[str, Any]:
    similarity = np.ascontiguousarray(matrix.similarity, dtype="<f4")
    return {
        "name": matrix.name,
        "shape": list(matrix.shape),
        "rank": matrix.rank,
        "intruders": matrix.intruders,
        "intruder_energy_share": json_number(matrix.intruder_energy_share),
        "update": plain(matrix.update),
        "subspaces": plain(matrix.subspaces),
        "vectors": plain(matrix.vectors),
        "base_singular_values": plain(matrix.base_singular_values),
        # Little-endian single precision in base64: a tenth of its size in digits, and exact.
        "similarity": {
            "shape": list(similarity.shape),
            "float32": base64.b64encode(similarity.tobytes()).decode(),
        },
    }


def matrix_from_record(record: object) -> AuditedMatrix:
    name = get_field(record, "name", "matrix", str)
    rows, columns = _pair(record, "shape", name, int)
    update = get_field(record, "update", name, dict)
    subspaces = get_field(record, "subspaces", name, (dict, type(None)))
    return AuditedMatrix(
        name=name,
        shape=(rows, columns),
        rank=get_field(record, "rank", name, (int, type(None))),
        vectors=[_vector_from_record(vector, name) for vector in get_field(record, "vectors", name, list)],
        update=UpdateSize(**{column: get_float(update, column, name) for column in UPDATE_COLUMNS}),
        base_singular_values=[
            read_float(v, name) for v in get_field(record, "base_singular_values", name, list)
        ],
        similarity=_similarity_from_record(get_field(record, "similarity", name, dict), name),
        subspaces=None
        if subspaces is None
        else Subspaces(**{column: get_float(subspaces, column, name) for column in SUBSPACE_COLUMNS}),
    )


def _vector_from_record(record: object, name: str) -> Vector:
    lower, upper = _pair(record, "max_cosine", name, (int, float, type(None)))
    certificate = get_field(record, "certificate", name, str)
    if certificate not in CERTIFICATES:
        raise BrokenDocumentError(
            f"'{name}' has the certificate '{certificate}'; expected one of {CERTIFICATES}"
        )
    return Vector(
        index=get_field(record, "index", name, int),
        singular_value=get_float(record, "singular_value", name),
        max_cosine=(read_float(lower, name), read_float(upper, name)),
        intruder=get_field(record, "intruder", name, bool),
        certificate=certificate,
        ambiguous=get_field(record, "ambiguous", name, bool),
    )


def _similarity_from_record(record: dict[str, Any], name: str) -> npt.NDArray[np.float32]:
    rows, columns = _pair(record, "shape", name, int)
    try:
        raw = base64.b64decode(get_field(record, "float32", name, str), validate=True)
    except binascii.Error as error:
        raise BrokenDocumentError(f"the similarity matrix of '{name}' is not base64 ({error})") from error
    if rows < 0 or columns < 0 or len(raw) != 4 * rows * columns:
        raise BrokenDocumentError(
            f"the similarity matrix of '{name}' has {len(raw)} bytes; expected {rows} x {columns} x 4"
        )
    return np.frombuffer(raw, dtype="<f4").reshape(rows, columns).astype(np.float32)


def _pair(record: object, key: str, where: str, kind: type | tuple[type, ...]) -> tuple[Any, Any]:
    values = get_field(record, key, where, list)
    if len(values) != 2:
        raise BrokenDocumentError(f"'{where}.{key}' has {len(values)} entries; expected 2")
    return is_of_kind(values[0], f"{where}.{key}", kind), is_of_kind(values[1], f"{where}.{key}", kind)
