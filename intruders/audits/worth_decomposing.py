"""Whether the adapters that are still to come pay for decomposing a base matrix whole, in one pass over a base.

Adapters without intruders are decided as fast from a few leading vectors. One with intruders costs several times more
there than in the base's coordinates: on one core of an AMD EPYC 29 to 53 ms more at a side of 256 to 576, rank 16, and
57 ms at 1024, where the decomposition costs 13, 90 and 430 ms.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

from ..engine.base_space import KnownBase
from ..engine.coordinate_certificate import NAME, fits_coordinates
from ..engine.decisions import Detection
from ..linalg.pair import Pair
from ..linalg.whole_base import WholeBase

# An adapter with intruders pays for this part of the smaller side: 9 adapters for 1024.
_PAID_BY_ONE = 120


class WorthDecomposing:
    """The cost of deciding one matrix's adapters so far; several threads may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._adapters = self._judged = self._with_intruders = 0

    def expect(self, adapters: int) -> None:
        """Say how many adapters change the matrix."""
        with self._lock:
            self._adapters = adapters

    def learn(self, detection: Detection) -> None:
        """Take note of decided adapters."""
        with self._lock:
            self._judged += len(detection.certificate)
            self._with_intruders += sum(_was_hard(names) for names in detection.certificate)

    def whole(self, pair: Pair, k: int, known: KnownBase | None) -> KnownBase | None:
        """Decompose the base of such a batch completely where that pays; return ``known`` otherwise."""
        if known is not None and known.whole() is not None:
            return known
        rank = pair.rank
        if rank is None or not fits_coordinates(rank, k, pair.base.shape):
            return known
        with self._lock:
            if self._judged == 0:
                return known
            to_come = (self._adapters - self._judged) * self._with_intruders / self._judged
        if to_come * _PAID_BY_ONE < min(pair.base.shape[-2:]):
            return known
        return KnownBase.from_whole(WholeBase.of(pair.base[:1]))


def _was_hard(certificates: Sequence[str]) -> bool:
    """Return whether a matrix needed more than its nearest base vectors."""
    return any(name not in ("overlap", NAME) for name in certificates)
