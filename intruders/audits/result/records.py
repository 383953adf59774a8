"""The rows of an audit: one matrix, its examined vectors and the size of its update, each with its plain form."""

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, get_type_hints

import numpy as np
import numpy.typing as npt

from ...linalg.chance import chance_angle, chance_max_cosine, chance_share
from ...system.plain_values import from_plain, plain


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


@dataclass(frozen=True, eq=False)
class Subspaces:
    """The subspaces of one matrix; NaN for what the audit did not need or what is not defined.

    Chance is what random directions give: tuned leading vectors that have nothing to do with the base's, or an
    update in random directions. Docs: docs/reference/files.md, formulas: intruders/engine/spectral_change.py.
    """

    rotation_left_angle: float  # largest principal angle, degrees
    rotation_left_angle_chance: float
    rotation_left_sine2: float  # mean squared sine of the principal angles
    rotation_left_sine2_chance: float
    rotation_right_angle: float
    rotation_right_angle_chance: float
    rotation_right_sine2: float
    rotation_right_sine2_chance: float
    spectral_drift: float  # relative change of the k leading singular values
    spectral_drift_bound: float  # the most that an update of this norm can cause (Mirsky 1960)
    rho_k: float  # share of the update in the base's k leading left directions
    rho_k_chance: float
    off_principal: float  # share of it outside both the left and the right ones
    off_principal_chance: float
    max_cosine_chance: float  # of a random vector with all left vectors of a base of this shape

    @classmethod
    def of(
        cls, change: Mapping[str, float], shape: tuple[int, int], k: int, update_norm: float, base_norm: float
    ) -> "Subspaces":
        """Build from the numbers of a SpectralChange, with the norms of the update and of the base's leading values."""
        m, n = shape
        left_share, right_share = chance_share(k, m), chance_share(k, n)
        return cls(
            **change,
            rotation_left_angle_chance=chance_angle(k, m),
            rotation_left_sine2_chance=1 - left_share,
            rotation_right_angle_chance=chance_angle(k, n),
            rotation_right_sine2_chance=1 - right_share,
            spectral_drift_bound=update_norm / base_norm if base_norm > 0 else math.nan,
            rho_k_chance=left_share,
            off_principal_chance=(1 - left_share) * (1 - right_share),
            max_cosine_chance=chance_max_cosine(m, min(m, n)),
        )

    def __eq__(self, other: object) -> bool:
        # A number that is not known is equal to itself here: NaN is not.
        return isinstance(other, Subspaces) and plain(self) == plain(other)


SUBSPACE_COLUMNS = tuple(field.name for field in fields(Subspaces))


@dataclass(frozen=True, eq=False)
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


def energy_share(vectors: Iterable[Vector]) -> float:
    """Sum of s_j^2 over the intruders among `vectors`, over the same sum over all of them; in [0, 1]."""
    pairs = [(vector.singular_value, vector.intruder) for vector in vectors]
    return energy_share_of(*zip(*pairs, strict=True)) if pairs else 0.0


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
_KINDS = get_type_hints(AuditedMatrix)
del _KINDS["similarity"]


def matrix_to_record(matrix: AuditedMatrix) -> dict[str, Any]:
    similarity = np.ascontiguousarray(matrix.similarity, dtype="<f4")
    return {
        "name": matrix.name,
        "shape": list(matrix.shape),
        "rank": matrix.rank,
        "intruders": matrix.intruders,
        "intruder_energy_share": plain(matrix.intruder_energy_share),
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


def matrix_from_record(record: Mapping[str, Any]) -> AuditedMatrix:
    """Make a matrix of :func:`matrix_to_record`; LookupError, TypeError or ValueError if it is none."""
    content = base64.b64decode(record["similarity"]["float32"], validate=True)
    shape = from_plain(tuple[int, int], record["similarity"]["shape"])
    return matrix_of(record, np.frombuffer(content, dtype="<f4").reshape(shape))


def matrix_of(record: Mapping[str, Any], similarity: npt.ArrayLike) -> AuditedMatrix:
    """Make a matrix of its plain values and its similarity matrix; errors as :func:`matrix_from_record`."""
    values = {name: from_plain(kind, record[name]) for name, kind in _KINDS.items()}
    matrix = AuditedMatrix(**values, similarity=np.ascontiguousarray(similarity, dtype=np.float32))
    if unknown := {vector.certificate for vector in matrix.vectors} - set(CERTIFICATES):
        raise ValueError(
            f"'{matrix.name}' has the certificate '{unknown.pop()}'; expected one of {CERTIFICATES}"
        )
    return matrix
