"""The critical scales of batches of matrices: on projections and by audits, or in the coordinates of their bases."""

from __future__ import annotations

import math
import threading
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from ...engine.certificates import coordinates_of, fits_coordinates
from ...engine.coordinate_scales import Followed, count_at, project_in_coordinates, settled_scales
from ...engine.decisions import Decisions
from ...engine.known_base import KnownBase
from ...engine.projection import Projection, project
from ...engine.scale_search import ScaleWindow, first_starts, first_window, windows_from
from ...linalg.low_rank import LowRank
from ...linalg.whole_base import WholeBase
from ..base_cache import BaseCache, BaseKeys, look_up
from ..batches import Batch
from ..judge import decide_batch

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


@dataclass(frozen=True)
class FollowedGroup:
    """Matrices by name, with their projections and their coordinates."""

    names: list[str]
    projections: list[Projection]
    followed: Followed


def joined(groups: Sequence[FollowedGroup]) -> list[FollowedGroup]:
    """Join groups of one kind, up to a number of matrices: small problems cost less in one call."""
    kinds: dict[object, list[list[FollowedGroup]]] = {}
    for group in groups:
        of_kind = kinds.setdefault(group.followed.kind, [[]])
        if sum(len(part.names) for part in of_kind[-1]) >= _TOGETHER:
            of_kind.append([])
        of_kind[-1].append(group)
    return [
        FollowedGroup(
            [name for part in parts for name in part.names],
            [projection for part in parts for projection in part.projections],
            Followed.together([part.followed for part in parts]),
        )
        for of_kind in kinds.values()
        for parts in of_kind
    ]


class FollowedRoom:
    """The memory that groups may take until they are joined, for several threads."""

    def __init__(self) -> None:
        self._left, self._lock = _KEPT_BYTES, threading.Lock()

    def takes(self, group: FollowedGroup) -> bool:
        """Return whether there is room for a group, which then takes it."""
        nbytes = group.followed.nbytes
        with self._lock:
            has_room = nbytes <= self._left
            self._left -= nbytes if has_room else 0
            return has_room


@dataclass(frozen=True)
class MeasuredBatch:
    """What is known of a batch: projections by name, critical scales, or the group that is to be followed."""

    projections: dict[str, Projection]
    scales: dict[str, float]
    group: FollowedGroup | None = None


