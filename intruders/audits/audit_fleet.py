"""The audit of many adapters of one base in one pass: each matrix of the base is read once for all of them."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa
import torch
import xxhash
from torch import Tensor

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.many_sources import each_source, wherever_it_is
from ..checkpoints.open import Source, open_checkpoint
from ..checkpoints.pairing.pairing import Skipped
from ..checkpoints.read_once import read_once
from ..errors import IntrudersError, SettingError, in_one_line
from ..system.folders import locked_folder, make_folder
from ..system.progress import Progress, silent
from ..system.remote_folder import RemoteFolder, is_url, local_folder, require_opens
from ..system.threads import run_side_by_side
from .audit import patterns, records_of
from .audit_settings import ANYWHERE, AuditSettings, Compute
from .base_cache import CacheChoice, content_key, judge_batch
from .batches import Batch, is_small_batch, read_batches
from .finished_models import FinishedModels
from .fleet_members import Member, Sharers, matrices_by_block, open_members
from .fleet_result import ADAPTERS, VECTORS, FleetAudit
from .kept_blocks import KeptBlocks, Unit, rows_of
from .records import AuditedMatrix
from .shared_base import Judged, LeftOut, SharedStack, directions_of, is_small_stack, judge_stack, read_stacks

# Part of the key of what is kept: raise it when the meaning of a row changes.
_VERSION = 1


def audit_fleet(
    base: Source,
    adapters: Sequence[Source] | str,
    *,
    k: int = 10,
    epsilon: float = 0.5,
    include: str | Sequence[str] = (),
    exclude: str | Sequence[str] = (),
    include_embeddings: bool = False,
    split_fused: bool = False,
    exact: bool = False,
    skip_non_finite: bool = False,
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
      adapters: The models after it: paths, hub ids, modules or state dicts; and among texts globs, ``@list.txt`` (one
        model per line), ``collection:owner/slug`` of the hub, and folders of adapters.
      k: As for :func:`intruders.audit`, and so are the further ones up to ``cache``.
      out: Folder or URL of the results (default: none). What is finished is kept there, and a later call with more
        adapters computes only what is new. Gets adapters.parquet and vectors.parquet.
      ray: True or the address of a Ray cluster, whose workers take the blocks of matrices (default: False). Needs
        ``out``.
      cpus: Processors of each worker on Ray (default: 1).
      gpus: GPUs of each worker on Ray (default: 0).
      progress: Called with (what is being done, matrices done, matrices in all).

    Raises:
      SettingError: A setting is out of range, or a glob or list names nothing.
      CheckpointError: The base cannot be read.

    The base below has the unit vectors as its left singular vectors, as in the example of :func:`intruders.audit`:

    >>> import torch
    >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
    >>> direction = torch.ones(9, 1) / 3
    >>> strong = {"up.weight": base["up.weight"] + 100 * direction @ direction.T}
    >>> weak = {"up.weight": base["up.weight"] + 0.01 * direction @ direction.T}
    >>> found = audit_fleet(base, [strong, weak], k=3, cache=False)
    >>> found.adapters["intruders"].tolist()
    [1, 0]
    >>> found.audit(0).intruders
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
    )
    given = [adapters] if isinstance(adapters, str) else list(adapters)
    compute = Compute(device, workers, cache)
    return audit_many(
        base, given, settings, compute, out=out, ray=ray, cpus=cpus, gpus=gpus, progress=progress
    )


def audit_many(
    base: Source,
    adapters: Sequence[Source],
    settings: AuditSettings,
    compute: Compute = ANYWHERE,
    *,
    out: str | os.PathLike[str] | None = None,
    ray: str | bool = False,
    cpus: float = 1,
    gpus: float = 0,
    progress: Progress = silent,
) -> FleetAudit:
    """As :func:`audit_fleet`, by settings that are values already."""
    started = time.perf_counter()
    compute.torch_device()
    sources = _sources(adapters)
    if out is None and ray is not False:
        raise SettingError("Ray was asked for without a folder for its workers' results; pass out too")
    if out is not None:
        _require_paths([base, *sources])
    temporary = tempfile.TemporaryDirectory(prefix="intruders-fleet-") if out is None else None
    folder = local_folder(str(out), "fleets") if temporary is None else Path(temporary.name)
    make_folder(folder)
    remote = _remote(str(out)) if out is not None else None
    with ExitStack() as stack:
        if temporary is None:
            stack.enter_context(locked_folder(folder))
        opened = read_once(open_checkpoint(base))
        digests = None if out is not None else [f"model {place}" for place in range(len(sources))]
        kept = KeptBlocks(folder.absolute(), _key(opened, settings), remote)
        finished = FinishedModels.read(kept)
        members = open_members(opened, sources, settings, digests, finished.known)
        work = _Work(opened, members, settings, compute, kept, finished)
        blocks = work.missing()
        if ray is False:
            work.do(blocks, progress)
        else:
            task = _BlockOnRay(
                wherever_it_is(str(base)),
                tuple(wherever_it_is(str(one)) for one in sources),
                tuple(member.digest for member in members),
                settings,
                _wherever_the_cache_is(compute),
                kept,
            )
            _on_ray(list(blocks), task, ray, cpus, gpus, progress)
        found = FleetAudit(
            opened.source, settings, time.perf_counter() - started, members, kept, temporary, finished
        )
        if temporary is None:
            found.write_tables(folder)
            for name in (ADAPTERS, VECTORS):
                kept.put(name)
            found.all_finished().write(kept)
    return found


def _sources(adapters: Sequence[Source]) -> list[Source]:
    texts = [os.fspath(one) if isinstance(one, os.PathLike) else one for one in adapters]
    found: list[Source] = []
    for one in texts:
        found += each_source([one]) if isinstance(one, str) else [one]
    if all(isinstance(one, str) for one in found):
        found = list(dict.fromkeys(found))
    if not found:
        raise SettingError(
            "no adapter was given; expected paths, hub ids, globs or @list.txt; pass one or more"
        )
    return found


def _require_paths(sources: Sequence[Source]) -> None:
    """What is kept is known by the content of files."""
    for one in sources:
        if not isinstance(one, str | os.PathLike):
            raise SettingError(
                f"a model in memory ({type(one).__name__}) was given together with out; expected paths and hub ids, "
                "whose files tell what is finished; save it first, or leave out away"
            )


def _remote(out: str) -> RemoteFolder | None:
    if not is_url(out):
        return None
    require_opens(out)
    return RemoteFolder(out)


def _key(base: Checkpoint, settings: AuditSettings) -> str:
    """What a kept row depends on, besides its model's files: the settings, and the base as its small tensors tell it.

    The matrices' own hashes are compared when they are read.
    """
    digest = xxhash.xxh3_128()
    for name, stored in base.tensors.items():
        digest.update(f"{name} {stored.shape} {stored.dtype} ".encode())
        if len(stored.shape) == 1:
            numbers = stored.read().detach().cpu().contiguous()
            digest.update(numbers.view(torch.uint8).numpy().tobytes() if numbers.numel() else b"")
    plain = json.dumps([_VERSION, settings.as_dict(), digest.hexdigest()], sort_keys=True, default=list)
    return hashlib.sha256(plain.encode()).hexdigest()


# Matrices of a single model that are judged before what is finished of it is kept.
_MATRICES_TOGETHER = 60

Missing = dict[str, dict[str, Sharers]]  # block -> matrix -> the models that it is to be judged for


# Matrices that make a table together: tables of a few rows would take longer than what they say.
_MATRICES_A_TABLE = 100


@dataclass
class _Rows:
    """The rows of a block, made for a hundred matrices at a time."""

    members: list[Member]
    _waiting: list[Judged] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)

    def add(self, one: Judged) -> None:
        self._waiting.append(one)
        if len(self._waiting) >= _MATRICES_A_TABLE:
            self._make()

    def tables(self) -> list[pa.Table]:
        self._make()
        return self._tables

    def _make(self) -> None:
        if self._waiting:
            digests = [self.members[one.model].digest for one in self._waiting]
            self._tables.append(rows_of(digests, [one.matrix for one in self._waiting]))
            self._waiting = []


@dataclass
class _Work:
    """A fleet with everything that its blocks are done by."""

    base: Checkpoint
    members: list[Member]
    settings: AuditSettings
    compute: Compute
    kept: KeptBlocks
    finished: FinishedModels  # by earlier calls
    known_keys: dict[str, str] = field(
        default_factory=dict
    )  # hashes of the base's matrices, of earlier calls

    def missing(self) -> Missing:
        """What is not kept of each block."""
        done_of: dict[str, set[str]] = {}
        self.known_keys.update(self.finished.base_keys)
        for kept in self.kept.each(self.finished.closed_files):
            done_of.setdefault(kept.block, set()).update(kept.units)
            self.known_keys.update(kept.base_keys)
        found: Missing = {}
        for block, matrices in matrices_by_block(self.base, self.members).items():
            done = done_of.get(block, set())
            left = {
                name: [(number, pair) for number, pair in sharers if self.members[number].digest not in done]
                for name, sharers in matrices.items()
            }
            if left := {name: sharers for name, sharers in left.items() if sharers}:
                found[block] = left
        return found

    def do(self, blocks: Missing, progress: Progress = silent) -> None:
        """Judge what is missing, block by block; each is kept when it is done."""
        in_all = sum(len(matrices) for matrices in blocks.values())
        on_matrix = partial(progress, f"fleet of {len(self.members):,}")
        done = 0
        for group in _groups(blocks):
            only = _only_model(group)
            if only is None:
                for block, matrices in group.items():
                    self._do_block(block, matrices, on_matrix, done, in_all)
                    done += len(matrices)
            else:
                self._do_alone(only, group)
                done += sum(len(matrices) for matrices in group.values())
                on_matrix(done, in_all)

    def _do_alone(self, model: int, blocks: Missing) -> None:
        """Blocks of a single model: small matrices are then batched with each other, as in an audit of its own."""
        settings, store = self.settings, None if self.settings.exact else self.compute.base_cache()
        skipped: list[Skipped] = []
        base_keys: dict[str, str] = {}
        sketches: dict[str, Tensor] = {}
        pairs = [
            matrix for matrices in blocks.values() for sharers in matrices.values() for _, matrix in sharers
        ]
        batches = read_batches(pairs, self.compute.torch_device(), settings.skip_non_finite, skipped)

        def judge(batch: Batch) -> list[AuditedMatrix]:
            found = judge_batch(batch, settings.k, settings.epsilon, settings.exact, store)
            for at, (matrix, base) in enumerate(zip(batch.matrices, batch.pair.base, strict=True)):
                base_keys[matrix.name] = content_key(base, settings.k)
                update = batch.pair.select(at).update
                sketches[matrix.name] = batch.units[at] * directions_of(matrix.name, base).sketch(update)
            return records_of(batch.matrices, found, batch.units)

        records: list[AuditedMatrix] = []
        refused = None
        try:
            for some in run_side_by_side(batches, judge, is_small_batch, self.compute.workers):
                records += some
        except IntrudersError as error:
            refused = in_one_line(error)
        self._require_same_base(base_keys)
        digest = self.members[model].digest
        for block, matrices in blocks.items():
            mine = [record for record in records if record.name in matrices]
            left_out = [one for one in skipped if one.name in matrices]
            keys = {name: key for name, key in base_keys.items() if name in matrices}
            rows = [rows_of([digest] * len(mine), mine)] if mine else []
            sketch = _summed([sketches[name] for name in sketches if name in matrices])
            self.kept.keep(block, {digest: Unit(left_out, refused, sketch)}, rows, keys)

    def _do_block(
        self,
        block: str,
        matrices: Mapping[str, Sharers],
        on_matrix: Callable[[int, int], None],
        done: int,
        in_all: int,
    ) -> None:
        store = None if self.settings.exact else self.compute.base_cache()
        left_out = LeftOut()
        base_keys: dict[str, str] = {}
        device = self.compute.torch_device()
        stacks = read_stacks(list(matrices.values()), self.settings, device, left_out)

        def hashed(stacks: Iterator[SharedStack]) -> Iterator[SharedStack]:
            for stack in stacks:
                for matrix in stack.matrices:
                    base_keys[matrix.name] = stack.base.key(self.settings.k)
                on_matrix(done + len(base_keys), in_all)
                yield stack

        judge = partial(judge_stack, settings=self.settings, store=store)
        rows = _Rows(self.members)
        sketches: dict[int, list[Tensor]] = {}
        for found in run_side_by_side(hashed(stacks), judge, is_small_stack, self.compute.workers):
            for one in found:
                rows.add(one)
                sketches.setdefault(one.model, []).append(one.sketch)
        self._require_same_base(base_keys)
        units = {
            self.members[number].digest: Unit(
                left_out.skipped.get(number, []),
                left_out.refused.get(number),
                _summed(sketches.get(number, [])),
            )
            for sharers in matrices.values()
            for number, _ in sharers
        }
        self.kept.keep(block, units, rows.tables(), base_keys)

    def _require_same_base(self, base_keys: Mapping[str, str]) -> None:
        for name, key in base_keys.items():
            if self.known_keys.get(name, key) != key:
                raise SettingError(
                    f"'{name}' of '{self.base.source}' is not what '{self.kept.folder}' was made from; "
                    "expected the same base as before; choose another folder for this one"
                )


def _summed(sketches: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(list(sketches)).sum(0).cpu() if sketches else None


def _only_model(blocks: Missing) -> int | None:
    """The model that all of these blocks are missing for, if there is only one."""
    models = {
        number for matrices in blocks.values() for sharers in matrices.values() for number, _ in sharers
    }
    return models.pop() if len(models) == 1 else None


def _groups(blocks: Missing) -> Iterator[Missing]:
    """Block after block, but those that follow each other and miss one and the same model together, up to a limit."""
    group: Missing = {}
    for block, matrices in blocks.items():
        both = {**group, block: matrices}
        is_full = sum(len(one) for one in group.values()) >= _MATRICES_TOGETHER
        if group and (is_full or _only_model(both) is None):
            yield group
            group = {}
        group[block] = matrices
    if group:
        yield group


def _on_ray(
    blocks: Sequence[str],
    task: _BlockOnRay,
    ray: str | bool,
    cpus: float,
    gpus: float,
    progress: Progress,
) -> None:
    """Give the blocks to Ray, each with all models; workers open the models themselves and keep what they did."""
    from ..system.ray_cluster import map_on_ray

    lost: dict[str, str] = {}
    over = map_on_ray(
        blocks,
        task,
        address=None if ray is True else str(ray),
        cpus=cpus,
        gpus=gpus,
        on_lost=lambda block, how: lost.update({block: how}),
    )
    for done, block in enumerate(over, 1):
        progress(f"fleet, {block}", done, len(blocks))
    if lost:
        block, how = next(iter(lost.items()))
        raise IntrudersError(
            f"{len(lost)} of {len(blocks)} blocks were lost on Ray, the first '{block}': {how}; "
            "what is finished is kept; run the same command again to resume"
        )


def _wherever_the_cache_is(compute: Compute) -> Compute:
    """With the folder of the cache by its whole path; workers have another working directory."""
    cache = compute.cache
    return replace(compute, cache=os.path.abspath(cache)) if isinstance(cache, str | os.PathLike) else compute


@dataclass(frozen=True)
class _BlockOnRay:
    """What a worker does with the name of a block."""

    base: str
    sources: tuple[str, ...]
    digests: tuple[str, ...]
    settings: AuditSettings
    compute: Compute
    kept: KeptBlocks

    def __call__(self, block: str) -> None:
        base, members, finished = _opened_by_worker(
            self.base, self.sources, self.digests, self.settings, self.kept
        )
        work = _Work(base, members, self.settings, self.compute, self.kept, finished)
        missing = work.missing()
        if block in missing:
            work.do({block: missing[block]})


@lru_cache(maxsize=1)
def _opened_by_worker(
    base: str, sources: tuple[str, ...], digests: tuple[str, ...], settings: AuditSettings, kept: KeptBlocks
) -> tuple[Checkpoint, list[Member], FinishedModels]:
    """The base and the models, opened by a worker for its first block and kept for the others."""
    opened, finished = read_once(open_checkpoint(base)), FinishedModels.read(kept)
    return opened, open_members(opened, sources, settings, digests, finished.known), finished
