"""The critical scale of every matrix of a model: the smallest update scale at which it has an intruder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from ...checkpoints.opening.open import Source
from ...checkpoints.pairing.open_sides import open_sides
from ...checkpoints.pairing.pair_sides import pair_sides
from ...engine.base_space import KnownBase
from ...engine.coordinate_certificate import coordinates_of
from ...engine.coordinate_projection import project_in_coordinates
from ...engine.coordinate_scales import settled_scales
from ...engine.decisions import Detection
from ...engine.projection import Projection, project
from ...engine.scale_search import ScaleWindow, first_window, largest_scale, search_end
from ...errors import SettingError
from ...system.callers_process import usual_settings
from ...system.progress import Progress, silent
from ...system.threads import run_side_by_side
from ..audit import judge_batch
from ..audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..base_cache import BaseCache, BaseKeys, MemoryCache, look_up
from ..batches import Batch, is_small_batch, read_batches
from .critical_scales_result import SLACK, WALK, CriticalScales, MatrixScale

Result = TypeVar("Result")

_MOST_STEPS = 40


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
    leans away from the base's (:mod:`intruders.engine.scale_search`): counts go up and down, and a narrower window
    may be missed. For a prepared base (:func:`intruders.prepare`), a low-rank update's critical scale is a root that is
    found to 1e-6 from the start of such a window, or that start, where no root is settled; narrower windows below it
    may be missed too.

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

    >>> import torch
    >>> base = {"up.weight": torch.diag(torch.arange(9.0, 0.0, -1.0))}  # (9, 9)
    >>> tuned = {"up.weight": base["up.weight"] + 100 * torch.ones(9, 9) / 9}
    >>> scales = critical_scales(base, tuned, compute=Compute(cache=False))
    >>> 0 < scales.largest < scales.matrices[0].measured < 1  # it has an intruder at the scale as trained, 1
    True
    """
    if isinstance(target, bool) or not isinstance(target, int) or target < 0:
        raise SettingError(f"target is {target!r}; expected a number of intruders, 0 or more")
    if audit.base_dtype is not None:
        raise SettingError(
            f"base_dtype is {audit.base_dtype!r}, and W0 + s D has one base, the one that is stored; leave it out"
        )
    started = time.perf_counter()
    device = compute.torch_device()
    pairing = pair_sides(*open_sides(base, tuned), audit)
    search = _ScaleSearch(audit.k, audit.epsilon, compute.base_cache() or MemoryCache())

    def each(stage: str, do: Callable[[Batch], Result]) -> list[Result]:
        results, done = [], 0
        batches = read_batches(pairing.pairs, device, audit.skip_non_finite, [])
        with run_side_by_side(
            batches, lambda batch: (len(batch.matrices), do(batch)), is_small_batch, compute.workers
        ) as judged:
            for size, result in judged:
                results.append(result)
                done += size
                progress(stage, done, len(pairing.pairs))
        return results

    scale_of: dict[str, MatrixScale] = {}
    projections: list[Projection] = []
    for scales, projected in each("measure", search.measured):
        projections += projected
        scale_of |= {scale.name: scale for scale in scales}
    matrices = [scale_of[matrix.name] for matrix in pairing.pairs if matrix.name in scale_of]
    largest = largest_scale(projections, [matrix.measured for matrix in matrices], target, SLACK)
    while (count := sum(each("check", partial(search.total, scale=largest)))) > target:
        largest *= 1 - SLACK
    return CriticalScales(
        pairing.base_source,
        pairing.tuned_source,
        audit.k,
        audit.epsilon,
        target,
        largest,
        count,
        matrices,
        time.perf_counter() - started,
        pairing.base_hub,
        pairing.tuned_hub,
    )


@dataclass(frozen=True)
class _ScaleSearch:
    """The scales of batches of matrices, and the audit's decisions at them."""

    k: int
    epsilon: float
    store: BaseCache

    def measured(self, batch: Batch) -> tuple[list[MatrixScale], list[Projection]]:
        """Return the scales of every matrix of a batch, and the projections of the search."""
        known = self._known(batch)
        whole = known.whole()
        coordinates = None if whole is None else coordinates_of(batch.pair, whole, self.k)
        if whole is None or coordinates is None:
            projections = project(batch.pair, known, self.k, self.epsilon)
        else:
            projections = project_in_coordinates(coordinates, whole, self.k, self.epsilon)
        windows = [first_window(projection) for projection in projections]
        first = [math.inf if window is None else window.start for window in windows]
        is_settled = [False] * len(first)
        if whole is not None and coordinates is not None:
            first, is_settled = settled_scales(coordinates, whole, self.k, self.epsilon, first)
        for i, window in enumerate(windows):
            if window is not None and not window.is_sure and not is_settled[i]:
                first[i] = self._settled(_single(batch, i), projections[i], window)
        scales = [
            MatrixScale(pair.name, pair.shape, scale, projection.predicted, search_end(projection))
            for pair, scale, projection in zip(batch.matrices, first, projections, strict=True)
        ]
        return scales, projections

    def total(self, batch: Batch, scale: float) -> int:
        """Count the intruders of a batch at one scale, by the audit's certificates."""
        return int(self._judged(_at(batch, [scale] * len(batch.matrices))).intruder.sum())

    def _settled(self, batch: Batch, projection: Projection, window: ScaleWindow) -> float:
        """Find the first scale with an intruder of one matrix whose projection leaves a doubt."""
        is_there = self.total(batch, window.inside) > 0
        if projection.is_complete:
            if is_there:
                return window.start
            later = first_window(projection, window.inside, is_strict=True)
            return math.inf if later is None else later.start
        # Directions that are not followed move the answer: it is looked for with the audit alone, in steps.
        scale, step = window.inside, 1 - WALK if is_there else 1 + WALK
        for _ in range(_MOST_STEPS):
            before, scale = scale, scale * step
            if (self.total(batch, scale) > 0) != is_there:
                return math.sqrt(before * scale)
        return scale if is_there else math.inf

    def _known(self, batch: Batch) -> KnownBase:
        """Return what is known of the bases: from an earlier audit, or by an audit of the unchanged bases."""
        keys = [BaseKeys.of(base, self.k) for base in batch.pair.base]
        kept = look_up(self.store, keys, batch.pair.base.device)
        if kept is not None:
            return kept
        known = self._judged(_at(batch, [0.0] * len(batch.matrices))).known
        assert known is not None
        return known

    def _judged(self, batch: Batch) -> Detection:
        return judge_batch(batch, self.k, self.epsilon, False, self.store)


def _single(batch: Batch, index: int) -> Batch:
    chosen = torch.tensor([index], device=batch.pair.base.device)
    return Batch([batch.matrices[index]], batch.pair.select(chosen), [batch.units[index]])


def _at(batch: Batch, scales: Sequence[float]) -> Batch:
    """Return the same matrices with each update at its own scale."""
    return Batch(batch.matrices, batch.pair.scaled(scales), batch.units)