@dataclass(frozen=True)
class BatchScales:
    """The search for scales of batches of matrices, and the audit's decisions at them."""

    k: int
    epsilon: float
    store: BaseCache
    room: FollowedRoom

    def measured(self, batch: Batch) -> MeasuredBatch:
        """Measure a batch; what can be followed in coordinates waits for others of its kind, if there is room."""
        known = self._known(batch)
        whole = known.whole()
        in_coordinates = None if whole is None else self._in_coordinates(batch, whole)
        return in_coordinates or self._on_projections(batch, known)

    def settled(self, group: FollowedGroup) -> tuple[dict[str, float], dict[str, float]]:
        """Find critical scales of a group, by name; also return where windows begin that no root was found near."""
        starts = first_starts(group.projections)
        first = [math.inf if start is None else start for start in starts]
        roots, is_settled = settled_scales(group.followed, self.k, self.epsilon, first)
        scales: dict[str, float] = {}
        doubted: dict[str, float] = {}
        for name, start, root, is_root in zip(group.names, starts, roots, is_settled, strict=True):
            if is_root or start is None:
                scales[name] = root
            else:
                doubted[name] = start
        return scales, doubted

    def by_audits(
        self, batch: Batch, projections: Mapping[str, Projection], starts: Mapping[str, float]
    ) -> dict[str, float]:
        """Find the critical scales of a batch by audits, from where windows begin."""
        windows = _windows(projections, starts)
        scales, refuted = self._confirmed(batch, projections, windows)
        return scales | self._sought(batch, refuted, projections, windows)

    def counted(self, group: FollowedGroup, scale: float) -> tuple[int, set[str]]:
        """Count the intruders of a group at one scale, of the matrices that can be decided; also return their names."""
        counts, is_open = count_at(group.followed, self.k, self.epsilon, scale)
        decided = {
            name for name, left_open in zip(group.names, is_open.tolist(), strict=True) if not left_open
        }
        return int(counts[~is_open].sum()), decided

    def total(self, batch: Batch, scale: float) -> int:
        """Count the intruders of a batch at one scale, by the audit's certificates."""
        return int(self._decided(_at(batch, [scale] * len(batch.matrices))).intruder.sum())

    def _in_coordinates(self, batch: Batch, whole: WholeBase) -> MeasuredBatch | None:
        """Measure a batch whose bases are known whole; None where its updates do not fit."""
        coordinates = coordinates_of(batch.pair, whole, self.k)
        if coordinates is None:
            return None
        names = [pair.name for pair in batch.matrices]
        projected, near = project_in_coordinates(coordinates, whole, self.k, self.epsilon)
        projections = dict(zip(names, projected, strict=True))
        group = FollowedGroup(names, projected, Followed(coordinates, whole.off, near))
        if self.room.takes(group):
            return MeasuredBatch(projections, {}, group)
        scales, doubted = self.settled(group)
        return MeasuredBatch(
            projections, scales | self.by_audits(_named(batch, doubted), projections, doubted)
        )

    def _on_projections(self, batch: Batch, known: KnownBase) -> MeasuredBatch:
        """Measure a batch of whose bases the leading vectors are known; an audit confirms each window."""
        names = [pair.name for pair in batch.matrices]
        projected = project(batch.pair, known, self.k, self.epsilon)
        projections = dict(zip(names, projected, strict=True))
        starts = dict(zip(names, first_starts(projected), strict=True))
        windows = _windows(projections, {name: start for name, start in starts.items() if start is not None})
        confirmed, refuted = self._confirmed(_named(batch, windows), projections, windows)
        sought = self._sought(batch, refuted, projections, windows)
        return MeasuredBatch(projections, dict.fromkeys(starts, math.inf) | confirmed | sought)

    def _confirmed(
        self, batch: Batch, projections: Mapping[str, Projection], windows: Mapping[str, ScaleWindow]
    ) -> tuple[dict[str, float], list[str]]:
        """Audit every matrix of a batch inside its window; return the scales that are confirmed, and other names.

        A window of a projection that is not complete confirms nothing.
        """
        names = [pair.name for pair in batch.matrices]
        if not names:
            return {}, []
        is_there = (
            self._decided(_at(batch, [windows[name].inside for name in names])).intruder.any(-1).tolist()
        )
        scales = {
            name: windows[name].start
            for name, is_confirmed in zip(names, is_there, strict=True)
            if is_confirmed and projections[name].is_complete
        }
        return scales, [name for name in names if name not in scales]

    def _sought(
        self,
        batch: Batch,
        names: Sequence[str],
        projections: Mapping[str, Projection],
        windows: Mapping[str, ScaleWindow],
    ) -> dict[str, float]:
        """Find the first scale with an intruder of matrices whose projections were wrong, or are not complete."""
        return {
            name: self._sought_by_steps(_named(batch, [name]), projections[name], windows[name])
            for name in names
        }

    def _sought_by_steps(self, batch: Batch, projection: Projection, window: ScaleWindow) -> float:
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
        """Return what is known of the bases: all of them, or what an audit of the unchanged bases computes."""
        keys = [BaseKeys.of(base, self.k) for base in batch.pair.base]
        kept = look_up(self.store, keys, batch.pair.base.device)
        if kept is not None and kept.whole() is not None:
            return kept
        shape, update = batch.pair.base.shape, batch.pair.tuned
        is_small = min(shape[-2:]) <= _WHOLE_UP_TO
        if is_small and isinstance(update, LowRank) and fits_coordinates(update.rank, self.k, shape):
            return KnownBase.decomposed(batch.pair.base)
        if kept is not None:
            return kept
        known = self._decided(_at(batch, [0.0] * len(batch.matrices))).known
        assert known is not None
        return known

    def _decided(self, batch: Batch) -> Decisions:
        return decide_batch(batch, self.k, self.epsilon, False, self.store)


def _windows(projections: Mapping[str, Projection], starts: Mapping[str, float]) -> dict[str, ScaleWindow]:
    """The windows of projections that begin there, by name."""
    windows = windows_from([projections[name] for name in starts], list(starts.values()))
    return dict(zip(starts, windows, strict=True))


def _named(batch: Batch, names: Container[str]) -> Batch:
    """The matrices of a batch with these names."""
    return batch.select([index for index, pair in enumerate(batch.matrices) if pair.name in names])


def _at(batch: Batch, scales: Sequence[float]) -> Batch:
    """Return the same matrices with each update at its own scale."""
    return replace(batch, pair=batch.pair.scaled(scales))
