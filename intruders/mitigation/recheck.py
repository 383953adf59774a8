"""The audit of what a mitigation wrote: of the matrices that it changed, and of any other that came out different."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch

from ..audits.audit import audit_pairing
from ..audits.audit_settings import AuditSettings, Compute
from ..audits.result.audit_result import Audit
from ..checkpoints.pairing.pairing import PairedMatrix, Pairing
from ..linalg.pair import Pair
from ..system.progress import Progress


def audit_after(
    before: Audit,
    old: Sequence[PairedMatrix],
    new: Pairing,
    changed: Collection[str],
    compute: Compute,
    progress: Progress,
) -> Audit:
    """The audit of ``new``, with the settings of ``before``.

    A matrix that is not among the ``changed``, and whose written update is bit for bit the one that was audited, keeps
    its row: there is nothing to compute again.
    """
    started = time.perf_counter()
    rows = {matrix.name: matrix for matrix in before.matrices}
    by_name = {pair.name: pair for pair in old}
    same = [
        pair.name
        for pair in new.pairs
        if pair.name in rows
        and pair.name not in changed
        and pair.name in by_name
        and _are_equal(by_name[pair.name].load(), pair.load())
    ]
    kept = set(same)
    again = audit_pairing(
        replace(new, pairs=[pair for pair in new.pairs if pair.name not in kept]),
        AuditSettings.of(before),
        compute,
        progress,
    )
    matrices = {matrix.name: matrix for matrix in again.matrices} | {name: rows[name] for name in same}
    return replace(
        again,
        matrices=[matrices[pair.name] for pair in new.pairs if pair.name in matrices],
        seconds=time.perf_counter() - started,
        settings=_settings(before.settings, again.settings),
    )


def _are_equal(first: Pair | None, second: Pair | None) -> bool:
    """Return whether base and update are the same numbers, in the same form."""
    if first is None or second is None or len(first.parts) != len(second.parts):
        return False
    return all(
        part.dtype == other_part.dtype and torch.equal(part, other_part)
        for part, other_part in zip(first.parts, second.parts, strict=True)
    )


def _settings(before: Mapping[str, object], again: Mapping[str, object]) -> dict[str, object]:
    return {**before, "matched": again["matched"]}
