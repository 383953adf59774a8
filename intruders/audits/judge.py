"""The decisions about a batch, as the records of its matrices; what is known of its bases is looked up and kept."""

import threading
from collections.abc import Sequence
from dataclasses import Field, dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..engine.certificates import NAME, fits_coordinates
from ..engine.decide import decide
from ..engine.decisions import Decisions
from ..engine.known_base import KnownBase
from ..linalg.pair import Pair
from .audit_settings import AuditSettings
from .base_cache import BaseCache, BaseKeys, MemoryCache, look_up
from .batches import Batch, directions_of
from .result.records import AuditedMatrix, Subspaces, UpdateSize, Vector

# An update that brings no intruders is decided as fast from a few leading vectors. One that brings some costs several
# times more there than in the base's coordinates. On one core of an AMD EPYC, with twelve updates of rank 8 a batch, it
# was 4, 8, 15, 26 and 77 ms an update at a side of 256, 384, 576, 1024 and 2048, and the decomposition 14, 36, 110, 590
# and 4,700 ms. One is paid by an update with intruders for each of these parts of the smaller side's square: by 5
# updates for a side of 576, by 14 for 1024.
_PAID_BY_ONE = 75_000
# What whole bases of one training may take in memory.
_MOST_BYTES = 2**30


def decide_batch(batch: Batch, k: int, epsilon: float, exact: bool, store: BaseCache | None) -> Decisions:
    """Decide one batch from what the store knows of its bases, and tell the store what it did not know."""
    if store is None or exact:
        return decide(batch.pair, k, epsilon, exact)
    keys = [BaseKeys.of(base, k) for base in batch.pair.base]
    known = look_up(store, keys, batch.pair.base.device)
    if isinstance(store, AuditsAhead):
        known = store.before(batch.pair, min(k, *batch.pair.base.shape[-2:]), keys, known)
    decisions = decide(batch.pair, k, epsilon, known=known)
    if isinstance(store, AuditsAhead):
        store.after(decisions, keys)
    computed = decisions.known
    if computed is not None and (known is None or bool((computed.floor > known.floor).any())):
        for index, key in enumerate(keys):
            store.put(key.leading, computed.select(torch.tensor([index])))
    return decisions


@dataclass(frozen=True)
class Judged:
    """The result of one matrix of one model of a fleet."""

    model: int
    matrix: AuditedMatrix
    sketch: Tensor  # (SIZE), double: of the update, for estimates of how alike two models are
    responses: Tensor | None = None  # (sequences, labels), from which nats are predicted


def judge_batch(batch: Batch, settings: AuditSettings, store: BaseCache | None) -> list[Judged]:
    """Decide a batch of a fleet; each row equals that of the model's own audit."""
    base, k, count = batch.shared, settings.k, len(batch.models)
    if base is None or settings.exact:
        return _judged(batch, decide_batch(batch, k, settings.epsilon, settings.exact, store))

    def decided(first: int, last: int) -> list[Judged]:
        part = batch.select(range(first, last))
        known = None if base.known is None else base.known.repeated(last - first)
        decisions = decide(part.pair, k, settings.epsilon, known=known)
        base.learn(decisions.known, k, store)
        return _judged(part, decisions)

    with base.lock:
        base.look_up(k, store)
        # What the first one learns is not computed again for each of the others.
        results = decided(0, 1) if base.known is None else []
        known = base.known
        if len(results) == count:
            return results
        # An update is expected to bring intruders where it is as large as the base's k-th singular value. Of 633
        # updates of SmolLM2-135M, random and trained, this was right for 85 %.
        if (
            known is not None
            and batch.ahead is not None
            and _may_pay(batch.pair, k, known)
            and _pays(batch.ahead.expected_from(float(known.value(k)[0])), batch.pair.base.shape)
        ):
            base.known = KnownBase.decomposed(batch.pair.base[:1])
    return results + decided(len(results), count)


def _judged(batch: Batch, decisions: Decisions) -> list[Judged]:
    if batch.shared is not None:
        sketches = list(batch.shared.unit * batch.shared.directions.sketch(batch.pair.update))
    else:
        sketches = [
            unit * directions_of(matrix.name, base).sketch(batch.pair.select(at).update)
            for at, (matrix, base, unit) in enumerate(
                zip(batch.matrices, batch.pair.base, batch.units, strict=True)
            )
        ]
    rows = zip(batch.models, records_of(batch, decisions), sketches, strict=True)
    return [Judged(*row) for row in rows]


