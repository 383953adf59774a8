"""A base decomposed ahead of its audits, which then read max cosines off in the base's coordinates."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite

import torch
from torch import Tensor

from ..checkpoints.opening.many_sources import wherever_it_is
from ..checkpoints.opening.open import Source, open_checkpoint
from ..checkpoints.stored.checkpoint import Checkpoint
from ..checkpoints.stored.matrices import MatrixView, selected_matrices
from ..checkpoints.stored.selection import Selection
from ..engine.known_base import KnownBase
from ..errors import SettingError
from ..linalg.whole_base import WholeBase
from ..system.callers_process import usual_settings
from ..system.progress import Progress, silent
from ..system.ray_cluster import finish_on_ray
from ..system.store import is_url
from .audit import patterns
from .audit_settings import Compute
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
    matrices: dict[str, MatrixView]  # by name

    @classmethod
    def of(cls, base: Source, selection: Selection) -> "Preparation":
        """Choose the matrices that audits of this base examine with the same selection, which is one or more."""
        opened = open_checkpoint(base)
        selection.require_matches(opened.names(), opened.source)
        chosen = selected_matrices(opened, selection)
        if not chosen:
            raise SettingError(f"'{opened.source}' has no matrix to decompose; choose others with --include")
        return cls(opened, {view.name: view for view in chosen})

    @property
    def bytes(self) -> int:
        """Bytes of all entries: ``4 (m + n) min(m, n)`` for a matrix in single precision."""
        return sum(
            (8 if self.base.tensors[view.tensor].dtype == torch.float64 else 4)
            * sum(view.shape)
            * min(view.shape)
            for view in self.matrices.values()
        )

    def read(self, name: str, device: torch.device) -> Tensor:
        """Read a matrix (m, n) in the precision and unit that audits of low-rank updates use, if it is finite."""
        view = self.matrices[name]
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
        return rate * sum(_work(view.shape) for view in self.matrices.values())


def _work(shape: tuple[int, int]) -> float:
    """Return a relative cost: an eigenvalue decomposition of the smaller side, and products with the matrix."""
    smaller, larger = min(shape), max(shape)
    return float(smaller**2 * (10 * smaller + 4 * larger))


def decompose(matrix: Tensor, store: DiskCache) -> bool:
    """Decompose a matrix (m, n) into the cache, or raise as it does; return False if the cache has it already."""
    key = BaseKeys.of(matrix, 0).whole
    if store.read(key) is not None:
        return False
    store.write(key, KnownBase.decomposed(matrix.unsqueeze(0)))
    return True


@usual_settings()
def prepare(
    base: Source,
    *,
    out: str | os.PathLike[str] | None = None,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    include_embeddings: bool = False,
    split_fused: bool = False,
    device: str = "auto",
    ray: str | bool = False,
    cpus: float = 1,
    gpus: float = 0,
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
      ray: True or the address of a Ray cluster, whose workers take the matrices (default: False). They need to reach
        the base and the cache.
      cpus: Number of processors of each worker on Ray (default: 1).
      gpus: Number of GPUs of each worker on Ray (default: 0).
      progress: Function called with (stage, matrices done, matrices in all).

    Returns:
      How many matrices are decomposed now, and how many of them by this call.

    Raises:
      SettingError: ``device`` or ``include`` is out of range, no matrix is left, or Ray is asked for with a base in
        memory.
      CacheError: The folder cannot be written to. StoreError: the URL cannot.
      CheckpointError: The base cannot be read.
      NonFiniteError: A matrix contains NaN or infinity.

    Examples:
      >>> import tempfile, torch
      >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     first, again = prepare(base, out=folder), prepare(base, out=folder)
      >>> first.decomposed, again.decomposed, again.matrices
      (1, 0, 1)
    """
    selection = Selection(patterns(include), patterns(exclude), include_embeddings, split_fused)
    preparation, compute = Preparation.of(base, selection), Compute(device, cache=True)
    started = time.perf_counter()
    if ray is not False and not isinstance(base, str | os.PathLike):
        raise SettingError(
            f"Ray was asked for, and the base is in memory ({type(base).__name__}); expected a path or a hub id that "
            "workers can open; save it first"
        )
    store = DiskCache(out)
    store.require_writable()
    names = list(preparation.matrices)
    decomposed = 0
    if ray is False:
        decided_on = compute.torch_device()
        for done, name in enumerate(names):
            progress("prepare", done, len(names))
            decomposed += decompose(preparation.read(name, decided_on), store)
        progress("prepare", len(names), len(names))
    else:
        where = store.where if is_url(store.where) else os.path.abspath(store.where)
        is_new = finish_on_ray(
            names,
            PrepareOnRay(wherever_it_is(str(base)), selection, compute, where),
            ray=ray,
            cpus=cpus,
            gpus=gpus,
            what="matrices",
            told=lambda _, done: progress("prepare", done, len(names)),
        )
        decomposed = sum(is_new.values())
    seconds = time.perf_counter() - started
    return PreparedBase(store.where, len(names), decomposed, preparation.bytes, seconds)


@dataclass(frozen=True)
class PrepareOnRay:
    """The task of a worker: decompose the matrix of a given name, unless the cache has it."""

    base: str
    selection: Selection
    compute: Compute
    where: str  # folder or URL of the cache

    def __call__(self, name: str) -> bool:
        matrices = _opened_by_worker(self.base, self.selection)
        return decompose(matrices.read(name, self.compute.torch_device()), DiskCache(self.where))


@lru_cache(maxsize=1)  # for the first matrix of a worker, and kept for the others
def _opened_by_worker(base: str, selection: Selection) -> Preparation:
    return Preparation.of(base, selection)
