"""Find the missing units of a fleet and audit them, block by block of the base's matrices; then finish the adapters."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import chain
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from ...checkpoints.opening.open import open_checkpoint
from ...checkpoints.pairing.pairing import PairedMatrix, Pairing, SkipKind
from ...checkpoints.stored.checkpoint import Checkpoint, read_once
from ...checkpoints.stored.content import require_content
from ...checkpoints.stored.names import tensor_of
from ...errors import CheckpointError, ResultFileError, some_of, what_is_wrong
from ...system.progress import Progress, silent
from ...system.threads import run_side_by_side
from ..audit import audit_of
from ..audit_settings import AuditSettings, Compute
from ..batches import Batch, NotJudged, Sharers, read_batches
from ..judge import Judged, judge_batch
from ..kept_nats import KeptNats, of_bytes
from ..result.audit_result import header
from ..result.forgetting import Forgetting
from .fleet_files import RESPONSES, AdapterFile, FleetFiles, Unit, rows_of, sketch_of_text, sketch_text
from .fleet_members import Member, block_of, open_members
from .fleet_table import counts_of_model, nats_of

Item = TypeVar("Item")
Missing = dict[str, dict[str, Sharers]]  # block -> matrix -> the models that it is to be judged for

# Matrices that are judged before what is finished is kept: as many of a few models as fill batches.
_MATRICES_TOGETHER = 60
# Vectors of which the rows are in memory at a time, with their columns of the similarity matrix.
_VECTORS_AT_ONCE = 200_000


def matrices_of(block: tuple[str, Mapping[str, Sharers]]) -> int:
    """Return how many matrices a block has to judge: one of three models counts three times."""
    return sum(len(sharers) for sharers in block[1].values())


@dataclass
class FleetWork:
    base: Checkpoint
    members: list[Member]
    settings: AuditSettings
    compute: Compute
    files: FleetFiles
    kept: KeptNats

    def missing(self) -> Missing:
        """Return the matrices of each block with the models that are not kept yet, in the base's order.

        Equal members come once, and those that an earlier call finished do not come.
        """
        seen = {(kept.block, digest) for kept in self.files.blocks() for digest in kept.units}
        shared: dict[str, list[tuple[int, PairedMatrix]]] = {}
        for number, member in enumerate(self.members):
            if member.pairing is None:
                continue
            left = [pair for pair in member.pairing.pairs if (block_of(pair.name), member.digest) not in seen]
            seen |= {(block_of(pair.name), member.digest) for pair in left}
            for pair in left:
                shared.setdefault(pair.name, []).append((number, pair))
        # All matrices of one tensor follow each other, or it would be read for each of them.
        order = {name: position for position, name in enumerate((*self.base.names(), *self.base.tied))}
        missing: Missing = {}
        for name in sorted(shared, key=lambda name: order.get(tensor_of(name), len(order))):
            missing.setdefault(block_of(name), {})[name] = shared[name]
        return missing

    def do(self, blocks: Missing, progress: Progress = silent) -> dict[str, str]:
        """Audit what is missing and keep each block when it is done; return why models are refused, by digest.

        Of a model that is refused no unit is kept: the cause may be gone at the next call.
        """
        store = self.compute.base_cache()
        stage = f"fleet of {len(self.members):,}"
        in_all = sum(len(matrices) for matrices in blocks.values())
        left_out = NotJudged(self.settings.skip_non_finite, goes_on=True)
        read: set[str] = set()

        def counted(batches: Iterator[Batch]) -> Iterator[Batch]:
            for batch in batches:
                read.update(matrix.name for matrix in batch.matrices)
                progress(stage, len(read), in_all)
                yield batch

        def judge(batch: Batch) -> list[Judged]:
            results = judge_batch(batch, self.settings, store)
            ranks = [result.matrix.update.effective_rank for result in results]
            responses = self.kept.responses(batch, ranks)
            return [replace(result, responses=own) for result, own in zip(results, responses, strict=True)]

        for several in grouped(blocks.items(), matrices_of, _MATRICES_TOGETHER):
            group = dict(several)
            judged_of: dict[str, list[Judged]] = {block: [] for block in group}
            matrices = chain.from_iterable(of_block.values() for of_block in group.values())
            works = counted(read_batches(matrices, self.compute.torch_device(), left_out))
            with run_side_by_side(works, judge, Batch.is_small, self.compute.workers) as judged:
                for result in chain.from_iterable(judged):
                    judged_of[block_of(result.matrix.name)].append(result)
            read.update(*group.values())
            progress(stage, len(read), in_all)
            for block, results in judged_of.items():
                self._keep(block, group[block], results, left_out)
        return {self.members[number].digest: reason for number, reason in left_out.refused.items()}

    def _keep(
        self, block: str, matrices: Mapping[str, Sharers], judged: Sequence[Judged], left_out: NotJudged
    ) -> None:
        models = {number for sharers in matrices.values() for number, _ in sharers} - left_out.refused.keys()
        of_model: dict[int, list[Judged]] = {number: [] for number in models}
        for result in judged:
            if result.model in of_model:
                of_model[result.model].append(result)
        units = {
            self.members[number].digest: Unit(
                [skipped for skipped in left_out.skipped.get(number, ()) if skipped.name in matrices],
                sketch_text(torch.stack([result.sketch for result in results]).sum(0)) if results else None,
            )
            for number, results in of_model.items()
        }
        if units:
            digests = [self.members[n].digest for n, results in of_model.items() for _ in results]
            rows = rows_of(digests, [result for results in of_model.values() for result in results])
            self.files.keep(block, units, rows)

    def finish(
        self, earlier: Mapping[str, AdapterFile], refused: Mapping[str, str], seconds: float
    ) -> dict[tuple[str, str], AdapterFile]:
        """Write the file of every audited model that has none; return all of them by source and digest.

        ``earlier`` has the files of earlier calls by their names, ``refused`` the reasons by digest, and ``seconds`` is
        the time that one model took. Blocks whose models are all finished are removed. ResultFileError if a file cannot
        be written, or the blocks lack matrices of a model.
        """
        self.members = [
            replace(member, reason=refused.get(member.digest, member.reason)) for member in self.members
        ]
        of_digest = {file.digest: file for file in earlier.values()}
        audited = [member for member in self.members if member.reason is None]
        new = {member.digest: member for member in reversed(audited) if not member.is_finished}

        def vectors_of(member: Member) -> int:
            return self.settings.k * len(member.pairing.pairs if member.pairing is not None else ())

        for group in grouped(new.values(), vectors_of, _VECTORS_AT_ONCE):
            for digest, units in self._units_of({member.digest for member in group}).items():
                of_digest[digest] = self._write(new[digest], units, seconds)
        written: dict[tuple[str, str], AdapterFile] = {}
        for member in audited:
            file = earlier.get(self.files.path(member.source, member.digest).name, of_digest[member.digest])
            written[member.source, member.digest] = self.files.named(file, member.source, self.base)
        self.files.arrange({file.path.name for file in written.values()})
        self.files.forget({*of_digest, *refused})
        return written

    def _units_of(self, digests: Set[str]) -> dict[str, dict[str, tuple[Unit, pa.Table]]]:
        units: dict[str, dict[str, tuple[Unit, pa.Table]]] = {digest: {} for digest in digests}
        for kept in self.files.blocks():
            if mine := kept.units.keys() & digests:
                with pq.ParquetFile(kept.file) as file:
                    rows = file.read().replace_schema_metadata(None)
                for digest in mine:
                    own = rows.filter(pc.equal(rows["adapter"], digest))
                    units[digest][kept.block] = kept.units[digest], own
        return units

    def _write(
        self, member: Member, units: Mapping[str, tuple[Unit, pa.Table]], seconds: float
    ) -> AdapterFile:
        """Write the file of a model from its units, with the rows in the order of an audit's."""
        pairing = member.pairing
        assert pairing is not None
        names = [pair.name for pair in pairing.pairs]
        skipped = {left.name: left for unit, _ in units.values() for left in unit.skipped}
        rows = pa.concat_tables([rows_of([], []), *(table for _, table in units.values())])
        judged = {*skipped, *pc.unique(rows["name"]).to_pylist()}
        if lost := [name for name in names if name not in judged]:  # the counts would be too small
            raise ResultFileError(
                f"the blocks of '{member.source}' lack {len(lost)} of its {len(names)} matrices: {some_of(lost)}; "
                "expected vectors or a reason for each; run the same command again"
            )
        places = pc.index_in(rows["name"], value_set=pa.array(names, pa.string())).to_numpy()
        rows = rows.take(pa.array(np.argsort(places, kind="stable")))
        forgetting = self._forgetting(pairing, rows)
        rows = rows.drop_columns(RESPONSES)
        kinds = [left.kind for left in skipped.values()]
        counts = {
            "zero_updates": kinds.count(SkipKind.UNCHANGED),
            "non_finite": kinds.count(SkipKind.NOT_FINITE),
            **counts_of_model(rows),
            **({} if forgetting is None else nats_of(forgetting)),
        }
        sketches = [sketch_of_text(unit.sketch) for unit, _ in units.values() if unit.sketch is not None]
        file = AdapterFile(
            path=self.files.path(member.source, member.digest),
            source=member.source,
            digest=member.digest,
            facts=member.facts,
            counts=counts,
            sketch=sketch_text(torch.stack(sketches).sum(0)) if sketches else None,
        )
        left_out = [*pairing.skipped, *(skipped[name] for name in names if name in skipped)]
        head = header(audit_of(pairing, self.settings, [], left_out, seconds, forgetting))
        head["totals"] |= {name: counts[name] for name in ("matrices", "vectors", "intruders")}
        self.files.write(file, head, rows)
        return file

    def _forgetting(self, pairing: Pairing, rows: pa.Table) -> Forgetting | None:
        if self.kept.text is None:
            return None
        matrices = (
            rows.filter(pc.equal(rows["index"], 0)).select(["name", RESPONSES, "effective_rank"]).to_pylist()
        )
        labels = self.kept.text.labels
        responses = {matrix["name"]: of_bytes(matrix[RESPONSES], labels) for matrix in matrices}
        ranks = {matrix["name"]: matrix["effective_rank"] for matrix in matrices}
        affected = set(rows.filter(rows["intruder"])["name"].to_pylist())
        return self.kept.forgetting(pairing, responses, ranks, affected, self.compute.torch_device())


