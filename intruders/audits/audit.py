"""The audit of a model: its matrices read in small batches, decided, and collected in the base's order."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..checkpoints.opening.open import Opened, Source
from ..checkpoints.pairing.open_sides import open_sides
from ..checkpoints.pairing.pair_sides import pair_sides, with_rounded_base
from ..checkpoints.pairing.pairing import Pairing, Skipped
from ..checkpoints.stored.checkpoint import Checkpoint
from ..errors import SettingError
from ..system.callers_process import usual_settings
from ..system.progress import Progress, silent
from ..system.threads import run_side_by_side
from .audit_settings import AuditSettings, Compute, shown_settings
from .base_cache import CacheChoice
from .batches import Batch, NotJudged, of_one_model, read_batches
from .judge import decide_batch, records_of
from .kept_nats import KeptNats
from .result.audit_result import Audit
from .result.forgetting import Forgetting
from .result.records import AuditedMatrix


@usual_settings()
def audit(
    base: Source | None,
    tuned: Source | None = None,
    *,
    k: int = 10,
    epsilon: float = 0.5,
    include: str | Sequence[str] | None = (),
    exclude: str | Sequence[str] | None = (),
    include_embeddings: bool = False,
    split_fused: bool = False,
    exact: bool = False,
    skip_non_finite: bool = False,
    base_dtype: str | None = None,
    device: str = "auto",
    workers: int | None = None,
    cache: CacheChoice = True,
    progress: Progress = silent,
) -> Audit:
    """Find the intruder dimensions of a fine-tuned model.

    Let y_j be a left singular vector of a tuned matrix (m, n), j < k in descending order of singular value. It is an
    intruder dimension if ``max_i |<x_i, y_j>| < epsilon`` over all left singular vectors x_i of the base matrix
    (Shuttleworth et al. 2024).

    Args:
      base: Model before fine-tuning: a path, Hub id, demo model, module or state dict. None if ``tuned`` is an
        adapter that names its base.
      tuned: Model after fine-tuning, or its adapter. A PeftModel may be passed alone, as ``base``.
      k: Number of top vectors to examine per matrix (default: 10); fewer in a matrix that has fewer.
      epsilon: Threshold on the max cosine, in (0, 1] (default: 0.5).
      include: Shell patterns over the base's tensor names; only these are audited (default: all).
      exclude: Shell patterns of tensor names to skip (default: none).
      include_embeddings: Audit embeddings and output heads too (default: False).
      split_fused: Audit q, k and v of a fused weight as separate matrices (default: False).
      exact: Decompose every matrix in full (default: False). The decisions are the same, and all bounds are tight.
      skip_non_finite: Skip a matrix that contains NaN or infinity instead of raising (default: False).
      base_dtype: Round the base to "float16" or "bfloat16" first, and compare W with that (default: as stored). The
        paper's code does so with float16.
      device: "cpu", "cuda", "auto" or any name that torch knows (default: "auto").
      workers: Number of threads for small matrices (default: torch's). The answer does not depend on it.
      cache: Base cache, which speeds up the next audit of the same base: True for the user's cache folder (default),
        False for none, another folder or URL, or a :class:`DiskCache` or :class:`MemoryCache`.
      progress: Function called with (stage and intruders so far, matrices done, matrices in all).

    Returns:
      The audit: one record per matrix, with the bounds and the certificate of each examined vector.

    Raises:
      SettingError: ``k``, ``epsilon``, ``base_dtype``, ``device``, ``include`` or ``cache`` is out of range.
      CacheError: the folder given as ``cache`` can neither be written to nor read.
      CheckpointError: one of the models cannot be read.
      PairingError: the two do not belong together.
      NonFiniteError: a matrix contains NaN or infinity.

    Examples:
      The base below has the unit vectors as its left singular vectors. A strong rank-one update along (1, ..., 1) / 3
      becomes the tuned matrix's first singular vector, whose cosine with each of them is about 1/3:

      >>> import torch
      >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
      >>> direction = torch.ones(9, 1) / 3  # (9, 1), of length 1
      >>> tuned = {"up.weight": base["up.weight"] + 100 * direction @ direction.T}
      >>> result = audit(base, tuned, k=3, cache=False)
      >>> result.intruders, result.vectors
      (1, 3)
      >>> tuple(round(bound, 2) for bound in result.matrices[0].vectors[0].max_cosine)
      (0.35, 0.35)
      >>> result.matrices[0].similarity.shape  # (base vectors, tuned vectors)
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
        base_dtype=base_dtype,
    )
    compute = Compute(device, workers, cache)
    started = time.perf_counter()
    compute.torch_device()  # fail on a missing device before reading weights
    pairing = pair_sides(*open_sides(base, tuned, with_embeddings=include_embeddings), settings)
    audited = audit_pairing(pairing, settings, compute, progress)
    return replace(audited, seconds=time.perf_counter() - started)


