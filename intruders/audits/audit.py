"""The audit of a model: its matrices read in small batches, decided, and collected in the base's order."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.open import Opened, Source
from ..checkpoints.pairing.pair_sides import open_sides, pair_sides
from ..checkpoints.pairing.pairing import PairedMatrix, Pairing
from ..checkpoints.selection import Selection
from ..engine.decisions import Detection
from ..errors import SettingError
from ..system.progress import Progress, silent
from ..system.threads import run_side_by_side
from .audit_result import Audit
from .audit_settings import ANYWHERE, AuditSettings, Compute
from .base_cache import CacheChoice, judge_batch
from .batches import Batch, is_small_batch, read_batches
from .records import AuditedMatrix, UpdateSize, Vector
from .subspaces import Subspaces


def audit(
    base: Source | None,
    tuned: Source | None = None,
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
    progress: Progress = silent,
) -> Audit:
    """Finds the intruder dimensions that a fine-tuning left in every weight matrix of a model.

    A left singular vector y_j of a tuned matrix, j < k in descending order of singular value, is an intruder
    dimension when ``max_i |<x_i, y_j>| < epsilon`` over all left singular vectors x_i of the base matrix
    (Shuttleworth et al. 2024).

    Args:
      base: the model before fine-tuning: a path, hub id, alias, module or state dict. None where ``tuned`` is an
        adapter that names its base.
      tuned: the model after it, or its adapter. A PeftModel may be given alone, as ``base``.
      k: leading vectors examined in each matrix; fewer in a matrix that has fewer.
      epsilon: cosine below which a vector resembles no base vector, in (0, 1].
      include: shell patterns over the base's tensor names; only these are audited. All, when empty.
      exclude: shell patterns of names that are left out.
      include_embeddings: also audit embeddings and output heads.
      split_fused: judge q, k and v of a fused weight as matrices of their own.
      exact: decompose every matrix in full. The decisions are the same; every interval closes.
      skip_non_finite: list a matrix that holds NaN or infinity among the skipped, instead of refusing.
      device: "cpu", "cuda", "auto" or any name torch knows.
      workers: threads that judge small matrices side by side; as many as torch uses, when None. The answer is the same.
      cache: where to keep the base cache, which speeds up the next audit of the same base: True for the
        user's cache folder, False for nowhere, the path of another folder, or an object such as :class:`DiskCache` or
        :class:`MemoryCache`.
      progress: called with (what is being done and the intruders so far, matrices done, matrices in all).

    Raises:
      SettingError: ``k``, ``epsilon``, ``device``, ``include`` or ``cache`` is out of range.
      CacheError: the folder given as ``cache`` cannot be written to.
      CheckpointError: a side cannot be read. PairingError: the two do not belong together.
      NonFiniteError: a matrix holds NaN or infinity.

    The base below has the unit vectors as its left singular vectors. A strong rank-one update along (1, ..., 1) / 3
    becomes the tuned matrix's first singular vector, whose cosine with each of them is about 1/3:

    >>> import torch
    >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
    >>> direction = torch.ones(9, 1) / 3  # (9, 1), of length 1
    >>> tuned = {"up.weight": base["up.weight"] + 100 * direction @ direction.T}
    >>> found = audit(base, tuned, k=3, cache=False)
    >>> found.intruders, found.vectors
    (1, 3)
    >>> [round(bound, 2) for bound in found.matrices[0].vectors[0].max_cosine]
    [0.35, 0.35]
    >>> found.matrices[0].similarity.shape  # (base vectors, tuned vectors)
    (9, 3)
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
    return audit_sides(base, tuned, settings, Compute(device, workers, cache), progress)


def patterns(given: str | Sequence[str]) -> tuple[str, ...]:
    """Patterns of names; one alone may come without a list around it."""
    return (given,) if isinstance(given, str) else tuple(given)


