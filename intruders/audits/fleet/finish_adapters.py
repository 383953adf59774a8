"""From blocks of many models to one file per adapter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch import Tensor

from ...checkpoints.pairing.pairing import Pairing, SkipKind, Skipped
from ...checkpoints.stored.checkpoint import Checkpoint
from ...errors import ResultFileError, some_of
from ..audit import audit_of
from ..audit_settings import AuditSettings
from ..result.audit_result import header
from .fleet_files import AdapterFile, FleetFiles, rows_of
from .fleet_members import Member
from .fleet_table import counts_of_model

# Vectors of which the rows are in memory at a time, with their columns of the similarity matrix.
_VECTORS_AT_ONCE = 200_000


def finish_adapters(
    members: Sequence[Member],
    files: FleetFiles,
    earlier: Mapping[str, AdapterFile],
    settings: AuditSettings,
    seconds: float,
    base: Checkpoint,
) -> dict[tuple[str, str], AdapterFile]:
    """Write the file of every audited model that has none; return all of them by source and digest.

    Args:
      members: the fleet.
      files: the folder of the fleet, with the blocks of those that are not finished.
      earlier: files of earlier calls, by their names.
      settings: the settings of the audits.
      seconds: the time that one model took.
      base: the base of the fleet, which has another source than earlier calls gave if it was moved since.

    Raises:
      ResultFileError: a file cannot be written, or the blocks lack matrices of a model.
    """
    written: dict[tuple[str, str], AdapterFile] = {}
    by_digest = {file.digest: file for file in earlier.values()}
    new: dict[str, Member] = {}
    for member in members:
        key = (member.source, member.digest)
        if member.is_finished:
            file = earlier.get(files.path(*key).name)
            written[key] = (
                files.rename(by_digest[member.digest], member.source, base)
                if file is None
                else files.under_base(file, base)
            )
        elif member.reason is None and member.pairing is not None:
            new.setdefault(member.digest, member)
    for group in _groups(list(new.values()), settings.k):
        for digest, parts in _parts_of(group, files).items():
            member = new[digest]
            file, head, rows = parts.finished(member, files, settings, seconds)
            files.write(file, head, rows)
            written[member.source, digest] = by_digest[digest] = file
    for member in members:  # further ones of the same content
        key = (member.source, member.digest)
        if member.digest in new and key not in written:
            written[key] = files.rename(by_digest[member.digest], member.source, base)
    return written


@dataclass
class _Parts:
    """What the blocks have of one model."""

    rows: list[pa.Table] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    sketch: Tensor | None = None
    refused: str | None = None

    def finished(
        self, member: Member, files: FleetFiles, settings: AuditSettings, seconds: float
    ) -> tuple[AdapterFile, dict[str, Any], pa.Table]:
        """Return the file of the model, the header of its audit, and its rows in the order of an audit's."""
        pairing = member.pairing
        assert pairing is not None
        refused = self.refused is not None
        rows = rows_of([], []) if refused or not self.rows else _ordered(pa.concat_tables(self.rows), pairing)
        kinds = [skipped.kind for skipped in self.skipped]
        counts = {
            "zero_updates": kinds.count(SkipKind.UNCHANGED),
            "non_finite": kinds.count(SkipKind.NOT_FINITE),
            **counts_of_model(rows),
        }
        path = files.path(member.source, member.digest)
        file = AdapterFile(
            path, member.source, member.digest, member.facts, counts, self.refused, self.sketch
        )
        by_name = {skipped.name: skipped for skipped in self.skipped}
        if not refused:
            _require_all(member, pairing, {*by_name, *pc.unique(rows["name"]).to_pylist()})
        left_out = [by_name[pair.name] for pair in pairing.pairs if pair.name in by_name]
        audit = audit_of(pairing, settings, [], [*pairing.skipped, *left_out], seconds)
        head = header(audit)
        head["totals"] |= {name: counts[name] for name in ("matrices", "vectors", "intruders")}
        return file, head, rows


def _require_all(member: Member, pairing: Pairing, judged: Set[str]) -> None:
    """Refuse to write a model of which a part was not judged: the counts would be too small."""
    lost = [pair.name for pair in pairing.pairs if pair.name not in judged]
    if lost:
        raise ResultFileError(
            f"the blocks of '{member.source}' lack {len(lost)} of its {len(pairing.pairs)} matrices: {some_of(lost)}; "
            "expected vectors or a reason for each; run the same command again"
        )


def _ordered(rows: pa.Table, pairing: Pairing) -> pa.Table:
    """Return the rows by matrix in the order of the pairing."""
    names = pa.array([pair.name for pair in pairing.pairs], pa.string())
    places = pc.index_in(rows["name"], value_set=names).to_numpy()
    return rows.take(pa.array(np.argsort(places, kind="stable")))


def _groups(members: Sequence[Member], k: int) -> Iterator[dict[str, Member]]:
    """Yield models by digest, as many together as fit in memory."""
    group: dict[str, Member] = {}
    vectors = 0
    for member in members:
        own = k * len(member.pairing.pairs if member.pairing is not None else ())
        if group and vectors + own > _VECTORS_AT_ONCE:
            yield group
            group, vectors = {}, 0
        group[member.digest] = member
        vectors += own
    if group:
        yield group


def _parts_of(group: Mapping[str, Member], files: FleetFiles) -> dict[str, _Parts]:
    """Read what the blocks have of these models, each block of a model once: what was judged before a refusal."""
    parts = {digest: _Parts() for digest in group}
    judged = {
        (kept.block, digest)
        for kept in files.blocks()
        for digest, unit in kept.units.items()
        if unit.refused is None
    }
    seen: set[tuple[str, str]] = set()
    for kept in files.blocks():
        mine = [
            digest
            for digest, unit in kept.units.items()
            if digest in parts
            and (kept.block, digest) not in seen
            and (unit.refused is None or (kept.block, digest) not in judged)
        ]
        if not mine:
            continue
        seen |= {(kept.block, digest) for digest in mine}
        rows = kept.rows()
        for digest in mine:
            unit, own = kept.units[digest], parts[digest]
            own.rows.append(rows.filter(pc.equal(rows["adapter"], digest)))
            own.skipped += unit.skipped
            own.refused = own.refused or unit.refused
            if unit.sketch is not None:
                own.sketch = unit.sketch if own.sketch is None else own.sketch + unit.sketch
    return parts
