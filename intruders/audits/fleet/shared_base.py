"""One pass over the matrices of a base with many tuned models: each is read, widened and hashed once.

What several models make of one matrix is decided in batches that share it: its products with the rows of all of them
are one product each, and what is known of it is looked up or computed once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
import xxhash
from torch import Tensor

from ...checkpoints.pairing.pairing import PairedMatrix, Skipped
from ...engine.decide import decide
from ...engine.known_base import KnownBase
from ...errors import ChangedBaseError, IntrudersError, in_one_line
from ...linalg.low_rank import LowRank
from ...linalg.pair import Pair, over_unit
from ...linalg.random_directions import SketchDirections
from ..audit import records_of
from ..audit_settings import AuditSettings
from ..base_cache import BaseCache, BaseKeys, look_up
from ..batches import (
    BATCH_BYTES,
    SHARED_BYTES,
    device_for,
    largest_magnitude,
    largest_magnitude_of,
    loaded_or_skipped,
    skipped_if_not_finite,
    unit_of,
)
from ..result.records import AuditedMatrix
from ..worth_decomposing import UpdatesAhead, whole_where_it_pays

# Low-rank updates of one matrix are judged together up to this number. Beyond it their rows no longer fit the time in
# which the matrix is read, and all wait longer for the one that converges last.
BATCH_UPDATES = 12
# This many batches of updates are read before they are sorted by size and decided.
_BATCHES_SORTED = 4


class SharedMatrix:
    """One matrix of the base in the precision and unit that it is judged in, and what is known of it so far."""

    def __init__(self, matrix: Tensor, unit: float) -> None:
        self.matrix = matrix  # (m, n)
        self.unit = unit
        self.lock = threading.Lock()
        self.known: KnownBase | None = None
        self._keys: BaseKeys | None = None
        self._directions: SketchDirections | None = None

    def keys(self, k: int) -> BaseKeys:
        """Return the names of its entries in the base cache; hashed once."""
        if self._keys is None:
            self._keys = BaseKeys.of(self.matrix, k)
        return self._keys

    def directions(self, name: str) -> SketchDirections:
        """Return the directions that sketch updates of the matrix of that name; drawn once."""
        if self._directions is None:
            self._directions = directions_of(name, self.matrix)
        return self._directions

    def look_up(self, k: int, store: BaseCache | None) -> None:
        """Take what the store knows of it, unless it is known already."""
        if self.known is None and store is not None:
            self.known = look_up(store, [self.keys(k)], self.matrix.device)

    def learn(self, computed: KnownBase | None, k: int, store: BaseCache | None) -> None:
        """Keep what a batch computed of it, if that is more than was known."""
        if computed is None or (self.known is not None and self.known.whole() is not None):
            return
        best = computed.select(computed.floor.argmax().reshape(1))
        if self.known is None or bool(best.floor > self.known.floor):
            self.known = best
            if store is not None:
                store.put(self.keys(k).leading, best)


@dataclass(frozen=True)
class SharedBatch:
    """One base matrix with the tuned matrices of some models, to be decided together."""

    base: SharedMatrix
    models: list[int]
    matrices: list[PairedMatrix]
    tuned: Tensor | LowRank  # (len(models), m, n), in the unit of the base
    ahead: UpdatesAhead  # these and later ones of the base

    def pair(self, first: int, last: int) -> Pair:
        """Return the pair of the models from ``first`` up to ``last``, exclusive."""
        index = torch.arange(first, last, device=self.base.matrix.device)
        tuned = self.tuned.select(index) if isinstance(self.tuned, LowRank) else self.tuned[first:last]
        return Pair(self.base.matrix.expand(last - first, -1, -1), tuned)


@dataclass(frozen=True)
class Judged:
    """The result of one matrix of one model."""

    model: int
    matrix: AuditedMatrix
    sketch: Tensor  # (SIZE), double: of the update, for estimates of how alike two models are


def is_small_shared_batch(batch: SharedBatch) -> bool:
    """Return whether several threads decide such batches side by side."""
    return batch.base.matrix.nbytes <= SHARED_BYTES and batch.base.matrix.is_cpu


@dataclass
class NotJudged:
    """The matrices that are skipped, and the models that are refused."""

    skipped: dict[int, list[Skipped]] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    def skip(self, model: int, skipped: Skipped) -> None:
        self.skipped.setdefault(model, []).append(skipped)


def read_shared_batches(
    matrices: Sequence[Sequence[tuple[int, PairedMatrix]]],
    settings: AuditSettings,
    device: torch.device,
    left_out: NotJudged,
) -> Iterator[SharedBatch]:
    """Read matrix after matrix, each with the updates of all models that change it, and yield them in batches.

    Args:
      matrices: for every matrix of the base the models that change it, by number, with their pairs. The base of the
        pairs keeps what was read last (:func:`intruders.checkpoints.stored.read_once.read_once`).
      settings: those of the audit.
      device: where batches are decided.
      left_out: gets what is not judged. A model with an error has no further batches.
    """
    for sharers in matrices:
        forms = _Forms(device)
        waiting: dict[object, _Waiting] = {}
        for number, (model, matrix) in enumerate(sharers, 1):
            if model in left_out.refused:
                continue
            try:
                outcome = _read(matrix, forms, settings)
            except ChangedBaseError:
                raise
            except IntrudersError as error:
                left_out.refused[model] = in_one_line(error)
                continue
            if isinstance(outcome, Skipped):
                left_out.skip(model, outcome)
                continue
            base, tuned = outcome
            rank = tuned.rank if isinstance(tuned, LowRank) else None
            key = id(base), rank
            updates = waiting.setdefault(key, _Waiting(base))
            updates.add(model, matrix, tuned)
            if updates.are_full:
                ahead = _ahead(base, waiting, len(sharers) - number)
                yield from waiting.pop(key).batches(ahead)
        for last in list(waiting):
            ahead = _ahead(waiting[last].base, waiting, 0)
            yield from waiting.pop(last).batches(ahead)


class _Waiting:
    """Updates of one matrix and one kind that wait for more of them."""

    def __init__(self, base: SharedMatrix) -> None:
        self.base = base
        # Norms of low-rank updates; 0 for dense matrices, which keep their order.
        self.sizes: list[float] = []
        self._members: list[tuple[int, PairedMatrix, Tensor | LowRank]] = []

    def add(self, model: int, matrix: PairedMatrix, tuned: Tensor | LowRank) -> None:
        self._members.append((model, matrix, tuned))
        self.sizes.append(tuned.norm() if isinstance(tuned, LowRank) else 0.0)

    @property
    def _batch_size(self) -> int:
        if isinstance(self._members[0][2], LowRank):
            return BATCH_UPDATES
        return max(1, BATCH_BYTES // self.base.matrix.nbytes)

    @property
    def are_full(self) -> bool:
        is_low_rank = isinstance(self._members[0][2], LowRank)
        return len(self._members) >= self._batch_size * (_BATCHES_SORTED if is_low_rank else 1)

    def batches(self, ahead: UpdatesAhead) -> Iterator[SharedBatch]:
        """Batch updates of similar size: a small one is decided at once, and would wait for a large one."""
        order = sorted(range(len(self._members)), key=self.sizes.__getitem__)
        for first in range(0, len(order), self._batch_size):
            members = [self._members[at] for at in order[first : first + self._batch_size]]
            yield _joined(self.base, members, ahead)


def _ahead(base: SharedMatrix, waiting: Mapping[object, _Waiting], unread: int) -> UpdatesAhead:
    """Return the updates of a base that wait, of any rank."""
    return UpdatesAhead(
        [size for updates in waiting.values() if updates.base is base for size in updates.sizes], unread
    )


def _joined(
    base: SharedMatrix, members: list[tuple[int, PairedMatrix, Tensor | LowRank]], ahead: UpdatesAhead
) -> SharedBatch:
    models, matrices, tuned = zip(*members, strict=True)
    if isinstance(tuned[0], LowRank):
        lefts, rights = zip(*((update.left, update.right) for update in tuned), strict=True)
        joined: Tensor | LowRank = LowRank(torch.stack(lefts), torch.stack(rights))
    else:
        joined = torch.stack(tuned)
    return SharedBatch(base, list(models), list(matrices), joined, ahead)


class _Forms:
    """Cache one base matrix in each precision and unit that is needed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stored: Tensor | None = None
        self._made: dict[tuple[torch.dtype, float], SharedMatrix] = {}
        self._magnitudes: dict[torch.dtype, float] = {}

    def widened(self, stored: Tensor, dtype: torch.dtype) -> SharedMatrix:
        """Return the stored matrix in that precision; made once."""
        if self._stored is None or not _is_same(self._stored, stored):
            self._stored, self._made, self._magnitudes = stored, {}, {}
        if (dtype, 1.0) not in self._made:
            self._made[dtype, 1.0] = SharedMatrix(
                stored.to(device_for(stored.shape, self._device), dtype), 1.0
            )
        return self._made[dtype, 1.0]

    def magnitude(self, wide: SharedMatrix) -> float:
        """Return the magnitude of its largest number; computed once."""
        dtype = wide.matrix.dtype
        if dtype not in self._magnitudes:
            self._magnitudes[dtype] = largest_magnitude(wide.matrix)
        return self._magnitudes[dtype]

    def over(self, wide: SharedMatrix, unit: float) -> SharedMatrix:
        """Return the matrix divided by a unit; made once."""
        key = wide.matrix.dtype, unit
        if key not in self._made:
            self._made[key] = SharedMatrix(wide.matrix / unit, unit)
        return self._made[key]