def records_of(batch: Batch, decisions: Decisions) -> list[AuditedMatrix]:
    """Return the records of a batch's matrices, in the units of the checkpoint."""
    k = decisions.values.shape[1]
    # Converted once: indexing tensors element-wise is slower than this loop.
    bounds = decisions.values, decisions.lower, decisions.upper
    columns = [column.tolist() for column in (*bounds, decisions.intruder, decisions.ambiguous)]
    base_values = decisions.base_values.tolist()
    base_norms = decisions.base_values[:, :k].norm(dim=-1).tolist()
    sizes = [UpdateSize(**numbers) for numbers in _by_matrix(decisions.update, fields(UpdateSize))]
    changes = _by_matrix(decisions.change, fields(decisions.change))
    similarity = decisions.similarity.float().cpu().numpy()
    records = []
    for i, (matrix, unit) in enumerate(zip(batch.matrices, batch.units, strict=True)):
        size = sizes[i]
        rows = zip(*(column[i] for column in columns), decisions.certificate[i], strict=True)
        vectors = [
            Vector(j, unit * value, (lower, upper), intruder, certificate, ambiguous)
            for j, (value, lower, upper, intruder, ambiguous, certificate) in enumerate(rows)
        ]
        records.append(
            AuditedMatrix(
                name=matrix.name,
                shape=matrix.shape,
                rank=matrix.rank,
                vectors=vectors,
                update=replace(size, frobenius=unit * size.frobenius, spectral=unit * size.spectral),
                base_singular_values=[unit * value for value in base_values[i]],
                similarity=similarity[i].copy(),
                subspaces=Subspaces.of(changes[i], matrix.shape, k, size.frobenius, base_norms[i]),
            )
        )
    return records


def _by_matrix(measured: object, columns: Sequence[Field[Any]]) -> list[dict[str, float]]:
    """Return the numbers of each matrix, from an object with a tensor of them all for each column."""
    names = [column.name for column in columns]
    values = [getattr(measured, name).tolist() for name in names]
    return [dict(zip(names, numbers, strict=True)) for numbers in zip(*values, strict=True)]


def _may_pay(pair: Pair, k: int, known: KnownBase | None) -> bool:
    """Return whether updates of bases could be decided in coordinates, and these are not decomposed yet."""
    is_whole = known is not None and known.whole() is not None
    return not is_whole and pair.rank is not None and fits_coordinates(pair.rank, k, pair.base.shape)


def _pays(with_intruders: float, shape: Sequence[int]) -> bool:
    """Return whether that number of further updates with intruders pays for decomposing a matrix of a shape."""
    return with_intruders * _PAID_BY_ONE >= min(shape[-2:]) ** 2


class AuditsAhead(MemoryCache):
    """A base cache for a model that is audited again and again, which decomposes the bases whole that are worth it.

    An update that brought intruders at one audit is taken to bring them at the next ones: updates grow while a model
    trains. What is decomposed stays in memory, 4 (m + n) min(m, n) bytes a matrix and ``_MOST_BYTES`` in all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self.expected = 0  # how many audits come after the ones so far, the next one included
        self._bytes = 0
        self._hard: dict[str, bool] = {}

    def __reduce__(self) -> "tuple[type[AuditsAhead], tuple[()]]":
        """Copy and send it without entries: they are computed again where they are needed."""
        return AuditsAhead, ()

    def before(
        self, pair: Pair, k: int, keys: Sequence[BaseKeys], known: KnownBase | None
    ) -> KnownBase | None:
        """Decompose the bases of a batch that is about to be decided, where that pays; return ``known`` otherwise."""
        if not _may_pay(pair, k, known):
            return known
        *_, m, n = pair.base.shape
        size = pair.base.element_size() * len(keys) * (m + n) * min(m, n)
        with self._lock:
            hard = sum(self._hard.get(key.whole, False) for key in keys) / len(keys)
            if not _pays(self.expected * hard, pair.base.shape) or self._bytes + size > _MOST_BYTES:
                return known
            self._bytes += size
        whole = KnownBase.decomposed(pair.base)
        for index, key in enumerate(keys):
            self.put(key.whole, whole.select(torch.tensor([index], device=pair.base.device)))
        return whole

    def after(self, decisions: Decisions, keys: Sequence[BaseKeys]) -> None:
        with self._lock:
            for key, names in zip(keys, decisions.certificate, strict=True):
                # Whether the matrix needed more than its nearest base vectors.
                self._hard[key.whole] = not {*names} <= {"overlap", NAME}
