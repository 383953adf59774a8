"""Matrices of one shape that a scale search follows in coordinates, and need not be read again."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from ...engine.coordinate_scales import Followed
from ...engine.projection import Projection

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
