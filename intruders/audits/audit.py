"""The audit of a model: its matrices streamed in small stacks, judged, and collected in the base's order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..checkpoints.open import Source
from ..checkpoints.pairing.pair_sides import open_sides, pair_sides
from ..checkpoints.pairing.pairing import PairedMatrix, Pairing
from ..engine.decisions import Detection
from ..system.threads import run_side_by_side
from .audit_result import Audit
from .audit_settings import check_epsilon, check_k, check_workers, choose_device
from .base_cache import BaseCache, CacheChoice, judge_batch, store_of_bases
from .batches import Batch, is_small_batch, read_batches
from .records import AuditedMatrix, UpdateSize, Vector

Progress = Callable[[int, int, int], None]


def audit(
    base: Source | None,
    tuned: Source | None = None,
    *,
    k: int = 10,
    epsilon: float = 0.5,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    include_embeddings: bool = False,
    split_fused: bool = False,
    exact: bool = False,
    skip_non_finite: bool = False,
    device: str = "auto",
    workers: int | None = None,
    cache: CacheChoice = True,
    progress: Progress | None = None,
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
      cache: where to keep what is learnt of the base's matrices for the next audit of the same base: True for the
        user's cache folder, False for nowhere, the path of another folder, or an object such as :class:`DiskCache` or
        :class:`MemoryCache`.
      progress: called with (matrices done, matrices in all, intruders so far).

    Raises:
      SettingError: ``k``, ``epsilon``, ``device``, ``include`` or ``cache`` is out of range.
      CacheError: the folder given as ``cache`` cannot be written to.
      CheckpointError: a side cannot be read. PairingError: the two do not belong together.
      NonFiniteError: a matrix holds NaN or infinity.
    """
    check_k(k)
    check_epsilon(epsilon)
    place = choose_device(device)
    check_workers(workers)
    started = time.perf_counter()
    base_side, tuned_side = open_sides(base, tuned)
    pairing = pair_sides(base_side, tuned_side, include, exclude, include_embeddings, split_fused)
    found = audit_pairing(
        pairing,
        k=k,
        epsilon=epsilon,
        exact=exact,
        skip_non_finite=skip_non_finite,
        place=place,
        workers=workers,
        store=None if exact else store_of_bases(cache),
        progress=progress,
    )
    settings = {
        "include": list(include),
        "exclude": list(exclude),
        "include_embeddings": include_embeddings,
        "split_fused": split_fused,
        **found.settings,
    }
    return replace(found, settings=settings, seconds=time.perf_counter() - started)


def audit_pairing(
    pairing: Pairing,
    *,
    k: int,
    epsilon: float,
    exact: bool = False,
    skip_non_finite: bool = False,
    place: torch.device,
    workers: int | None = None,
    store: BaseCache | None = None,
    progress: Progress | None = None,
) -> Audit:
    """The audit of matrices that are paired already; settings are as :func:`audit` takes and checks them."""
    started = time.perf_counter()
    skipped = list(pairing.skipped)
    results: dict[str, AuditedMatrix] = {}
    intruders = 0

    def judge(group: Batch) -> list[AuditedMatrix]:
        # Records alone: whoever held the group would keep its weights in memory while the next one is judged.
        found = judge_batch(group, k, epsilon, exact, store)
        return [
            _record(matrix, found, index, group.scales[index]) for index, matrix in enumerate(group.pairs)
        ]

    groups = read_batches(pairing.pairs, place, skip_non_finite, skipped)
    for records in run_side_by_side(groups, judge, is_small_batch, workers):
        results |= {record.name: record for record in records}
        intruders += sum(record.intruders for record in records)
        if progress is not None:
            done = len(results) + len(skipped) - len(pairing.skipped)
            progress(done, len(pairing.pairs), intruders)
    return Audit(
        base_source=pairing.base_source,
        tuned_source=pairing.tuned_source,
        tuned_kind=pairing.tuned_kind,
        k=k,
        epsilon=epsilon,
        exact=exact,
        seconds=time.perf_counter() - started,
        matrices=[results[matrix.name] for matrix in pairing.pairs if matrix.name in results],
        skipped=skipped,
        settings={
            "skip_non_finite": skip_non_finite,
            "device": str(place),
            "matched": list(pairing.matched),
        },
    )


def _record(matrix: PairedMatrix, found: Detection, index: int, scale: float) -> AuditedMatrix:
    """One matrix's row of the result, in the units of the checkpoint."""
    update = found.update
    vectors = [
        Vector(
            index=j,
            singular_value=scale * float(found.values[index, j]),
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
            frobenius=scale * float(update.frobenius[index]),
            spectral=scale * float(update.spectral[index]),
            effective_rank=float(update.effective_rank[index]),
            effective_rank_error=float(update.effective_rank_error[index]),
            stable_rank=float(update.stable_rank[index]),
        ),
        base_singular_values=[scale * float(value) for value in found.base_values[index]],
        similarity=found.similarity[index].float().cpu().numpy(),
    )
