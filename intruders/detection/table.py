"""The result of an audit, as plain records that can be counted, tabulated, saved and loaded."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..checkpoints.pairing import Skipped
from ..errors import SettingError
from ..version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SCHEMA = 1


@dataclass(frozen=True)
class Vector:
    """One left singular vector of a tuned matrix, and how it was judged."""

    index: int  # 0 is the one with the largest singular value
    singular_value: float
    max_cosine: tuple[float, float]  # proved [lower, upper] of max_i |<x_i, y>|
    intruder: bool
    certificate: str  # "overlap", "mass", "moment" or "exact"
    ambiguous: bool  # the decision depends on the choice of vectors within a cluster of singular values

    def is_intruder_at(self, epsilon: float) -> bool | None:
        """Whether the max cosine is below `epsilon`; None where the proved interval does not tell."""
        lower, upper = self.max_cosine
        if upper < epsilon:
            return True
        return False if lower >= epsilon else None


@dataclass(frozen=True)
class UpdateSize:
    """How large the update D = W - W0 is, and over how many directions it spreads."""

    frobenius: float
    spectral: float
    effective_rank: float  # exp of the entropy of the normalized singular values (Roy and Vetterli 2007)
    effective_rank_error: float  # of a stochastic estimate; 0 where it is exact
    stable_rank: float  # squared Frobenius norm over squared spectral norm


@dataclass(frozen=True)
class Matrix:
    """One audited weight matrix."""

    name: str  # the base's tensor name
    shape: tuple[int, int]
    rank: int | None  # of the update, when it came as low-rank factors
    vectors: list[Vector]
    update: UpdateSize
    base_singular_values: list[float]  # the leading ones of the base, descending
    similarity: npt.NDArray[np.float32] = field(repr=False)  # (base vectors, tuned vectors): |<x_i, y_j>|

    def __post_init__(self) -> None:
        columns = self.similarity.shape[1] if self.similarity.ndim == 2 else -1
        if not self.vectors or columns != len(self.vectors) or self.similarity.dtype != np.float32:
            raise ValueError(
                f"'{self.name}' has {len(self.vectors)} vectors and a similarity matrix of shape "
                f"{self.similarity.shape}, {self.similarity.dtype}; expected one float32 column a vector"
            )

    @property
    def intruders(self) -> int:
        return sum(vector.intruder for vector in self.vectors)

    @property
    def intruder_energy_share(self) -> float:
        """Sum of s_j^2 over the intruders, over the same sum over all examined vectors."""
        return energy_share(self.vectors)

    def __eq__(self, other: object) -> bool:
        # The generated comparison would ask an array for its truth value.
        if not isinstance(other, Matrix):
            return NotImplemented
        return self._plain_fields() == other._plain_fields() and np.array_equal(
            self.similarity, other.similarity
        )

    __hash__ = None  # type: ignore[assignment]

    def _plain_fields(self) -> tuple[object, ...]:
        return (self.name, self.shape, self.rank, self.vectors, self.update, self.base_singular_values)


def energy_share(vectors: Iterable[Vector]) -> float:
    """Sum of s_j^2 over the intruders among `vectors`, over the same sum over all of them; in [0, 1]."""
    judged = [(vector.singular_value, vector.intruder) for vector in vectors]
    largest = max((value for value, _ in judged), default=0.0)
    if largest <= 0:
        return 0.0
    energies = [
        ((value / largest) ** 2, intruder) for value, intruder in judged
    ]  # a square of 1e200 overflows
    total = math.fsum(energy for energy, _ in energies)
    return math.fsum(energy for energy, intruder in energies if intruder) / total


def installed_versions() -> dict[str, str]:
    """What a result depends on: this package, its numerical libraries, Python and the platform."""
    versions = {
        "intruders": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for package in ("torch", "numpy", "safetensors", "transformers", "peft"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions


@dataclass(frozen=True)
class Audit:
    """What a fine-tuning did to the weights of a model."""

    base_source: str
    tuned_source: str
    tuned_kind: str
    k: int
    epsilon: float
    exact: bool
    seconds: float
    matrices: list[Matrix]
    skipped: list[Skipped]
    # What else it takes to run the same audit again (include, exclude, device, ...): plain JSON values.
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=installed_versions)

    @property
    def intruders(self) -> int:
        """Number of intruder dimensions over all audited matrices."""
        return sum(matrix.intruders for matrix in self.matrices)

    @property
    def vectors(self) -> int:
        """Number of singular vectors examined over all audited matrices."""
        return sum(len(matrix.vectors) for matrix in self.matrices)

    @property
    def intruder_energy_share(self) -> float:
        """Sum of s_j^2 over all intruders of the model, over the same sum over all examined vectors."""
        return energy_share(vector for matrix in self.matrices for vector in matrix.vectors)

    def matrix(self, name: str) -> Matrix:
        """The audited matrix of that name; raises SettingError with the nearest names if there is none."""
        for matrix in self.matrices:
            if matrix.name == name:
                return matrix
        raise SettingError(f"no audited matrix is named '{name}'; {self._nearest(name)}")

    def count(self, k: int | None = None, epsilon: float | None = None) -> tuple[int, int]:
        """(at least, at most) how many intruders there are among the first `k` vectors at `epsilon`.

        Counted from the proved intervals of the max cosines, without the weights. The two are equal where the
        intervals decide every vector, as they do at the audit's own epsilon and everywhere after `exact`.
        Raises SettingError for k outside 1..self.k or epsilon outside (0, 1].
        """
        k = self.k if k is None else k
        epsilon = self.epsilon if epsilon is None else epsilon
        if not 1 <= k <= self.k:
            raise SettingError(f"k = {k}: this audit examined {self.k} vectors a matrix; give 1 to {self.k}")
        if not 0 < epsilon <= 1:
            raise SettingError(f"epsilon = {epsilon}: expected a cosine above 0 and up to 1")
        decisions = [
            vector.intruder if epsilon == self.epsilon else vector.is_intruder_at(epsilon)
            for matrix in self.matrices
            for vector in matrix.vectors
            if vector.index < k
        ]
        at_least = decisions.count(True)
        return at_least, at_least + decisions.count(None)

    def to_pandas(self) -> pd.DataFrame:
        """One row a vector, with its matrix's name and shape beside it."""
        from .frames import vector_frame

        return vector_frame(self)

    def matrices_to_pandas(self) -> pd.DataFrame:
        """One row a matrix: shape, rank, intruders, energy share, update size, certificates."""
        from .frames import matrix_frame

        return matrix_frame(self)

    def to_json(self) -> str:
        """The audit as JSON text of schema 1 (docs/reports.md)."""
        from .serialize import to_json

        return to_json(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the audit to a `.json` or `.parquet` file, atomically; ResultFileError if that cannot be."""
        from .serialize import save

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Audit:
        """Read an audit that `save` wrote; ResultFileError if the file is broken or too new."""
        from .serialize import load

        return load(path)

    # Drawing belongs to `reports`, which knows this room; these methods only pass on, when they are called.

    def plot_similarity(self, name: str) -> Figure:
        """Matplotlib figure of |<x_i, y_j>| of one matrix: base vectors down, tuned vectors across."""
        from ..reports.figures import similarity_figure

        return similarity_figure(self.matrix(name))

    def plot_layers(self) -> Figure:
        """Matplotlib figure of the number of intruders by layer and module kind."""
        from ..reports.figures import layers_figure

        return layers_figure(self)

    def _repr_html_(self) -> str:
        from ..reports.notebook import audit_as_html

        return audit_as_html(self)

    def _nearest(self, name: str) -> str:
        import difflib

        names = [matrix.name for matrix in self.matrices]
        nearest = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
        return (
            "the nearest are " + ", ".join(f"'{near}'" for near in nearest) if nearest else "it audited none"
        )
