"""The blocks of a fleet on the workers of a Ray cluster."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import lru_cache

from ...checkpoints.opening.open import open_checkpoint
from ...checkpoints.stored.checkpoint import Checkpoint, read_once
from ...checkpoints.stored.content import require_content
from ...errors import CheckpointError, what_is_wrong
from ...system.store import is_url
from ..audit_settings import AuditSettings, Compute
from .fleet_files import FleetFiles
from .fleet_members import Member, open_members
from .fleet_work import FleetWork


def wherever_the_cache_is(compute: Compute) -> Compute:
    """Make the path of the cache absolute: workers have another working directory."""
    cache = compute.cache
    if not isinstance(cache, str | os.PathLike) or is_url(str(cache)):
        return compute
    return replace(compute, cache=os.path.abspath(cache))


@dataclass(frozen=True)
class BlockOnRay:
    """The task of a worker: audit the block of a given name."""

    base: str
    sources: tuple[str, ...]
    digests: tuple[str, ...]  # where the work was given out; empty for a model that is refused there
    content: tuple[tuple[str, str], ...]  # digests of the base's tensors there
    settings: AuditSettings
    compute: Compute
    files: FleetFiles
    finished: frozenset[str]  # digests

    def __call__(self, block: str) -> None:
        base, members = _opened_by_worker(
            self.base, self.sources, self.digests, self.content, self.settings, self.finished
        )
        work = FleetWork(base, members, self.settings, self.compute, self.files)
        missing = work.missing()
        if block in missing:
            work.do({block: missing[block]})


@lru_cache(maxsize=1)
def _opened_by_worker(
    base: str,
    sources: tuple[str, ...],
    digests: tuple[str, ...],
    content: tuple[tuple[str, str], ...],
    settings: AuditSettings,
    finished: frozenset[str],
) -> tuple[Checkpoint, list[Member]]:
    """The base and the models, opened by a worker for its first block and kept for the others.

    Only models that are to be audited are opened, one of each content. The worker hashes them itself: under the digest
    of the driver, what it reads could be another model.

    Raises:
      CheckpointError: a model cannot be opened here, or is another one than where the work was given out.
    """
    opened = read_once(require_content(open_checkpoint(base), dict(content)))
    wanted: dict[str, str] = {}
    for source, digest in zip(sources, digests, strict=True):
        if digest and digest not in finished:
            wanted.setdefault(digest, source)
    members = open_members(opened, list(wanted.values()), settings, None, ())
    for member, digest in zip(members, wanted, strict=True):
        if member.reason is not None:
            raise _not_as_given(member.source, what_is_wrong(CheckpointError(member.reason)))
        if member.digest != digest:
            raise _not_as_given(member.source, "its files are others than when the command began")
    return opened, members


def _not_as_given(source: str, reason: str) -> CheckpointError:
    return CheckpointError(
        f"a worker on Ray cannot audit '{source}': {reason}; expected every worker to reach the same files; put them "
        "where all workers can read them, and run the same command again"
    )