def _is_same(mine: Tensor, other: Tensor) -> bool:
    if mine.shape != other.shape or mine.dtype != other.dtype:
        return False
    return (mine.data_ptr() == other.data_ptr() and mine.stride() == other.stride()) or torch.equal(
        mine, other
    )


def _read(
    matrix: PairedMatrix, forms: _Forms, settings: AuditSettings
) -> tuple[SharedMatrix, Tensor | LowRank] | Skipped:
    """Return the base's matrix and the tuned one, both in the base's unit; or why it is skipped."""
    loaded = loaded_or_skipped(matrix)
    if isinstance(loaded, Skipped):
        return loaded
    is_double = any(part.dtype == torch.float64 for part in loaded.parts)
    wide = forms.widened(loaded.base, torch.float64 if is_double else torch.float32)
    tuned = loaded.tuned.to(wide.matrix.device, wide.matrix.dtype)
    pair = Pair(wide.matrix, tuned)
    largest = {
        "base": forms.magnitude(wide),
        "tuned model": largest_magnitude_of(pair.parts[1:]),
    }
    skipped = skipped_if_not_finite(matrix.name, largest, settings.skip_non_finite)
    if skipped is not None:
        return skipped
    unit = unit_of(pair.rank, largest)
    if unit == 1.0:
        return wide, tuned
    return forms.over(wide, unit), over_unit(tuned, unit)


