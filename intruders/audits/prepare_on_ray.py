"""The matrices of a base that is prepared, decomposed by the workers of a Ray cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache

from ..checkpoints.opening.many_sources import wherever_it_is
from ..checkpoints.opening.open import Source
from ..checkpoints.stored.selection import Selection
from ..errors import SettingError
from ..system.progress import Progress
from ..system.remote_folder import is_url
from .audit_settings import Compute
from .choose_cache import cache_at
from .preparation import Preparation, decompose


@dataclass(frozen=True)
class PrepareOnRay:
    """The task of a worker: decompose the matrix of a given name, unless the cache has it."""

    base: str
    selection: Selection
    compute: Compute
    where: str  # folder or URL of the cache

    def __call__(self, name: str) -> bool:
        """Return whether the matrix was decomposed now."""
        matrices = _opened_by_worker(self.base, self.selection)
        return decompose(matrices.read(name, self.compute.torch_device()), cache_at(self.where))


@lru_cache(maxsize=1)
def _opened_by_worker(base: str, selection: Selection) -> Preparation:
    """Open the base for the first matrix of a worker, and keep it for the others."""
    return Preparation.of(base, selection)


def prepare_on_ray(
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
) -> int:
    """Give every matrix to a worker, which reads it and writes to the cache; return how many were decomposed.

    Raises:
      SettingError: the base is in memory, so that workers cannot open it.
      IntrudersError: the cluster lacks the resources, or workers were lost; what is finished is kept.
    """
    from ..system.ray_cluster import finish_on_ray

    if not isinstance(base, str | os.PathLike):
        raise SettingError(
            f"Ray was asked for, and the base is in memory ({type(base).__name__}); expected a path or a hub id that "
            "workers can open; save it first"
        )
    store = cache_at(out)
    store.require_writable()
    where = store.where
    task = PrepareOnRay(
        wherever_it_is(str(base)), selection, compute, where if is_url(where) else os.path.abspath(where)
    )
    names = list(preparation.by_name)
    decomposed: list[str] = []
    finish_on_ray(
        names,
        task,
        ray=ray,
        cpus=cpus,
        gpus=gpus,
        what="matrices",
        told=lambda _, done: progress("prepare", done, len(names)),
        on_result=lambda name, is_new: decomposed.append(name) if is_new else None,
    )
    return len(decomposed)