def audit_sides(
    base: Source | None,
    tuned: Source | None,
    settings: AuditSettings,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> Audit:
    """As :func:`audit`, by settings that are values already."""
    started = time.perf_counter()
    compute.torch_device()  # one that is not there is refused before anything is read
    pairing = pair_sides(*open_sides(base, tuned), settings)
    found = audit_pairing(pairing, settings, compute, progress)
    return replace(found, seconds=time.perf_counter() - started)


def audit_pairing(
    pairing: Pairing,
    settings: AuditSettings,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> Audit:
    """The audit of matrices that are paired already."""
    started = time.perf_counter()
    device = compute.torch_device()
    store = None if settings.exact else compute.base_cache()
    skipped = list(pairing.skipped)
    results: dict[str, AuditedMatrix] = {}
    intruders = 0

    def judge(batch: Batch) -> list[AuditedMatrix]:
        # Records alone: whoever held the batch would keep its weights in memory while the next one is judged.
        found = judge_batch(batch, settings.k, settings.epsilon, settings.exact, store)
        return [
            record_of(matrix, found, index, batch.units[index]) for index, matrix in enumerate(batch.matrices)
        ]

    batches = read_batches(pairing.pairs, device, settings.skip_non_finite, skipped)
    for records in run_side_by_side(batches, judge, is_small_batch, compute.workers):
        results |= {record.name: record for record in records}
        intruders += sum(record.intruders for record in records)
        done = len(results) + len(skipped) - len(pairing.skipped)
        progress(f"audit, {intruders:,} intruders", done, len(pairing.pairs))
    return Audit(
        base_source=pairing.base_source,
        tuned_source=pairing.tuned_source,
        tuned_kind=pairing.tuned_kind,
        k=settings.k,
        epsilon=settings.epsilon,
        exact=settings.exact,
        seconds=time.perf_counter() - started,
        matrices=[results[matrix.name] for matrix in pairing.pairs if matrix.name in results],
        skipped=skipped,
        settings={
            **settings.part(Selection).as_dict(),
            "skip_non_finite": settings.skip_non_finite,
            "device": str(device),
            "matched": list(pairing.matched),
        },
    )


def audited_whole(
    base: Checkpoint,
    tuned: Opened,
    audit: AuditSettings | Audit | str | os.PathLike[str],
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> tuple[Pairing, Audit, AuditSettings]:
    """The matrices of two sides with their audit, made now or given, for a change of weights as they are stored.

    Raises:
      SettingError: the audit judges the parts of fused weights one by one.
    """
    if isinstance(audit, str | os.PathLike):
        audit = Audit.load(audit)
    settings = AuditSettings.of(audit) if isinstance(audit, Audit) else audit
    if settings.split_fused:
        raise SettingError(
            f"the audit of '{tuned.source}' judges the parts of fused weights one by one (split_fused); "
            "weights are changed whole: give an audit without it"
        )
    pairing = pair_sides(base, tuned, settings)
    if not isinstance(audit, Audit):
        audit = audit_pairing(pairing, settings, compute, progress)
    return pairing, audit, settings


def record_of(matrix: PairedMatrix, found: Detection, index: int, unit: float) -> AuditedMatrix:
    """One matrix's row of the result, in the units of the checkpoint."""
    update = found.update
    vectors = [
        Vector(
            index=j,
            singular_value=unit * float(found.values[index, j]),
            max_cosine=(float(found.lower[index, j]), float(found.upper[index, j])),
            intruder=bool(found.intruder[index, j]),
            certificate=found.certificate[index][j],
            ambiguous=bool(found.ambiguous[index, j]),
        )
        for j in range(found.values.shape[1])
    ]
    return AuditedMatrix(
        name=matrix.name,
        shape=matrix.shape,
        rank=matrix.rank,
        vectors=vectors,
        update=UpdateSize(
            frobenius=unit * float(update.frobenius[index]),
            spectral=unit * float(update.spectral[index]),
            effective_rank=float(update.effective_rank[index]),
            effective_rank_error=float(update.effective_rank_error[index]),
            stable_rank=float(update.stable_rank[index]),
        ),
        base_singular_values=[unit * float(value) for value in found.base_values[index]],
        similarity=found.similarity[index].float().cpu().numpy(),
        subspaces=Subspaces.of(
            found.change,
            index,
            matrix.shape,
            len(vectors),
            float(update.frobenius[index]),
            float(found.base_values[index, : len(vectors)].norm()),
        ),
    )
