"""The critical scale of every matrix of a model: the smallest update scale at which it has an intruder."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from ...checkpoints.opening.open import Source
from ...checkpoints.pairing.open_sides import open_sides
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.pairing.pairing import PairedMatrix, Pairing
from ...engine.scale_search import largest_scale, search_end
from ...errors import SettingError
from ...settings.numbers import is_whole
from ...system.callers_process import usual_settings
from ...system.progress import Progress, silent
from ...system.threads import run_side_by_side
from ..audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..base_cache import MemoryCache
from ..batches import Batch, NotJudged, of_one_model, read_batches
from .batch_scales import SLACK, BatchScales, FollowedGroup, FollowedRoom, joined
from .critical_scales_result import CriticalScales, MatrixScale

Result = TypeVar("Result")


@usual_settings()
def critical_scales(
    base: Source | None,
    tuned: Source | None = None,
    *,
    audit: AuditSettings = AS_USUAL,
    target: int = 0,
    compute: Compute = ANYWHERE,
    progress: Progress = silent,
) -> CriticalScales:
    """Measure and predict the update scale at which intruders appear, per matrix and for the model.

    For an adapter s is a multiple of its scale; for a full fine-tuning it runs along W0 + s (W - W0), as weight
    interpolation does (WiSE-FT; Wortsman et al. 2022). The prediction is ``theta / sigma_1(D)``, with theta of
    :mod:`intruders.linalg.spiked_threshold`. Scales are looked at in steps of 1 % once one of the k leading vectors
    leans away from the base's, and of a quarter of that where one is nearly an intruder
    (:mod:`intruders.engine.scale_search`): counts go up and down, and a narrower window may be missed. An audit
    confirms every window within 2 % of its start. For a prepared base (:func:`intruders.prepare`), a low-rank update's
    critical scale is a root that is found to 1e-6.

    Args:
      base: as in :func:`intruders.audit`.
      tuned: as in :func:`intruders.audit`.
      audit: settings of the audits that decide; those are never ``exact``.
      target: ``largest`` is the largest scale at which the model has at most this number of intruders.
      compute: where it is computed.
      progress: called with (what is being done, matrices done, in all).

    Returns:
      The critical scale of each matrix, measured and predicted, and the largest scale that meets ``target``.

    Raises:
      SettingError: a setting is out of range.
      CheckpointError: one of the models cannot be read.
      PairingError: the two do not belong together.
      NonFiniteError: a matrix contains NaN or infinity.

    Examples:
      >>> import torch
      >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
      >>> tuned = {"up.weight": base["up.weight"] + 100 * torch.ones(9, 9) / 9}
      >>> scales = critical_scales(base, tuned, compute=Compute(cache=False))
      >>> 0 < scales.largest < scales.matrices[0].measured < 1  # it has an intruder at the scale as trained, 1
      True
    """
    if not is_whole(target) or target < 0:
        raise SettingError(f"target is {target!r}; expected a number of intruders, 0 or more")
    target = int(target)
    if audit.base_dtype is not None:
        raise SettingError(
            f"base_dtype is {audit.base_dtype!r}, and W0 + s D has one base, the one that is stored; leave it out"
        )
    started = time.perf_counter()
    device = compute.torch_device()
    pairing = pair_sides(*open_sides(base, tuned, with_embeddings=audit.include_embeddings), audit)
    scales_of = BatchScales(audit.k, audit.epsilon, compute.base_cache() or MemoryCache(), FollowedRoom())
    search = _Search(pairing, scales_of, device, audit, compute, progress)
    measured = search.each("measure", scales_of.measured, pairing.pairs)
    scales = {name: scale for part in measured for name, scale in part.scales.items()}
    groups = joined([part.group for part in measured if part.group is not None])
    projections = {name: value for part in measured for name, value in part.projections.items()}
    doubted: dict[str, float] = {}
    for of_group, starts in search.each_group(groups, scales_of.settled):
        scales, doubted = scales | of_group, doubted | starts

    def resolved(batch: Batch) -> dict[str, float]:
        own = {pair.name: doubted[pair.name] for pair in batch.matrices}
        return scales_of.by_audits(batch, projections, own)

    for of_batch in search.each(
        "measure", resolved, [pair for pair in pairing.pairs if pair.name in doubted]
    ):
        scales |= of_batch
    matrices = [
        MatrixScale(
            name=pair.name,
            shape=pair.shape,
            measured=scales[pair.name],
            predicted=projection.predicted,
            searched=search_end(projection),
        )
        for pair in pairing.pairs
        if (projection := projections.get(pair.name)) is not None
    ]
    largest = largest_scale(
        list(projections.values()), [matrix.measured for matrix in matrices], target, SLACK
    )
    while (count := search.counted(groups, largest)) > target:
        largest *= 1 - SLACK
    return CriticalScales(
        base_source=pairing.base_source,
        tuned_source=pairing.tuned_source,
        k=audit.k,
        epsilon=audit.epsilon,
        target=target,
        largest=largest,
        intruders_at_largest=count,
        matrices=matrices,
        seconds=time.perf_counter() - started,
        base_hub=pairing.base_hub,
        tuned_hub=pairing.tuned_hub,
    )


@dataclass(frozen=True)
class _Search:
    """The search for the critical scales of a pairing: its batches and groups, side by side."""

    pairing: Pairing
    scales_of: BatchScales
    device: torch.device
    audit: AuditSettings
    compute: Compute
    progress: Progress

    def each(self, stage: str, do: Callable[[Batch], Result], pairs: Sequence[PairedMatrix]) -> list[Result]:
        """Do something with every batch of some of the pairs; those left out count as done."""
        in_all = len(self.pairing.pairs)
        results, done = [], in_all - len(pairs)
        batches = read_batches(of_one_model(pairs), self.device, NotJudged(self.audit.skip_non_finite))
        with run_side_by_side(
            batches, lambda batch: (len(batch.matrices), do(batch)), Batch.is_small, self.compute.workers
        ) as judged:
            for size, result in judged:
                results.append(result)
                done += size
                self.progress(stage, done, in_all)
        return results

    def each_group(
        self, groups: Sequence[FollowedGroup], do: Callable[[FollowedGroup], Result]
    ) -> list[Result]:
        """Do something with every group."""
        with run_side_by_side(groups, do, lambda _: True, self.compute.workers) as done:
            return list(done)

    def counted(self, groups: Sequence[FollowedGroup], scale: float) -> int:
        """Count the intruders of the model at a scale: of groups in coordinates, and what is left open by audits."""
        count, decided = 0, set[str]()
        for of_group, names in self.each_group(groups, partial(self.scales_of.counted, scale=scale)):
            count, decided = count + of_group, decided | names
        others = [pair for pair in self.pairing.pairs if pair.name not in decided]
        return count + sum(self.each("check", partial(self.scales_of.total, scale=scale), others))
