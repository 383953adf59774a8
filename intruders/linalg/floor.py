"""A proved lower bound on the singular values of a tall matrix, from one Cholesky factorization.

The moment certificate cannot tell an atom at zero (the part of a vector outside the column space, which belongs to no
singular vector of a tall matrix) from one at a tiny singular value. That the matrix has no tiny singular values is a
fact about the base alone: if ``G - t I`` with ``G = W^T W`` has a Cholesky factor, every eigenvalue of G is above t.
"""

from __future__ import annotations

import torch
from torch import Tensor

_TRIES = 3


def smallest_eigenvalue_floor(matrix: Tensor, guess: float) -> float:
    """A number below every eigenvalue of ``W^T W``, for one ``(m, n)`` matrix with m > n; 0 where none was proved.

    ``guess`` is an estimate of the smallest eigenvalue, from above. Costs one Gram matrix in the matrix's own
    precision, and a Cholesky factorization a try. Rounding is taken off: by the probabilistic analysis of Higham and
    Mary (2019) the computed Gram matrix errs by at most ``sqrt(m) u ||W||_F^2`` in the Frobenius norm, where u is
    the unit roundoff, and the factorization by ``sqrt(n) u trace(G)``.
    """
    m, n = matrix.shape
    gram = matrix.mT @ matrix
    trace = float(gram.diagonal().double().sum())
    rounding: float = 0.5 * (m**0.5 + n**0.5) * torch.finfo(matrix.dtype).eps * trace
    diagonal = gram.diagonal()
    shift = 0.0
    for attempt in range(_TRIES):
        target = guess / 2 ** (attempt + 1)
        if target <= 2 * rounding:
            return 0.0
        diagonal -= target - shift
        shift = target
        _, failed = torch.linalg.cholesky_ex(gram)
        if int(failed) == 0:
            return float(target - rounding)
    return 0.0
