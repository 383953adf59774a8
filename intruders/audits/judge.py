"""The decisions about a batch, as the records of its matrices; what is known of its bases is looked up and kept."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ..engine.decide import decide
from ..engine.decisions import Decisions
from .audit_settings import AuditSettings
from .base_cache import BaseCache, BaseKeys, look_up
from .batches import Batch, directions_of
from .result.records import AuditedMatrix, UpdateSize, Vector
from .result.subspaces import Subspaces
from .worth_decomposing import AuditsAhead, whole_where_it_pays


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

    results = []
    with base.lock:
        base.look_up(k, store)
        if base.known is None:  # what the first one learns is not computed again for each of the others
            results = decided(0, 1)
        if len(results) < count and batch.ahead is not None:
            base.known = whole_where_it_pays(batch.select([0]).pair, k, base.known, batch.ahead)
    if len(results) < count:
        results += decided(len(results), count)
    return results


def _judged(batch: Batch, decisions: Decisions) -> list[Judged]:
    if batch.shared is not None:
        directions = batch.shared.directions(batch.matrices[0].name)
        sketches = list(batch.shared.unit * directions.sketch(batch.pair.update))
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
    # Convert once: indexing tensors element-wise is slower than this loop.
    values, lower, upper = decisions.values.tolist(), decisions.lower.tolist(), decisions.upper.tolist()
    intruder, ambiguous = decisions.intruder.tolist(), decisions.ambiguous.tolist()
    base_values, base_norms = (
        decisions.base_values.tolist(),
        decisions.base_values[:, :k].norm(dim=-1).tolist(),
    )
    sizes = {field.name: getattr(decisions.update, field.name).tolist() for field in fields(UpdateSize)}
    changes = Subspaces.measured(decisions.change)
    similarity = decisions.similarity.float().cpu().numpy()
    records = []
    for i, (matrix, unit) in enumerate(zip(batch.matrices, batch.units, strict=True)):
        size = UpdateSize(**{name: column[i] for name, column in sizes.items()})
        vectors = [
            Vector(
                index=j,
                singular_value=unit * values[i][j],
                max_cosine=(lower[i][j], upper[i][j]),
                intruder=intruder[i][j],
                certificate=decisions.certificate[i][j],
                ambiguous=ambiguous[i][j],
            )
            for j in range(k)
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
