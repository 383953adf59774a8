"""Orthonormal rows, and bases of them that grow in place."""

from __future__ import annotations

import torch
from torch import Tensor

# A row of which projections leave less than this many roundings is refilled: what is left of it is noise, and noise
# of sparse rows can lie in the very span that was projected out.
_ROUNDINGS = 64
# A second projection that moves a block by more than this (as cosines) has spoilt its orthonormality.
_MOVED = 1e-3
_MOST_ROUNDS = 6


def orthonormalize(rows: Tensor, against: Tensor | None = None) -> Tensor:
    """An orthonormal basis of the rows' span, orthogonal to the orthonormal rows of ``against``.

    ``rows`` is ``(*batch, b, n)``, ``against`` ``(*batch, a, n)`` with a + b <= n. Dependent or zero rows are replaced
    by random directions (seeded), so that the answer always has b rows. Two rounds of classical Gram-Schmidt are
    enough for orthogonality to rounding ("twice is enough", Giraud et al. 2005), unless a row has to be refilled.
    """
    rows = rows / rows.abs().amax(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    known = 0 if against is None else against.shape[-2]
    for attempt in range(_MOST_ROUNDS):
        projected = rows if against is None else rows - (rows @ against.mT) @ against
        columns, factor = torch.linalg.qr(projected.mT)
        basis: Tensor = columns.mT
        threshold = _ROUNDINGS * torch.finfo(rows.dtype).eps * rows.norm(dim=-1)
        vanished = factor.diagonal(dim1=-2, dim2=-1).abs() <= threshold
        if bool(vanished.any()):
            rows = _refilled(basis, vanished, seed=known + attempt)
            continue
        if against is None:
            return basis
        cosines = basis @ against.mT
        if float(cosines.abs().amax()) <= _MOVED:
            return basis - cosines @ against
        rows = basis
    return basis


def _refilled(rows: Tensor, vanished: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.randn(rows.shape[-2:], generator=generator, dtype=rows.dtype).to(rows.device)
    return torch.where(vanished.unsqueeze(-1), fresh, rows)


class GrowingRows:
    """Rows ``(*batch, a, n)`` with room for more, so that adding a block does not copy those before it."""

    def __init__(self, rows: Tensor, room: int = 0) -> None:
        self._buffer = rows.new_empty(*rows.shape[:-2], rows.shape[-2] + room, rows.shape[-1])
        self._used = 0
        self.append(rows)

    @property
    def rows(self) -> Tensor:
        return self._buffer[..., : self._used, :]

    @property
    def room(self) -> int:
        """Rows that can be added before those here are copied."""
        return self._buffer.shape[-2] - self._used

    def __len__(self) -> int:
        return self._used

    def append(self, rows: Tensor) -> None:
        total = self._used + rows.shape[-2]
        if total > self._buffer.shape[-2]:
            larger = self._buffer.new_empty(*self._buffer.shape[:-2], 2 * total, self._buffer.shape[-1])
            larger[..., : self._used, :] = self.rows
            self._buffer = larger
        self._buffer[..., self._used : total, :] = rows
        self._used = total
