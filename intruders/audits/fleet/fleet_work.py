"""What a fleet leaves to do, and the doing of it: block by block of the base's matrices, each for all adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain

import pyarrow as pa
import torch
from torch import Tensor

from ...checkpoints.pairing.pairing import Skipped
from ...checkpoints.stored.checkpoint import Checkpoint
from ...errors import ChangedBaseError, IntrudersError, in_one_line
from ...system.progress import Progress, silent
from ...system.threads import run_side_by_side
from ..audit import decide_batch, records_of
from ..audit_settings import AuditSettings, Compute
from ..batches import Batch, is_small_batch, read_batches
from ..result.records import AuditedMatrix
from .fleet_members import Member, Sharers, matrices_by_block
from .kept_blocks import KeptBlocks, Unit, rows_of
from .shared_base import (
    Judged,
    NotJudged,
    SharedBatch,
    directions_of,
    is_small_shared_batch,
    judge_shared_batch,
    read_shared_batches,
)

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
    kept: KeptBlocks

    def missing(self) -> Missing:
        """Return the matrices and models of each block that are not kept yet."""
        done_of: dict[str, set[str]] = {}
        for kept in self.kept.each():
            done = (digest for digest, unit in kept.units.items() if unit.refused is None)
            done_of.setdefault(kept.block, set()).update(done)
        missing: Missing = {}
        for block, matrices in matrices_by_block(self.base, self.members).items():
            kept_here = done_of.get(block, set())
            left = {
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
        in_all = sum(len(matrices) for matrices in blocks.values())
        on_matrix = partial(progress, f"fleet of {len(self.members):,}")
        done = 0
        for group in grouped_blocks(blocks):
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
        """Audit blocks of a single model: small matrices are then batched with each other, as in its own audit."""
        settings, store = self.settings, None if self.settings.exact else self.compute.base_cache()
        skipped: list[Skipped] = []
        sketches: dict[str, Tensor] = {}
        pairs = [
            matrix for matrices in blocks.values() for sharers in matrices.values() for _, matrix in sharers
        ]
        batches = read_batches(pairs, self.compute.torch_device(), settings.skip_non_finite, skipped)

        def judge(batch: Batch) -> list[AuditedMatrix]:
            decisions = decide_batch(batch, settings.k, settings.epsilon, settings.exact, store)
            for at, (matrix, base) in enumerate(zip(batch.matrices, batch.pair.base, strict=True)):
                update = batch.pair.select(at).update
                sketches[matrix.name] = batch.units[at] * directions_of(matrix.name, base).sketch(update)
            return records_of(batch.matrices, decisions, batch.units)

        records: list[AuditedMatrix] = []
        refused = None
        try:
            with run_side_by_side(batches, judge, is_small_batch, self.compute.workers) as judged:
                for some in judged:
                    records += some
        except ChangedBaseError:
            raise
        except IntrudersError as error:
            refused = in_one_line(error)
        digest = self.members[model].digest
        for block, matrices in blocks.items():
            mine = [record for record in records if record.name in matrices]
            left_out = [entry for entry in skipped if entry.name in matrices]
            rows = [rows_of([digest] * len(mine), mine)] if mine else []
            sketch = _summed([sketches[name] for name in sketches if name in matrices])
            self.kept.keep(block, {digest: Unit(left_out, refused, sketch)}, rows)

    def _do_block(
        self,
        block: str,
        matrices: Mapping[str, Sharers],
        on_matrix: Callable[[int, int], None],
        done: int,
        in_all: int,
    ) -> None:
        store = None if self.settings.exact else self.compute.base_cache()
        left_out = NotJudged()
        read: set[str] = set()
        device = self.compute.torch_device()
        batches = read_shared_batches(list(matrices.values()), self.settings, device, left_out)

        def counted(batches: Iterator[SharedBatch]) -> Iterator[SharedBatch]:
            for batch in batches:
                read.update(matrix.name for matrix in batch.matrices)
                on_matrix(done + len(read), in_all)
                yield batch

        judge = partial(judge_shared_batch, settings=self.settings, store=store)
        rows = _Rows(self.members)
        sketches: dict[int, list[Tensor]] = {}
        works = counted(batches)
        with run_side_by_side(works, judge, is_small_shared_batch, self.compute.workers) as judged:
            for result in chain.from_iterable(judged):
                rows.add(result)
                sketches.setdefault(result.model, []).append(result.sketch)
        units = {
            self.members[number].digest: Unit(
                left_out.skipped.get(number, []),
                left_out.refused.get(number),
                _summed(sketches.get(number, [])),
            )
            for sharers in matrices.values()
            for number, _ in sharers
        }
        self.kept.keep(block, units, rows.tables())


def _summed(sketches: Sequence[Tensor]) -> Tensor | None:
    return torch.stack(list(sketches)).sum(0).cpu() if sketches else None


def _only_model(blocks: Missing) -> int | None:
    """Return the only model that these blocks lack; None if they lack several."""
    models = {
        number for matrices in blocks.values() for sharers in matrices.values() for number, _ in sharers
    }
    return models.pop() if len(models) == 1 else None


def grouped_blocks(blocks: Missing) -> Iterator[Missing]:
    """Yield blocks; merge neighbors that lack only one and the same model, up to a limit."""
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
class _Rows:
    """The rows of a block, made for a hundred matrices at a time."""

    members: list[Member]
    _waiting: list[Judged] = field(default_factory=list)
    _tables: list[pa.Table] = field(default_factory=list)

    def add(self, judged: Judged) -> None:
        self._waiting.append(judged)
        if len(self._waiting) >= _MATRICES_A_TABLE:
            self._make()

    def tables(self) -> list[pa.Table]:
        self._make()
        return self._tables

    def _make(self) -> None:
        if self._waiting:
            digests = [self.members[judged.model].digest for judged in self._waiting]
            self._tables.append(rows_of(digests, [judged.matrix for judged in self._waiting]))
            self._waiting = []
