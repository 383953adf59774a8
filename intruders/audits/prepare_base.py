"""A base decomposed ahead of its audits, which then read max cosines off in the base's coordinates."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from ..checkpoints.opening.open import Source
from ..checkpoints.stored.selection import Selection
from ..system.callers_process import usual_settings
from ..system.progress import Progress, silent
from .audit import patterns
from .audit_settings import Compute
from .choose_cache import cache_at
from .preparation import Preparation, PreparedBase, decompose
from .prepare_on_ray import prepare_on_ray


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
    return prepare_chosen(
        base,
        Preparation.of(base, selection),
        selection,
        Compute(device, cache=True),
        out,
        ray=ray,
        cpus=cpus,
        gpus=gpus,
        progress=progress,
    )


def prepare_chosen(
    base: Source,
    preparation: Preparation,
    selection: Selection,
    compute: Compute,
    out: str | os.PathLike[str] | None,
    *,
    ray: str | bool,
    cpus: float,
    gpus: float,
    progress: Progress,
) -> PreparedBase:
    """Decompose the matrices that ``selection`` chose of ``base`` already."""
    started = time.perf_counter()
    if ray is False:
        decomposed = _prepare_here(preparation, compute, out, progress)
    else:
        decomposed = prepare_on_ray(
            base, preparation, selection, compute, out, ray=ray, cpus=cpus, gpus=gpus, progress=progress
        )
    seconds = time.perf_counter() - started
    return PreparedBase(
        cache_at(out).where, len(preparation.matrices), decomposed, preparation.bytes, seconds
    )


def _prepare_here(
    preparation: Preparation, compute: Compute, out: str | os.PathLike[str] | None, progress: Progress
) -> int:
    """Decompose one matrix after another, and return how many were not decomposed before."""
    device = compute.torch_device()
    store = cache_at(out)
    store.require_writable()
    names = list(preparation.by_name)
    decomposed = 0
    for done, name in enumerate(names):
        progress("prepare", done, len(names))
        decomposed += decompose(preparation.read(name, device), store)
    progress("prepare", len(names), len(names))
    return decomposed