def grouped(items: Iterable[Item], size: Callable[[Item], int], full: int) -> Iterator[list[Item]]:
    """Yield items in groups; one is closed when the sizes in it come to ``full``."""
    group: list[Item] = []
    total = 0
    for item in items:
        group.append(item)
        total += size(item)
        if total >= full:
            yield group
            group, total = [], 0
    if group:
        yield group


@dataclass(frozen=True)
class BlockOnRay:
    """The task of a worker on a Ray cluster: audit the block of a given name."""

    base: str
    content: tuple[tuple[str, str], ...]  # digests of the base's tensors where the work was given out
    models: tuple[tuple[str, str], ...]  # digest there and source of each that is to be audited
    settings: AuditSettings
    compute: Compute
    files: FleetFiles
    kept: str | None  # the key of what predicts nats there

    def __call__(self, block: str) -> dict[str, str]:
        work = _opened_by_worker(self)
        return work.do({name: matrices for name, matrices in work.missing().items() if name == block})


@lru_cache(maxsize=1)
def _opened_by_worker(task: BlockOnRay) -> FleetWork:
    """Open the base and the models for the first block of a worker, and keep them for the others.

    The worker hashes the models itself: under the digest of the driver, what it reads could be another model.
    """
    base = read_once(require_content(open_checkpoint(task.base), dict(task.content)))
    members = open_members(base, [source for _, source in task.models], task.settings, None, ())
    for member, (digest, _) in zip(members, task.models, strict=True):
        if member.reason is not None or member.digest != digest:
            reason = (
                "its files are others than when the command began"
                if member.reason is None
                else what_is_wrong(CheckpointError(member.reason))
            )
            raise CheckpointError(
                f"a worker on Ray cannot audit '{member.source}': {reason}; expected every worker to reach the same "
                "files; put them where all workers can read them, and run the same command again"
            )
    kept = KeptNats.at(task.compute.base_cache(), base)
    # Rows of another text would be added to those of the others.
    kept = kept if kept.key == task.kept else KeptNats()
    return FleetWork(base, members, task.settings, task.compute, task.files, kept)