def patterns(given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the patterns as a tuple; a string is one pattern, and None is none."""
    return (given,) if isinstance(given, str) else tuple(given or ())


def audit_pairing(
    pairing: Pairing,
    settings: AuditSettings,
    compute: Compute,
    progress: Progress = silent,
    kept: KeptNats | None = None,
) -> Audit:
    """Audit matrices that are paired already; ``kept`` is what predicts nats where it is not in the base cache."""
    started = time.perf_counter()
    device, cache = compute.torch_device(), compute.base_cache()
    kept = kept or KeptNats.at(cache, pairing.base)
    pairing = with_rounded_base(pairing, settings.base_dtype)
    results: dict[str, AuditedMatrix] = {}
    responses: dict[str, Tensor | None] = {}
    intruders = 0

    def judge(batch: Batch) -> list[AuditedMatrix]:
        # Records alone: whoever held the batch would keep its weights in memory while the next one is judged.
        records = records_of(batch, decide_batch(batch, settings.k, settings.epsilon, settings.exact, cache))
        computed = kept.responses(batch, [record.update.effective_rank for record in records])
        responses.update(zip((record.name for record in records), computed, strict=True))
        return records

    left_out = NotJudged(settings.skip_non_finite, skipped={0: []})
    skipped = left_out.skipped[0]
    batches = read_batches(of_one_model(pairing.pairs), device, left_out)
    with run_side_by_side(batches, judge, Batch.is_small, compute.workers) as judged:
        for records in judged:
            results |= {record.name: record for record in records}
            intruders += sum(record.intruders for record in records)
            progress(f"audit, {intruders:,} intruders", len(results) + len(skipped), len(pairing.pairs))
    matrices = [results[matrix.name] for matrix in pairing.pairs if matrix.name in results]
    ranks = {matrix.name: matrix.update.effective_rank for matrix in matrices}
    affected = {matrix.name for matrix in matrices if matrix.intruders}
    forgetting = kept.forgetting(pairing, responses, ranks, affected, device)
    left = [*pairing.skipped, *skipped]
    return audit_of(pairing, settings, matrices, left, time.perf_counter() - started, forgetting, device)


def audit_of(
    pairing: Pairing,
    settings: AuditSettings,
    matrices: list[AuditedMatrix],
    skipped: list[Skipped],
    seconds: float,
    forgetting: Forgetting | None,
    device: torch.device | None = None,
) -> Audit:
    """Return the audit of a pairing, with what it takes to make it again."""
    return Audit(
        base_source=pairing.base.source,
        tuned_source=pairing.tuned.source,
        tuned_kind=pairing.tuned.kind,
        base_hub=pairing.base.hub,
        tuned_hub=pairing.tuned.hub,
        k=settings.k,
        epsilon=settings.epsilon,
        exact=settings.exact,
        seconds=seconds,
        matrices=matrices,
        skipped=skipped,
        settings={
            **{n: v for n, v in shown_settings(settings).items() if n not in ("k", "epsilon", "exact")},
            **({} if device is None else {"device": str(device)}),
            "matched": list(pairing.matched),
        },
        forgetting=forgetting,
    )


class AuditedWhole(NamedTuple):
    """Two paired sides, their audit and its settings, for a change of weights as they are stored."""

    pairing: Pairing
    audit: Audit
    settings: AuditSettings


def audited_whole(
    base: Checkpoint,
    tuned: Opened,
    audit: AuditSettings | Audit | str | os.PathLike[str],
    compute: Compute,
    progress: Progress = silent,
) -> AuditedWhole:
    """Pair two sides and audit them, or take an audit that is given, for a change of weights as they are stored.

    SettingError if the audit judges the parts of fused weights one by one.
    """
    if isinstance(audit, str | os.PathLike):
        audit = Audit.load(audit)
    settings = AuditSettings.of(audit) if isinstance(audit, Audit) else audit
    if settings.split_fused:
        raise SettingError(
            f"the audit of '{tuned.source}' has the parts of fused weights as separate matrices (split_fused), and "
            "a change needs them in one; pass an audit without split_fused"
        )
    pairing = pair_sides(base, tuned, settings)
    if not isinstance(audit, Audit):
        audit = audit_pairing(pairing, settings, compute, progress)
    return AuditedWhole(pairing, audit, settings)
