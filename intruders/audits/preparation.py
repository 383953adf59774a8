"""The matrices of a base that is decomposed ahead of its audits, and the decomposition of one of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from math import isfinite

import torch
from torch import Tensor

from ..checkpoints.opening.open import Source, open_checkpoint
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.matrices import MatrixView, selected_matrices
from ..checkpoints.stored.selection import Selection
from ..engine.known_base import KnownBase
from ..errors import SettingError
from ..linalg.whole_base import WholeBase
from .base_cache import BaseKeys, DiskCache
from .batches import largest_magnitude, non_finite, unit_of

# Side of the matrix whose decomposition is timed to tell how long a base will take.
_SAMPLE = 256


@dataclass(frozen=True)
class PreparedBase:
    """The result of :func:`prepare`.

    Attributes:
      folder: the folder or URL of the base cache.
      matrices: number of matrices of the base that are decomposed now.
      decomposed: how many of them this call decomposed; the others had been before.
      bytes: size of the entries of all of them, without names and shapes.
      seconds: the time it took.
    """

    folder: str
    matrices: int
    decomposed: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Preparation:
    """The matrices to decompose, before any is decomposed."""

    base: Checkpoint
    matrices: tuple[MatrixView, ...]

    @classmethod
    def of(cls, base: Source, selection: Selection) -> Preparation:
        """Choose the matrices that audits of this base examine with the same selection.

        Raises:
          SettingError: none is left.
        """
        opened = open_checkpoint(base)
        selection.require_matches(opened.names(), opened.source)
        chosen = selected_matrices(opened, selection)
        if not chosen:
            raise SettingError(f"'{opened.source}' has no matrix to decompose; choose others with --include")
        return cls(opened, tuple(chosen))

    @property
    def bytes(self) -> int:
        """Bytes of all entries: ``4 (m + n) min(m, n)`` for a matrix in single precision."""
        return sum(
            (8 if self.base.tensors[view.tensor].dtype == torch.float64 else 4)
            * sum(view.shape)
            * min(view.shape)
            for view in self.matrices
        )

    @cached_property
    def by_name(self) -> dict[str, MatrixView]:
        """The matrices by name."""
        return {view.name: view for view in self.matrices}

    def read(self, name: str, device: torch.device) -> Tensor:
        """Read a matrix (m, n) in the precision and unit that audits of low-rank updates use.

        Raises:
          NonFiniteError: it contains NaN or infinity.
        """
        view = self.by_name[name]
        stored = view.read(self.base.tensors[view.tensor])
        wide = stored.to(device, torch.float64 if stored.dtype == torch.float64 else torch.float32)
        largest = largest_magnitude(wide)
        if not isfinite(largest):
            raise non_finite(view.name, "base")
        unit = unit_of(1, {"base": largest})
        return wide if unit == 1.0 else wide / unit

    def expected_seconds(self, device: torch.device) -> float:
        """Estimate the time roughly, from the time that one small matrix takes here."""
        sample = torch.randn(1, _SAMPLE, _SAMPLE, generator=torch.Generator().manual_seed(0)).to(device)
        times = []
        for _ in range(2):
            started = time.perf_counter()
            WholeBase.of(sample)
            times.append(time.perf_counter() - started)
        rate = min(times) / _work((_SAMPLE, _SAMPLE))
        return rate * sum(_work(view.shape) for view in self.matrices)


def _work(shape: tuple[int, int]) -> float:
    """Return a relative cost: an eigenvalue decomposition of the smaller side, and products with the matrix."""
    smaller, larger = min(shape), max(shape)
    return float(smaller**2 * (10 * smaller + 4 * larger))


def decompose(matrix: Tensor, store: DiskCache) -> bool:
    """Decompose a matrix (m, n) into the cache; return False if the cache has it already.

    Raises:
      CacheError: the entry, which is all that a preparation leaves, cannot be written. StoreError: nor sent.
    """
    key = BaseKeys.of(matrix, 0).whole
    if store.read(key) is not None:
        return False
    store.write(key, KnownBase.decomposed(matrix.unsqueeze(0)))
    return True
