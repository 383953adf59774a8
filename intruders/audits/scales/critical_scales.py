"""The critical scale of every matrix of a model: the smallest update scale at which it has an intruder."""

import math
import threading
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

import torch

from ...checkpoints.opening.open import Source
from ...checkpoints.pairing.open_sides import open_sides
from ...checkpoints.pairing.pair_sides import pair_sides
from ...checkpoints.pairing.pairing import PairedMatrix, Pairing
from ...engine.certificates import coordinates_of, fits_coordinates
from ...engine.coordinate_scales import Followed, count_at, project_in_coordinates, settled_scales
from ...engine.decisions import Decisions
from ...engine.known_base import KnownBase
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
from ...linalg.low_rank import LowRank
from ...settings.numbers import is_whole
from ...system.callers_process import usual_settings
from ...system.progress import Progress, silent
from ...system.threads import run_side_by_side
from ..audit_settings import ANYWHERE, AS_USUAL, AuditSettings, Compute
from ..base_cache import BaseCache, BaseKeys, MemoryCache, look_up
from ..batches import Batch, NotJudged, of_one_model, read_batches
from ..judge import decide_batch
from .critical_scales_result import CriticalScales, MatrixScale

Result = TypeVar("Result")

# The model's answer keeps this distance below the first scale with an intruder too many.
SLACK = 0.01
# Steps by which the audit alone looks for the critical scale of an update with many directions.
WALK = 0.03
# Windows of one projection that audits look at, and steps of a search by audits alone.
_MOST_WINDOWS, _MOST_STEPS = 4, 40
# How often a step is halved.
_BISECTIONS = 2
# Smaller sides up to which a base is decomposed for a low-rank update: a search in its coordinates is exact. With the
# decomposition it takes 0.3 of the time of a search on projections at 320, and 0.9 at 576.
_WHOLE_UP_TO = 640
# Memory of what is followed and not read again, and matrices of one shape that are followed together.
_KEPT_BYTES = 256 * 2**20
_TOGETHER = 32


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
    search = _Search(pairing, device, audit, compute, progress)
    scales = search.scales()
    projections = search.projections
    matrices = [
        MatrixScale(
            name=pair.name,
            shape=pair.shape,
            measured=scales[pair.name],
            predicted=projections[pair.name].predicted,
            searched=search_end(projections[pair.name]),
        )
        for pair in pairing.pairs
        if pair.name in projections
    ]
    largest = largest_scale(
        list(projections.values()), [matrix.measured for matrix in matrices], target, SLACK
    )
    while (count := search.count(largest)) > target:
        largest *= 1 - SLACK
    return CriticalScales(
        base_source=pairing.base.source,
        tuned_source=pairing.tuned.source,
        k=audit.k,
        epsilon=audit.epsilon,
        target=target,
        largest=largest,
        intruders_at_largest=count,
        matrices=matrices,
        seconds=time.perf_counter() - started,
        base_hub=pairing.base.hub,
        tuned_hub=pairing.tuned.hub,
    )


@dataclass(frozen=True)
class _Group:
    names: list[str]
    projections: list[Projection]
    followed: Followed

    @classmethod
    def joined(cls, parts: "Sequence[_Group]") -> "_Group":
        """Join groups of one kind: small problems cost less in one call."""
        names = [name for part in parts for name in part.names]
        projections = [projection for part in parts for projection in part.projections]
        return cls(names, projections, Followed.together([part.followed for part in parts]))


