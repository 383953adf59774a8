"""Find the missing units of a fleet and audit them: block by block of the base's matrices, each for all adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import pyarrow as pa
import torch
from torch import Tensor

from ...checkpoints.stored.checkpoint import Checkpoint
from ...system.progress import Progress, silent
from ...system.threads import run_side_by_side
from ..audit_settings import AuditSettings, Compute
from ..batches import Batch, NotJudged, Sharers, read_batches
from ..judge import Judged, judge_batch
from .fleet_files import FleetFiles, Unit, rows_of
from .fleet_members import Member, matrices_by_block

Missing = dict[str, dict[str, Sharers]]  # block -> matrix -> the models that it is to be judged for

# Matrices of a single model that are judged before what is finished of it is kept.
_MATRICES_TOGETHER = 60
# Arrow tables are built for this many matrices at a time; small ones cost mostly overhead.
_MATRICES_A_TABLE = 100


@dataclass
class FleetWork:
    """State for auditing a fleet block by block."""

    base: Checkpoint
    members: list[Member]
    settings: AuditSettings
    compute: Compute
    files: FleetFiles

    def missing(self) -> Missing:
        """Return the matrices and models of each block that are not kept yet."""
        done_of: dict[str, set[str]] = {}
        for kept in self.files.blocks():
            done = (digest for digest, unit in kept.units.items() if unit.refused is None)
            done_of.setdefault(kept.block, set()).update(done)
        missing: Missing = {}
        for block, matrices in matrices_by_block(self.base, self.members).items():
            kept_here = done_of.get(block, set())
            left: dict[str, Sharers] = {
                name: [
                    (number, pair) for number, pair in sharers if self.members[number].digest not in kept_here
                ]
                for name, sharers in matrices.items()
            }
            if left := {name: sharers for name, sharers in left.items() if sharers}:
                missing[block] = left
        return missing

    def do(self, blocks: Missing, progress: Progress = silent) -> None:
        """Audit what is missing, block by block, and keep each block when it is done."""
        store = None if self.settings.exact else self.compute.base_cache()
        judge = partial(judge_batch, settings=self.settings, store=store)
        stage = f"fleet of {len(self.members):,}"
        in_all = sum(len(matrices) for matrices in blocks.values())
        read: set[str] = set()

        def counted(batches: Iterator[Batch]) -> Iterator[Batch]:
            for batch in batches:
                read.update(matrix.name for matrix in batch.matrices)
                progress(stage, len(read), in_all)
                yield batch

        for group in grouped_blocks(blocks):
            left_out = NotJudged(self.settings.skip_non_finite, goes_on=True)
            block_of = {name: block for block, matrices in group.items() for name in matrices}
            judged_of = {block: _JudgedBlock(self.members) for block in group}
            matrices = chain.from_iterable(of_block.values() for of_block in group.values())
            works = counted(read_batches(matrices, self.compute.torch_device(), left_out))
            with run_side_by_side(works, judge, Batch.is_small, self.compute.workers) as judged:
                for result in chain.from_iterable(judged):
                    judged_of[block_of[result.matrix.name]].add(result)
            read.update(block_of)
            for block in group:
                models = {number for sharers in group[block].values() for number, _ in sharers}
                units = {
                    self.members[number].digest: Unit(
                        [skip for skip in left_out.skipped.get(number, ()) if block_of[skip.name] == block],
                        left_out.refused.get(number),
                        judged_of[block].sketch(number),
                    )
                    for number in models
                }
                self.files.keep(block, units, judged_of[block].tables())
        if blocks:
            progress(stage, in_all, in_all)


def _only_model(blocks: Missing) -> int | None:
    """Return the only model that these blocks lack; None if they lack several."""
    models = {
        number for matrices in blocks.values() for sharers in matrices.values() for number, _ in sharers
    }
    return models.pop() if len(models) == 1 else None


def grouped_blocks(blocks: Missing) -> Iterator[Missing]:
    """Yield blocks; merge neighbors that lack only one and the same model, up to a limit.

    The small matrices of a single model are then batched with each other, as in its own audit.
    """
    group: Missing = {}
    for block, matrices in blocks.items():
        both = {**group, block: matrices}
        is_full = sum(len(matrices_of_block) for matrices_of_block in group.values()) >= _MATRICES_TOGETHER
        if group and (is_full or _only_model(both) is None):
            yield group
            group = {}
        group[block] = matrices
    if group:
        yield group


@dataclass
class _JudgedBlock:
    """The rows of a block, made for a hundred matrices at a time, and the sketches of its updates."""

    members: Sequence[Member]
    _sketches: dict[int, list[Tensor]] = field(default_factory=dict)
    _waiting: list[Judged] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)

    def add(self, judged: Judged) -> None:
        self._sketches.setdefault(judged.model, []).append(judged.sketch)
        self._waiting.append(judged)
        if len(self._waiting) >= _MATRICES_A_TABLE:
            self._make_table()

    def sketch(self, model: int) -> Tensor | None:
        """Return the sketch of all updates of a model in this block."""
        return torch.stack(self._sketches[model]).sum(0).cpu() if model in self._sketches else None

    def tables(self) -> list[pa.Table]:
        if self._waiting:
            self._make_table()
        return self._tables

    def _make_table(self) -> None:
        digests = [self.members[judged.model].digest for judged in self._waiting]
        self._tables.append(rows_of(digests, [judged.matrix for judged in self._waiting]))
        self._waiting = []
