"""The critical scale of every matrix of a model: the smallest update scale at which it has an intruder."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from ...checkpoints.opening.open import Source
from ...checkpoints.pairing.open_sides import open_sides
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.pairing.pairing import PairedMatrix
from ...engine.base_space import KnownBase
from ...engine.coordinate_certificate import coordinates_of
from ...engine.coordinate_projection import project_in_coordinates
from ...engine.coordinate_scales import Followed, count_at, settled_scales
from ...engine.decisions import Detection
from ...engine.projection import Projection, project
from ...engine.scale_search import (
    ScaleWindow,
    first_starts,
    first_window,
    largest_scale,
    search_end,
    windows_from,
)
from ...errors import SettingError
from ...system.callers_process import usual_settings
from ...system.progress import Progress, silent
from ...system.threads import run_side_by_side
from ..audit import judge_batch
from ..audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..base_cache import BaseCache, BaseKeys, MemoryCache, look_up
from ..batches import Batch, is_small_batch, read_batches
from .critical_scales_result import SLACK, WALK, CriticalScales, MatrixScale
from .followed_group import FollowedGroup, FollowedRoom, joined

Result = TypeVar("Result")

# Windows of one projection that audits look at, and steps of a search by audits alone.
_MOST_WINDOWS, _MOST_STEPS = 4, 40
# How often a step is halved.
_BISECTIONS = 2


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
    search = _ScaleSearch(audit.k, audit.epsilon, compute.base_cache() or MemoryCache(), FollowedRoom())

    def each(
        stage: str, do: Callable[[Batch], Result], pairs: Sequence[PairedMatrix] = pairing.pairs
    ) -> list[Result]:
        results, done = [], len(pairing.pairs) - len(pairs)
        batches = read_batches(pairs, device, audit.skip_non_finite, [])
        with run_side_by_side(
            batches, lambda batch: (len(batch.matrices), do(batch)), is_small_batch, compute.workers
        ) as judged:
            for size, result in judged:
                results.append(result)
                done += size
                progress(stage, done, len(pairing.pairs))
        return results

    def each_group(do: Callable[[FollowedGroup], Result]) -> list[Result]:
        with run_side_by_side(groups, do, lambda _: True, compute.workers) as done:
            return list(done)

    def counted(scale: float) -> int:
        """Count the intruders of the model at a scale: in coordinates, and what is left open by audits."""
        count, decided = 0, set[str]()
        for of_group, names in each_group(partial(search.counted, scale=scale)):
            count, decided = count + of_group, decided | names
        others = [pair for pair in pairing.pairs if pair.name not in decided]
        return count + sum(each("check", partial(search.total, scale=scale), others))

    measured = each("measure", search.measured)
    scales = {name: scale for part in measured for name, scale in part.scales.items()}
    groups = joined([part.group for part in measured if part.group is not None])
    projections = {name: value for part in measured for name, value in part.projections.items()}
    doubted: dict[str, float | None] = {}
    for of_group, starts in each_group(search.settled):
        scales, doubted = scales | of_group, doubted | starts

    def resolved(batch: Batch) -> dict[str, float]:
        own = {pair.name: doubted[pair.name] for pair in batch.matrices}
        return search.by_windows(batch, projections, own)

    for of_batch in each("measure", resolved, [pair for pair in pairing.pairs if pair.name in doubted]):
        scales |= of_batch
    matrices = [
        MatrixScale(pair.name, pair.shape, scales[pair.name], projection.predicted, search_end(projection))
        for pair in pairing.pairs
        if (projection := projections.get(pair.name)) is not None
    ]
    largest = largest_scale(
        list(projections.values()), [matrix.measured for matrix in matrices], target, SLACK
    )
    while (count := counted(largest)) > target:
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
class _MeasuredBatch:
    """What is known of a batch: projections by name, critical scales, or the group that is to be followed."""

    projections: dict[str, Projection]
    scales: dict[str, float]
    group: FollowedGroup | None = None


@dataclass(frozen=True)
class _ScaleSearch:
    """The scales of batches of matrices, and the audit's decisions at them."""

    k: int
    epsilon: float
    store: BaseCache
    room: FollowedRoom

    def measured(self, batch: Batch) -> _MeasuredBatch:
        """Measure a batch; what can be followed in coordinates waits for others of its kind, if there is room."""
        known, names = self._known(batch), [pair.name for pair in batch.matrices]
        whole = known.whole()
        coordinates = None if whole is None else coordinates_of(batch.pair, whole, self.k)
        if whole is None or coordinates is None:
            projected = project(batch.pair, known, self.k, self.epsilon)
            projections = dict(zip(names, projected, strict=True))
            starts = dict(zip(names, first_starts(projected), strict=True))
            return _MeasuredBatch(projections, self.by_windows(batch, projections, starts))
        projected, near = project_in_coordinates(coordinates, whole, self.k, self.epsilon)
        projections = dict(zip(names, projected, strict=True))
        group = FollowedGroup(names, projected, Followed(coordinates, whole.off, near, whole.shape[-2]))
        if self.room.takes(group):
            return _MeasuredBatch(projections, {}, group)
        settled, starts = self.settled(group)
        return _MeasuredBatch(projections, settled | self.by_windows(batch, projections, starts))

    def settled(self, group: FollowedGroup) -> tuple[dict[str, float], dict[str, float | None]]:
        """Find critical scales of a group, by name; also return where windows begin that no root was found near."""
        starts = first_starts(group.projections)
        first = [math.inf if start is None else start for start in starts]
        roots, is_settled = settled_scales(group.followed, self.k, self.epsilon, first)
        scales: dict[str, float] = {}
        doubted: dict[str, float | None] = {}
        for name, start, root, is_root in zip(group.names, starts, roots, is_settled, strict=True):
            if is_root or start is None:
                scales[name] = root
            else:
                doubted[name] = start
        return scales, doubted

    def by_windows(
        self, batch: Batch, projections: Mapping[str, Projection], starts: Mapping[str, float | None]
    ) -> dict[str, float]:
        """Find the critical scales of a batch from the windows that begin there, each of which an audit confirms."""
        scales = dict.fromkeys(starts, math.inf)
        begin = {name: start for name, start in starts.items() if start is not None}
        if not begin:
            return scales
        windows = windows_from([projections[name] for name in begin], list(begin.values()))
        indices = [index for index, pair in enumerate(batch.matrices) if pair.name in begin]
        window_of = dict(zip(begin, windows, strict=True))
        some = _chosen(batch, indices)
        inside = [window_of[pair.name].inside for pair in some.matrices]
        is_there = self._judged(_at(some, inside)).intruder.any(-1).tolist()
        for index, (pair, is_confirmed) in enumerate(zip(some.matrices, is_there, strict=True)):
            window = window_of[pair.name]
            scales[pair.name] = (
                window.start
                if is_confirmed and projections[pair.name].is_complete
                else self._by_audits(_chosen(some, [index]), projections[pair.name], window)
            )
        return scales

    def counted(self, group: FollowedGroup, scale: float) -> tuple[int, set[str]]:
        """Count the intruders of a group at one scale, of the matrices that can be decided; also return their names."""
        counts, is_open = count_at(group.followed, self.k, self.epsilon, scale)
        decided = {
            name for name, left_open in zip(group.names, is_open.tolist(), strict=True) if not left_open
        }
        return int(counts[~is_open].sum()), decided

    def total(self, batch: Batch, scale: float) -> int:
        """Count the intruders of a batch at one scale, by the audit's certificates."""
        return int(self._judged(_at(batch, [scale] * len(batch.matrices))).intruder.sum())

    def _by_audits(self, batch: Batch, projection: Projection, window: ScaleWindow) -> float:
        """Find the first scale with an intruder of one matrix whose projection was wrong, or is not complete."""
        if projection.is_complete:
            for _ in range(_MOST_WINDOWS):
                later = first_window(projection, window.inside * (1 + SLACK), is_strict=True)
                if later is None:
                    return math.inf
                window = later
                if self.total(batch, window.inside) > 0:
                    return window.start
        # Directions that are not followed move the answer, or the projection was wrong several times: it is looked for
        # with the audit alone, in steps.
        scale, is_there = window.inside, self.total(batch, window.inside) > 0
        step = 1 - WALK if is_there else 1 + WALK
        for _ in range(_MOST_STEPS):
            before, scale = scale, scale * step
            if (self.total(batch, scale) > 0) != is_there:
                return self._bisected(batch, min(before, scale), max(before, scale))
        return scale if is_there else math.inf

    def _bisected(self, batch: Batch, low: float, high: float) -> float:
        """Return a scale with an intruder of one matrix, that is nearer to one without."""
        for _ in range(_BISECTIONS):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if self.total(batch, middle) > 0 else (middle, high)
        return high

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


def _chosen(batch: Batch, indices: Sequence[int]) -> Batch:
    chosen = torch.tensor(indices, device=batch.pair.base.device)
    units = [batch.units[index] for index in indices]
    return Batch([batch.matrices[index] for index in indices], batch.pair.select(chosen), units)


def _at(batch: Batch, scales: Sequence[float]) -> Batch:
    """Return the same matrices with each update at its own scale."""
    return Batch(batch.matrices, batch.pair.scaled(scales), batch.units)