class _Search:
    """The search for the critical scales of a pairing, in batches that are looked at side by side.

    In the coordinates of bases that are known whole it is exact. Otherwise projections tell where to look, and audits
    decide.
    """

    def __init__(
        self,
        pairing: Pairing,
        device: torch.device,
        audit: AuditSettings,
        compute: Compute,
        progress: Progress,
    ) -> None:
        self.projections: dict[str, Projection] = {}  # by name of the matrix
        self._pairing, self._device, self._progress = pairing, device, progress
        self._audit, self._workers = audit, compute.workers
        self._store: BaseCache = compute.base_cache() or MemoryCache()
        self._groups: list[_Group] = []
        self._room, self._lock = _KEPT_BYTES, threading.Lock()

    def scales(self) -> dict[str, float]:
        pairs = self._pairing.pairs
        scales: dict[str, float] = {}
        kinds: dict[object, list[list[_Group]]] = {}
        for of_batch, group in self._each("measure", self._measured, pairs):
            scales |= of_batch
            if group is not None:
                of_kind = kinds.setdefault(group.followed.kind, [[]])
                if sum(len(part.names) for part in of_kind[-1]) >= _TOGETHER:
                    of_kind.append([])
                of_kind[-1].append(group)
        self._groups = [_Group.joined(parts) for of_kind in kinds.values() for parts in of_kind]
        doubted: dict[str, float] = {}
        for of_group, starts in self._each_group(self._settled):
            scales |= of_group
            doubted |= starts
        left = [pair for pair in pairs if pair.name in doubted]
        for of_batch in self._each("measure", partial(self._by_audits, starts=doubted), left):
            scales |= of_batch
        return scales

    def count(self, scale: float) -> int:
        """Count the intruders of the model at a scale: of groups in coordinates, and what is left open by audits."""
        count, decided = 0, set[str]()
        for of_group, names in self._each_group(partial(self._counted, scale=scale)):
            count, decided = count + of_group, decided | names
        others = [pair for pair in self._pairing.pairs if pair.name not in decided]
        return count + sum(self._each("check", partial(self._total, scale=scale), others))

    def _each(self, stage: str, do: Callable[[Batch], Result], pairs: Sequence[PairedMatrix]) -> list[Result]:
        """Do something with every batch of some of the pairs; those left out count as done."""
        in_all = len(self._pairing.pairs)
        results, done = [], in_all - len(pairs)
        batches = read_batches(of_one_model(pairs), self._device, NotJudged(self._audit.skip_non_finite))
        with run_side_by_side(
            batches, lambda batch: (len(batch.matrices), do(batch)), Batch.is_small, self._workers
        ) as judged:
            for size, result in judged:
                results.append(result)
                done += size
                self._progress(stage, done, in_all)
        return results

    def _each_group(self, do: Callable[[_Group], Result]) -> list[Result]:
        with run_side_by_side(self._groups, do, lambda _: True, self._workers) as done:
            return list(done)

    def _measured(self, batch: Batch) -> tuple[dict[str, float], _Group | None]:
        """Measure a batch; what can be followed in coordinates waits for others of its kind, if there is room."""
        k, epsilon = self._audit.k, self._audit.epsilon
        names = [pair.name for pair in batch.matrices]
        known = self._known(batch)
        whole = known.whole()
        coordinates = None if whole is None else coordinates_of(batch.pair, whole, k)
        if whole is None or coordinates is None:
            projected = project(batch.pair, known, k, epsilon)
            self.projections.update(zip(names, projected, strict=True))
            starts = dict(zip(names, first_starts(projected), strict=True))
            begun = {name: start for name, start in starts.items() if start is not None}
            return dict.fromkeys(names, math.inf) | self._by_audits(batch, begun), None
        projected, near = project_in_coordinates(coordinates, whole, k, epsilon)
        self.projections.update(zip(names, projected, strict=True))
        group = _Group(names, projected, Followed(coordinates, whole.off, near))
        with self._lock:
            has_room = group.followed.nbytes <= self._room
            self._room -= group.followed.nbytes if has_room else 0
        if has_room:
            return {}, group
        scales, doubted = self._settled(group)
        return scales | self._by_audits(batch, doubted), None

    def _settled(self, group: _Group) -> tuple[dict[str, float], dict[str, float]]:
        """Find critical scales of a group, by name; also return where windows begin that no root was found near."""
        starts = first_starts(group.projections)
        first = [math.inf if start is None else start for start in starts]
        roots, is_settled = settled_scales(group.followed, self._audit.k, self._audit.epsilon, first)
        scales: dict[str, float] = {}
        doubted: dict[str, float] = {}
        for name, start, root, is_root in zip(group.names, starts, roots, is_settled, strict=True):
            if is_root or start is None:
                scales[name] = root
            else:
                doubted[name] = start
        return scales, doubted

    def _by_audits(self, batch: Batch, starts: Mapping[str, float]) -> dict[str, float]:
        """Find the critical scales of those of a batch whose windows begin there; an audit confirms each window.

        A window of a projection that is not complete confirms nothing.
        """
        batch = _named(batch, starts)
        names = [pair.name for pair in batch.matrices]
        if not names:
            return {}
        projections = [self.projections[name] for name in names]
        windows = windows_from(projections, [starts[name] for name in names])
        is_there = self._decided(_at(batch, [window.inside for window in windows])).intruder.any(-1)
        return {
            name: window.start
            if is_confirmed and projection.is_complete
            else self._sought(_named(batch, [name]), projection, window)
            for name, projection, window, is_confirmed in zip(
                names, projections, windows, is_there.tolist(), strict=True
            )
        }

    def _sought(self, batch: Batch, projection: Projection, window: ScaleWindow) -> float:
        """Find the first scale with an intruder of a matrix whose projection was wrong, or is not complete."""
        if projection.is_complete:
            for _ in range(_MOST_WINDOWS):
                later = first_window(projection, window.inside * (1 + SLACK), is_strict=True)
                if later is None:
                    return math.inf
                window = later
                if self._total(batch, window.inside) > 0:
                    return window.start
        # Directions that are not followed move the answer, or the projection was wrong several times: it is looked for
        # with the audit alone, in steps.
        scale, is_there = window.inside, self._total(batch, window.inside) > 0
        step = 1 - WALK if is_there else 1 + WALK
        for _ in range(_MOST_STEPS):
            before, scale = scale, scale * step
            if (self._total(batch, scale) > 0) != is_there:
                low, high = sorted((before, scale))
                for _ in range(_BISECTIONS):
                    middle = math.sqrt(low * high)
                    low, high = (low, middle) if self._total(batch, middle) > 0 else (middle, high)
                return high
        return scale if is_there else math.inf

    def _counted(self, group: _Group, scale: float) -> tuple[int, set[str]]:
        """Count the intruders of a group at one scale, of the matrices that can be decided; also return their names."""
        counts, is_open = count_at(group.followed, self._audit.k, self._audit.epsilon, scale)
        decided = {
            name for name, left_open in zip(group.names, is_open.tolist(), strict=True) if not left_open
        }
        return int(counts[~is_open].sum()), decided

    def _total(self, batch: Batch, scale: float) -> int:
        return int(self._decided(_at(batch, [scale] * len(batch.matrices))).intruder.sum())

    def _known(self, batch: Batch) -> KnownBase:
        """Return what is known of the bases: all of them, or what an audit of the unchanged bases computes."""
        keys = [BaseKeys.of(base, self._audit.k) for base in batch.pair.base]
        kept = look_up(self._store, keys, batch.pair.base.device)
        if kept is not None and kept.whole() is not None:
            return kept
        shape, update = batch.pair.base.shape, batch.pair.tuned
        is_small = min(shape[-2:]) <= _WHOLE_UP_TO
        if is_small and isinstance(update, LowRank) and fits_coordinates(update.rank, self._audit.k, shape):
            return KnownBase.decomposed(batch.pair.base)
        if kept is not None:
            return kept
        known = self._decided(_at(batch, [0.0] * len(batch.matrices))).known
        assert known is not None
        return known

    def _decided(self, batch: Batch) -> Decisions:
        return decide_batch(batch, self._audit.k, self._audit.epsilon, False, self._store)


def _named(batch: Batch, names: Container[str]) -> Batch:
    return batch.select([index for index, pair in enumerate(batch.matrices) if pair.name in names])


def _at(batch: Batch, scales: Sequence[float]) -> Batch:
    return replace(batch, pair=batch.pair.scaled(scales))
