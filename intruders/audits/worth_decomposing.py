"""Whether the audits that are still to come pay for decomposing a base matrix whole.

Adapters without intruders are decided as fast from a few leading vectors. One with intruders costs several times more
there than in the base's coordinates: on one core of an AMD EPYC 29 to 53 ms more at a side of 256 to 576, rank 16, and
57 ms at 1024, where the decomposition costs 13, 90 and 430 ms.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch

from ..engine.base_space import KnownBase
from ..engine.coordinate_certificate import NAME, fits_coordinates
from ..engine.decisions import Detection
from ..linalg.pair import Pair
from ..linalg.whole_base import WholeBase
from .base_cache import BaseKeys, MemoryCache

# An adapter with intruders pays for this part of the smaller side: 9 adapters for 1024.
_PAID_BY_ONE = 120
# What whole bases of one training may take in memory.
_MOST_BYTES = 2**30


def _pays(with_intruders: float, shape: Sequence[int]) -> bool:
    """Return whether that number of further updates with intruders pays for decomposing a matrix of a shape."""
    return with_intruders * _PAID_BY_ONE >= min(shape[-2:])


class WorthDecomposing:
    """The cost of deciding one matrix's adapters so far, in one pass over a base; several threads may ask."""

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
        if not _pays(to_come, pair.base.shape):
            return known
        return KnownBase.from_whole(WholeBase.of(pair.base[:1]))


class AuditsAhead(MemoryCache):
    """A base cache for a model that is audited again and again, which decomposes the bases whole that are worth it.

    An update that brought intruders at one audit is taken to bring them at the next ones: updates grow while a model
    trains. What is decomposed stays in memory, 4 (m + n) min(m, n) bytes a matrix and ``_MOST_BYTES`` in all.
    """

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._audits = self._bytes = 0
        self._hard: dict[str, bool] = {}

    def __reduce__(self) -> tuple[type[AuditsAhead], tuple[()]]:
        """Copy and send it without entries: they are computed again where they are needed."""
        return AuditsAhead, ()

    def expect(self, audits: int) -> None:
        """Say how many audits come after the ones so far, the next one included."""
        self._audits = audits

    def before(
        self, pair: Pair, k: int, keys: Sequence[BaseKeys], known: KnownBase | None
    ) -> KnownBase | None:
        """Decompose the bases of a batch that is about to be decided, where that pays; return ``known`` otherwise."""
        is_whole = known is not None and known.whole() is not None
        if is_whole or pair.rank is None or not fits_coordinates(pair.rank, k, pair.base.shape):
            return known
        *_, m, n = pair.base.shape
        size = pair.base.element_size() * len(keys) * (m + n) * min(m, n)
        with self._lock:
            hard = sum(self._hard.get(key.whole, False) for key in keys) / len(keys)
            if not _pays(self._audits * hard, pair.base.shape) or self._bytes + size > _MOST_BYTES:
                return known
            self._bytes += size
        whole = KnownBase.from_whole(WholeBase.of(pair.base))
        for index, key in enumerate(keys):
            self.put(key.whole, whole.select(torch.tensor([index], device=pair.base.device)))
        return whole

    def after(self, detection: Detection, keys: Sequence[BaseKeys]) -> None:
        """Take note of a decided batch."""
        with self._lock:
            self._hard |= {
                key.whole: _was_hard(names) for key, names in zip(keys, detection.certificate, strict=True)
            }


def _was_hard(certificates: Sequence[str]) -> bool:
    """Return whether a matrix needed more than its nearest base vectors."""
    return any(name not in ("overlap", NAME) for name in certificates)
