"""Orthonormal bases of rows."""

import torch
from torch import Tensor

from .random_directions import own_generator

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
        basis, sizes = factorized(projected)
        threshold = _ROUNDINGS * torch.finfo(rows.dtype).eps * rows.norm(dim=-1)
        vanished = sizes <= threshold
        if against is None:
            if not bool(vanished.any()):
                return basis
            rows = _refilled(basis, vanished, seed=known + attempt)
            continue
        cosines = basis @ against.mT
        # Both questions in one wait for the device.
        some_vanished, moved = torch.stack([vanished.any(), ~(cosines.abs().amax() <= _MOVED)]).tolist()
        if some_vanished:
            rows = _refilled(basis, vanished, seed=known + attempt)
        elif moved:
            rows = basis
        else:
            return basis - cosines @ against
    return basis


def factorized(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Orthonormal rows ``(*batch, b, n)`` of the same span, and how much each row had beyond those before it.

    By Householder QR on processors, where it is the quicker for blocks as narrow as those here: 4 rows of 4096 numbers
    took 21 microseconds on one core of an Intel Xeon, and 98 by Cholesky. A GPU does one matrix after another in QR, so
    Cholesky comes first there.
    """
    if not rows.is_cpu:
        basis, sizes, is_sure = by_cholesky_twice(rows)
        if bool(is_sure):
            return basis, sizes
    columns, factor = torch.linalg.qr(rows.mT)
    return columns.mT, factor.diagonal(dim1=-2, dim2=-1).abs()


def by_cholesky_twice(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As :func:`factorized`, by two Cholesky factorizations of Gram matrices; also whether all of it is right (bool).

    The first pass leaves a basis Q that may be far from orthonormal. Where ``||Q Q^T - I||`` is below a tenth, the
    second one makes it so to rounding (Yamamoto et al. 2015, CholeskyQR2). All in double precision, so that of rows in
    single precision only those fail that depend on one another to rounding: they are left to QR.
    """
    basis = rows.double()
    first, failed = torch.linalg.cholesky_ex(basis @ basis.mT)
    basis = torch.linalg.solve_triangular(first, basis, upper=False)
    gram = basis @ basis.mT
    second, failed_again = torch.linalg.cholesky_ex(gram)
    basis = torch.linalg.solve_triangular(second, basis, upper=False)
    off = gram - torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    # NaN, which a failed factorization leaves, is not below the limit.
    is_sure = (failed == 0).all() & (failed_again == 0).all() & (torch.linalg.matrix_norm(off) <= 0.1).all()
    sizes = (first.diagonal(dim1=-2, dim2=-1) * second.diagonal(dim1=-2, dim2=-1)).to(rows.dtype)
    return basis.to(rows.dtype), sizes, is_sure


def _refilled(rows: Tensor, vanished: Tensor, seed: int) -> Tensor:
    fresh = torch.randn(rows.shape[-2:], generator=own_generator(seed), dtype=rows.dtype).to(rows.device)
    return torch.where(vanished.unsqueeze(-1), fresh, rows)
