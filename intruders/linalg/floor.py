"""A proved lower bound on the singular values of a tall matrix, from one Cholesky factorization.

The moment certificate cannot tell an atom at zero (the part of a vector outside the column space, which belongs to no
singular vector of a tall matrix) from one at a tiny singular value. That the matrix has no tiny singular values is a
fact about the base alone: with ``W^T W - t I = L L^T + E``, every eigenvalue of ``W^T W`` is at least ``t - ||E||``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .products import times_transpose

# Rows of W for each of its columns that are enough: what all of them would add to the floor is not worth their product.
_ROWS_PER_COLUMN = 1.5
# The Gram matrix is taken in strips of so many rows, up to its diagonal.
_STRIP = 512
_TRIES = 3
# Gaussian probes of E, and the factor on their estimate of its Frobenius norm. The norm is more than that with
# probability below 1e-6, whatever E is: at most P(chi^2 with 16 degrees of freedom < 1).
_PROBES = 16
_SAFETY = 4.0
_CHUNK_ROWS = 1024


def smallest_eigenvalue_floor(matrix: Tensor, guess: float) -> float:
    """A number below every eigenvalue of ``W^T W``, for one ``(m, n)`` matrix with m > n; 0 where none was proved.

    ``guess`` is an estimate of the smallest eigenvalue, from above. The floor is that of some of the rows, evenly
    chosen: ``W^T W`` is theirs and what the others add, which is not negative. Costs one half of a Gram matrix in the
    matrix's own precision, a Cholesky factorization a try, and two double-precision products with ``_PROBES`` vectors,
    which measure what rounding did: E above holds the errors of the Gram matrix and of the factorization.
    """
    m, n = matrix.shape
    kept = min(m, round(_ROWS_PER_COLUMN * n))
    if kept < m:
        matrix = matrix[torch.linspace(0, m - 1, kept, device=matrix.device).round().long()]
        # As the smallest eigenvalue of a Gaussian matrix shrinks with its rows (Marchenko and Pastur 1967).
        guess *= ((kept**0.5 - n**0.5) / (m**0.5 - n**0.5)) ** 2
    gram = _lower_gram(matrix)
    diagonal = gram.diagonal()
    shift = 0.0
    for attempt in range(_TRIES):
        target = guess / 2 ** (attempt + 1)
        diagonal -= target - shift
        shift = target
        factor, failed = torch.linalg.cholesky_ex(gram)
        if int(failed) == 0:
            floor: float = target - _SAFETY * _error_norm(matrix, factor, target)
            return max(0.0, floor)
    return 0.0


def _lower_gram(matrix: Tensor) -> Tensor:
    """The lower triangle of ``W^T W`` and some of the upper one, which the factorization does not read."""
    n = matrix.shape[1]
    columns = matrix.mT.contiguous()
    gram = matrix.new_zeros(n, n)
    for first in range(0, n, _STRIP):
        last = min(first + _STRIP, n)
        gram[first:last, :last] = times_transpose(columns[first:last], columns[:last])
    return gram


def _error_norm(matrix: Tensor, factor: Tensor, shift: float) -> float:
    """Estimate of ``||W^T W - shift I - L L^T||_F`` from Gaussian probes, in double precision."""
    generator = torch.Generator().manual_seed(0)
    probes = torch.randn(_PROBES, matrix.shape[1], generator=generator, dtype=torch.float64).to(matrix.device)
    error = _gram_rows(matrix, probes) - shift * probes - _gram_rows(factor.mT, probes)
    return float(error.square().sum().div(_PROBES).sqrt())


def _gram_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    """``rows @ W.T @ W`` in double precision, with a chunk of W in double precision at a time."""
    total = torch.zeros_like(rows)
    for first in range(0, len(matrix), _CHUNK_ROWS):
        wide = matrix[first : first + _CHUNK_ROWS].double()
        total += (rows @ wide.mT) @ wide
    return total
