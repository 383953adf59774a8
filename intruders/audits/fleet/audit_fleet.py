"""The audit of many adapters of one base in one pass: each matrix of the base is read once for all of them."""

import hashlib
import json
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from torch import nn

from ...checkpoints.opening.many_sources import each_source, wherever_it_is
from ...checkpoints.opening.open import Source, open_checkpoint
from ...checkpoints.stored.checkpoint import Checkpoint, read_once
from ...checkpoints.stored.content import Digests, content_digests, require_content
from ...errors import SettingError, os_reason
from ...system.callers_process import usual_settings
from ...system.folders import locked_folder, make_folder, require_ours
from ...system.progress import Progress, silent
from ...system.ray_cluster import finish_on_ray
from ...system.store import Store, is_url
from ..audit import patterns
from ..audit_settings import AuditSettings, Compute, shown_settings
from ..base_cache import CacheChoice
from ..kept_nats import KeptNats
from .fleet_files import BLOCKS, VECTORS, FleetFiles
from .fleet_members import open_members
from .fleet_result import ADAPTERS, FleetAudit, key_of_tables
from .fleet_table import adapter_table
from .fleet_work import BlockOnRay, FleetWork

# Part of the key of what is kept: raise it when the meaning of a row changes.
_VERSION = 2


@usual_settings()
def audit_fleet(
    base: Source,
    adapters: Source | Sequence[Source],
    *,
    k: int = 10,
    epsilon: float = 0.5,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    include_embeddings: bool = False,
    split_fused: bool = False,
    exact: bool = False,
    skip_non_finite: bool = False,
    base_dtype: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    cache: CacheChoice = True,
    out: str | os.PathLike[str] | None = None,
    ray: str | bool = False,
    cpus: float = 1,
    gpus: float = 0,
    progress: Progress = silent,
) -> FleetAudit:
    """Audit many adapters of one base in one pass over its matrices.

    The counts, bounds and lists of skipped tensors are those of :func:`intruders.audit` for each adapter. Each matrix
    of the base is read, widened and hashed once, and its leading vectors are computed or taken from the cache once. An
    adapter that cannot be read or does not fit the base is a row with its reason.

    Args:
      base: The model before fine-tuning, as :func:`intruders.audit` takes it.
      adapters: The models after it, one or several: paths, hub ids, modules or state dicts; and among texts globs,
        ``@list.txt`` (one model per line), ``collection:owner/slug`` of the hub, and folders of adapters.
      k: As for :func:`intruders.audit`, and so are the further ones up to ``cache``.
      out: Folder or URL of the results (default: none). What is finished is kept there, and a later call with more
        adapters computes only what is new. Gets adapters.parquet and vectors, a folder with a
        Parquet file per adapter.
      ray: True or the address of a Ray cluster, whose workers take the blocks of matrices (default: False). Needs
        ``out``.
      cpus: Processors of each worker on Ray (default: 1).
      gpus: GPUs of each worker on Ray (default: 0).
      progress: Called with (what is being done, matrices done, matrices in all).

    Returns:
      The fleet: its tables, and the audit of each adapter.

    Raises:
      SettingError: A setting is out of range, or a glob or list names nothing.
      CheckpointError: The base cannot be read.

    Examples:
      The base below has the unit vectors as its left singular vectors, as in the example of :func:`intruders.audit`:

      >>> import torch
      >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
      >>> direction = torch.ones(9, 1) / 3
      >>> strong = {"up.weight": base["up.weight"] + 100 * direction @ direction.T}
      >>> weak = {"up.weight": base["up.weight"] + 0.01 * direction @ direction.T}
      >>> result = audit_fleet(base, [strong, weak], k=3, cache=False)
      >>> result.adapters["intruders"].tolist()
      [1, 0]
      >>> result.audit(0).intruders
      1
    """
    settings = AuditSettings(
        include=patterns(include),
        exclude=patterns(exclude),
        include_embeddings=include_embeddings,
        split_fused=split_fused,
        k=k,
        epsilon=epsilon,
        exact=exact,
        skip_non_finite=skip_non_finite,
        base_dtype=base_dtype,
    )
    compute = Compute(device, workers, cache)
    started = time.perf_counter()
    compute.torch_device()
    sources, passed_over = each_source(
        # One model may be iterated too, such as a state dict.
        [adapters] if isinstance(adapters, str | os.PathLike | nn.Module | Mapping | Checkpoint) else adapters
    )
    if not sources:
        raise SettingError(
            "no adapter was given; expected paths, hub ids, globs or @list.txt; pass one or more"
        )
    if out is None and ray is not False:
        raise SettingError("Ray was asked for without a folder for its workers' results; pass out too")
    for source in [base, *sources] if out is not None else []:
        if not isinstance(source, str | os.PathLike):  # kept results are known by the content of files
            raise SettingError(
                f"a model in memory ({type(source).__name__}) was given together with out; expected paths and hub ids, "
                "whose files tell what is finished; save it first, or call this without out"
            )
    with _fleet_folder(out) as (folder, temporary):
        is_kept = temporary is None
        opened = open_checkpoint(base)
        kept = KeptNats.at(compute.base_cache(), opened)
        content: Digests = {}
        if is_kept:  # the base is then held to its content
            content = content_digests(opened)
            opened = require_content(opened, content)
        opened = read_once(opened)
        digests = None if is_kept else [f"model {position}" for position in range(len(sources))]
        # Of what a kept row depends on besides its model: settings, the base, and what predicts its nats.
        depends_on = [_VERSION, shown_settings(settings), opened.config, content]
        depends_on += [] if kept.key is None else [kept.key]
        plain = json.dumps(depends_on, sort_keys=True, default=str)
        key = hashlib.sha256(plain.encode()).hexdigest()
        files = FleetFiles(folder, key)
        earlier = {file.path.name: file for file in files.adapters()}
        finished = frozenset(file.digest for file in earlier.values())
        members = open_members(opened, sources, settings, digests, finished)
        work = FleetWork(opened, members, settings, compute, files, kept)
        blocks = work.missing()
        if ray is False:
            refused = work.do(blocks, progress)
        else:
            cache_of_workers = cache
            if isinstance(cache, str | os.PathLike) and not is_url(str(cache)):
                cache_of_workers = os.path.abspath(cache)  # workers have another working directory
            source_of = {
                member.digest: wherever_it_is(str(source))
                for member, source in zip(reversed(members), reversed(sources), strict=True)
                if member.pairing is not None
            }
            refused_in = finish_on_ray(
                list(blocks),
                BlockOnRay(
                    base=wherever_it_is(str(base)),
                    content=tuple(content.items()),
                    models=tuple(source_of.items()),
                    settings=settings,
                    compute=replace(compute, cache=cache_of_workers),
                    files=files,
                    kept=kept.key,
                ),
                ray=ray,
                cpus=cpus,
                gpus=gpus,
                what="blocks",
                told=lambda block, done: progress(f"fleet, {block}", done, len(blocks)),
            )
            refused = {digest: reason for block in refused_in.values() for digest, reason in block.items()}
        seconds = time.perf_counter() - started
        before = key_of_tables(folder.path)
        if before is not None and before != key:
            warnings.warn(
                f"the tables in '{out}' are of another base, prepared text or settings and are replaced; what is "
                "finished of these audits stays there, and the command that made them writes them again",
                stacklevel=2,
            )
        written = work.finish(earlier, refused, seconds / max(1, len(members)))
        fleet = FleetAudit(
            base_source=opened.source,
            settings=settings,
            seconds=seconds,
            adapters=adapter_table(work.members, written, opened.source),
            folder=folder.path,
            key=key,
            passed_over=passed_over,
            temporary=temporary,
        )
        if is_kept:
            fleet.write_table(folder.path)
            folder.send(ADAPTERS)
    return fleet


@contextmanager
def _fleet_folder(
    out: str | os.PathLike[str] | None,
) -> Iterator[tuple[Store, tempfile.TemporaryDirectory[str] | None]]:
    """Make the folder of a fleet, which is this process's alone until the end; a temporary one without ``out``."""
    if out is None:
        try:
            temporary = tempfile.TemporaryDirectory(prefix="intruders-fleet-")
        except OSError as error:
            where = f"'{tempfile.tempdir}': " if tempfile.tempdir else ""
            raise SettingError(
                f"out is not given, and no temporary folder can be made ({where}{os_reason(error)}); pass a folder "
                "as out, or set TMPDIR to one with room"
            ) from error
        yield Store(Path(temporary.name).absolute()), temporary
        return
    store = Store.at(str(out), "fleets")
    require_ours(store.path, (ADAPTERS, VECTORS, BLOCKS), "a fleet")
    make_folder(store.path)
    with locked_folder(store.path):
        yield replace(store, path=store.path.absolute()), None
