"""A base decomposed ahead of its audits, which then read max cosines off in the base's coordinates."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from ..checkpoints.opening.open import Source, open_checkpoint
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.matrices import MatrixView, matrices_of, not_a_matrix
from ..checkpoints.stored.selection import Selection
from ..engine.base_space import KnownBase
from ..errors import SettingError
from ..linalg.whole_base import WholeBase
from ..system.progress import Progress, silent
from .audit import patterns
from .audit_settings import Compute
from .base_cache import BaseKeys
from .batches import largest_magnitude, non_finite, unit_of
from .choose_cache import cache_at

# Side of the matrix whose decomposition is timed to tell how long a base will take.
_SAMPLE = 256


@dataclass(frozen=True)
class PreparedBase:
    """The result of :func:`prepare`."""

    folder: str  # or URL, of the base cache
    matrices: int  # of the base that are decomposed now
    decomposed: int  # by this call; the others had been before
    bytes: int  # of the entries of all of them, without names and shapes
    seconds: float


@dataclass(frozen=True)
class Preparation:
    """The matrices to decompose, before any is decomposed."""

    base: Checkpoint
    matrices: tuple[tuple[str, MatrixView], ...]  # with the tensors that hold them

    @classmethod
    def of(cls, base: Source, selection: Selection) -> Preparation:
        """Choose the matrices that audits of this base examine with the same selection.

        Raises:
          SettingError: none is left.
        """
        opened = open_checkpoint(base)
        selection.require_matches(opened.names(), opened.source)
        chosen = [
            (name, matrix)
            for name in opened.names()
            if not_a_matrix(opened.tensors[name]) is None and selection.reason_to_leave_out(name) is None
            for matrix in matrices_of(opened, name, selection.split_fused)
        ]
        if not chosen:
            raise SettingError(f"'{opened.source}' has no matrix to decompose; choose others with --include")
        return cls(opened, tuple(chosen))

    @property
    def bytes(self) -> int:
        """Bytes of all entries: ``4 (m + n) min(m, n)`` for a matrix in single precision."""
        return sum(
            (8 if self.base.tensors[name].dtype == torch.float64 else 4) * sum(view.shape) * min(view.shape)
            for name, view in self.matrices
        )

    def expected_seconds(self, device: torch.device) -> float:
        """Estimate the time roughly, from the time that one small matrix takes here."""
        sample = torch.randn(1, _SAMPLE, _SAMPLE, generator=torch.Generator().manual_seed(0)).to(device)
        times = []
        for _ in range(2):
            started = time.perf_counter()
            WholeBase.of(sample)
            times.append(time.perf_counter() - started)
        rate = min(times) / _work((_SAMPLE, _SAMPLE))
        return rate * sum(_work(view.shape) for _, view in self.matrices)


def _work(shape: tuple[int, int]) -> float:
    """Return a relative cost: an eigenvalue decomposition of the smaller side, and products with the matrix."""
    smaller, larger = min(shape), max(shape)
    return float(smaller**2 * (10 * smaller + 4 * larger))


def prepare(
    base: Source,
    *,
    out: str | os.PathLike[str] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    include_embeddings: bool = False,
    split_fused: bool = False,
    device: str = "auto",
    progress: Progress = silent,
) -> PreparedBase:
    """Decompose all matrices of a base ahead of its audits.

    Audits and fleets of low-rank updates that use the same cache then decide in the base's coordinates: exact max
    cosines, certificate ``coordinates``. Matrices that an earlier call decomposed are not computed again: a call
    resumes where one was interrupted. A damaged entry is found by its checksum, and made again.

    Args:
      base: Model before fine-tuning, as :func:`intruders.audit` takes it.
      out: Folder or URL of the base cache (default: the user's cache folder). Pass it to audits as ``cache``.
      include: Shell patterns over the base's tensor names; only these are decomposed (default: all).
      exclude: Shell patterns of tensor names to skip (default: none).
      include_embeddings: Decompose embeddings and output heads too (default: False).
      split_fused: Decompose q, k and v of a fused weight as separate matrices (default: False).
      device: "cpu", "cuda", "auto" or any name that torch knows (default: "auto").
      progress: Function called with (stage, matrices done, matrices in all).

    Returns:
      How many matrices are decomposed now, and how many of them by this call.

    Raises:
      SettingError: ``device`` or ``include`` is out of range, or no matrix is left.
      CacheError: The folder cannot be written to. StoreError: the URL cannot.
      CheckpointError: The base cannot be read.
      NonFiniteError: A matrix contains NaN or infinity.

    >>> import tempfile, torch
    >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     first, again = prepare(base, out=folder), prepare(base, out=folder)
    >>> first.decomposed, again.decomposed, again.matrices
    (1, 0, 1)
    """
    selection = Selection(patterns(include), patterns(exclude), include_embeddings, split_fused)
    return prepare_matrices(Preparation.of(base, selection), Compute(device, cache=True), out, progress)


def prepare_matrices(
    preparation: Preparation,
    compute: Compute,
    out: str | os.PathLike[str] | None,
    progress: Progress = silent,
) -> PreparedBase:
    """Decompose matrices that are chosen already."""
    started = time.perf_counter()
    device = compute.torch_device()
    store = cache_at(out)
    decomposed = 0
    in_all = len(preparation.matrices)
    for done, matrix in enumerate(_read(preparation, device)):
        progress("prepare", done, in_all)
        key = BaseKeys.of(matrix, 0).whole
        if store.get(key) is None:
            store.put(key, KnownBase.from_whole(WholeBase.of(matrix.unsqueeze(0))))
            decomposed += 1
    progress("prepare", in_all, in_all)
    seconds = time.perf_counter() - started
    return PreparedBase(store.where, in_all, decomposed, preparation.bytes, seconds)


def _read(preparation: Preparation, device: torch.device) -> Iterator[Tensor]:
    """Yield every matrix in the precision and unit that audits of low-rank updates use."""
    for name, view in preparation.matrices:
        stored = view.read(preparation.base.tensors[name])
        wide = stored.to(device, torch.float64 if stored.dtype == torch.float64 else torch.float32)
        largest = largest_magnitude(wide)
        if not isfinite(largest):
            raise non_finite(view.name, "base")
        unit = unit_of(1, {"base": largest})
        yield wide if unit == 1.0 else wide / unit