def directions_of(name: str, matrix: Tensor) -> SketchDirections:
    """Return the random directions of a base matrix ``(m, n)``: the same in every fleet."""
    seed = xxhash.xxh3_64_intdigest(name.encode()) >> 1  # torch takes 63 bits
    m, n = matrix.shape
    return SketchDirections.of(m, n, seed, matrix)


def judge_shared_batch(batch: SharedBatch, settings: AuditSettings, store: BaseCache | None) -> list[Judged]:
    """Decide every model of the batch; each row equals that of the model's own audit."""
    base, count = batch.base, len(batch.models)
    if settings.exact:
        return _judge(batch, 0, count, settings, None, None)
    results = []
    with base.lock:
        base.look_up(settings.k, store)
        if base.known is None:  # what the first one learns is not computed again for each of the others
            results = _judge(batch, 0, 1, settings, None, store)
        if len(results) < count:
            base.known = whole_where_it_pays(batch.pair(0, 1), settings.k, base.known, batch.ahead)
    if len(results) < count:
        results += _judge(batch, len(results), count, settings, base.known, store)
    return results


def _judge(
    batch: SharedBatch,
    first: int,
    last: int,
    settings: AuditSettings,
    known: KnownBase | None,
    store: BaseCache | None,
) -> list[Judged]:
    if known is not None:
        known = known.repeated(last - first)
    pair = batch.pair(first, last)
    decisions = decide(pair, settings.k, settings.epsilon, settings.exact, known)
    if not settings.exact:
        batch.base.learn(decisions.known, settings.k, store)
    sketches = batch.base.unit * batch.base.directions(batch.matrices[0].name).sketch(pair.update)
    records = records_of(batch.matrices[first:last], decisions, [batch.base.unit] * (last - first))
    return [Judged(*row) for row in zip(batch.models[first:last], records, sketches, strict=True)]
