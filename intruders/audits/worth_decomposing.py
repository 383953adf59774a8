"""Whether the audits that are still to come pay for decomposing a base matrix whole.

An update that brings no intruders is decided as fast from a few leading vectors. One that brings some costs several
times more there than in the base's coordinates. On one core of an AMD EPYC, with twelve updates of rank 8 a batch, it
was 4, 8, 15, 26 and 77 ms an update at a side of 256, 384, 576, 1024 and 2048, and the decomposition 14, 36, 110, 590
and 4,700 ms.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..engine.certificates import NAME, fits_coordinates
from ..engine.decisions import Decisions
from ..engine.known_base import KnownBase
from ..linalg.pair import Pair
from .base_cache import BaseKeys, MemoryCache

# A decomposition is paid by one update with intruders for each of these parts of the smaller side's square: by 5 for
# a side of 576, by 14 for 1024.
_PAID_BY_ONE = 75_000
# What whole bases of one training may take in memory.
_MOST_BYTES = 2**30


def _pays(with_intruders: float, shape: Sequence[int]) -> bool:
    """Return whether that number of further updates with intruders pays for decomposing a matrix of a shape."""
    return with_intruders * _PAID_BY_ONE >= min(shape[-2:]) ** 2


@dataclass(frozen=True)
class UpdatesAhead:
    """The updates of one base matrix that are still to be decided, as far as they are read."""

    sizes: Sequence[float]  # Frobenius norms, in the unit that the base is judged in
    unread: int

    def expected_from(self, size: float) -> float:
        """Return how many are expected to be of that size or larger; those not read are taken to be like the others."""
        if not self.sizes:
            return 0.0
        return sum(own >= size for own in self.sizes) * (1 + self.unread / len(self.sizes))


def whole_where_it_pays(pair: Pair, k: int, known: KnownBase | None, ahead: UpdatesAhead) -> KnownBase | None:
    """Decompose the one base of a batch completely where its updates pay for that; return ``known`` otherwise.

    An update is expected to bring intruders where it is as large as the base's k-th singular value. Of 633 updates of
    SmolLM2-135M, random and trained, this was right for 85 %.
    """
    if known is None or known.whole() is not None:
        return known
    rank = pair.rank
    if rank is None or not fits_coordinates(rank, k, pair.base.shape):
        return known
    if not _pays(ahead.expected_from(float(known.value(k)[0])), pair.base.shape):
        return known
    return KnownBase.decomposed(pair.base[:1])


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
        whole = KnownBase.decomposed(pair.base)
        for index, key in enumerate(keys):
            self.put(key.whole, whole.select(torch.tensor([index], device=pair.base.device)))
        return whole

    def after(self, decisions: Decisions, keys: Sequence[BaseKeys]) -> None:
        """Take note of a decided batch."""
        with self._lock:
            self._hard |= {
                key.whole: _was_hard(names) for key, names in zip(keys, decisions.certificate, strict=True)
            }


def _was_hard(certificates: Sequence[str]) -> bool:
    """Return whether a matrix needed more than its nearest base vectors."""
    return any(name not in ("overlap", NAME) for name in certificates)
