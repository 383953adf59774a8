"""The column space of a tall matrix: vectors projected onto it, with a proved bound on the projection's error.

docs/concepts/certificate.md has the proof, in steps 5 and 6: with a triangular L and a share c > 0 for which ``W^T W
- c L L^T`` has no negative eigenvalue, the part of any vector d inside the column space of W is at most ``||P d|| <=
||L^-1 W^T d|| / sqrt(c)``. L is the Cholesky factor of the Gram matrix, and Gaussian probes prove the share: ``||B||
<= (sum_j ||B^q z_j||^2)^(1 / 2q)``, but for a probability of 6e-8, of what rounding did and of ``(L L^T)^-1``.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import Dense
from .products import times_transpose
from .random_directions import own_generator
from .svd import CLUSTER_TOLERANCE

# The Gram matrix is taken in strips of this many rows, up to its diagonal.
_STRIP = 512
_PROBES = 16
# Powers q of the probed matrices: a bound may be loose by a factor of (16 n)^(1 / 2q), and the one on the inverse is
# what the floor loses.
_ERROR_POWER = 2
_INVERSE_POWER = 4
# A share below this is not worth having: L says little of W then.
_LEAST_SHARE = 0.5
_CHUNK_ROWS = 1024
# Rows of a triangular system that are solved at once.
_BLOCK = 256
# Rounds of refinement; one or two are enough where rounding did little to L.
_MOST_ROUNDS = 10


@dataclass(frozen=True)
class ColumnSpace:
    """The proved bounds of one tall matrix of full rank."""

    matrix: Tensor  # (m, n), m > n
    factor: Tensor  # L (n, n), lower triangular, in the precision of the matrix here
    share: float  # W^T W - share * L L^T has no negative eigenvalue
    floor: float  # nor has W^T W - floor * I

    @classmethod
    def of_each(cls, matrices: Sequence[Tensor], norms: Sequence[float]) -> "list[ColumnSpace | None]":
        """Prove full rank in each matrix's own precision, or in double; return None where neither does.

        ``norms`` are the largest singular values: others below ``CLUSTER_TOLERANCE`` of it count as zero. Each way
        costs one half of a Gram matrix, a Cholesky factorization, and products of both with ``_PROBES`` vectors in
        double precision. What is waited for does not grow with the number of matrices.
        """
        spaces = cls._proved(matrices)
        again = [i for i, space in enumerate(spaces) if space is None and matrices[i].dtype != torch.float64]
        for i, space in zip(again, cls._proved([matrices[i].double() for i in again]), strict=True):
            spaces[i] = space
        return [
            None if space is None or space.floor**0.5 <= CLUSTER_TOLERANCE * norm else space
            for space, norm in zip(spaces, norms, strict=True)
        ]

    @classmethod
    def _proved(cls, matrices: Sequence[Tensor]) -> "list[ColumnSpace | None]":
        if not matrices:
            return []
        factors, failed = zip(
            *(torch.linalg.cholesky_ex(_lower_gram(matrix)) for matrix in matrices), strict=True
        )
        kept = [i for i, failure in enumerate(torch.stack(failed).tolist()) if failure == 0]
        bounds = [_rounding_and_inverse(matrices[i], factors[i]) for i in kept]
        spaces: list[ColumnSpace | None] = [None] * len(matrices)
        for i, (error, inverse) in zip(kept, torch.stack(bounds).tolist() if bounds else [], strict=True):
            lost = error * inverse  # the error over the least eigenvalue of L L^T
            if lost <= 1 - _LEAST_SHARE:
                spaces[i] = cls(matrices[i], factors[i], 1 - lost, 1 / inverse - error)
        return spaces

    def left_inside(self, rows: Tensor) -> Tensor:
        """Upper bounds on ``||P d||`` of rows d, in double precision."""
        products = torch.zeros(len(rows), self.matrix.shape[1], dtype=torch.float64, device=rows.device)
        for first, wide in _wide_chunks(self.matrix):
            products += rows[:, first : first + len(wide)] @ wide
        bounds: Tensor = solve(self.factor, products).norm(dim=-1) / self.share**0.5
        return bounds


def _lower_gram(matrix: Tensor) -> Tensor:
    """The lower triangle of ``W^T W`` and some of the upper one, which the factorization does not read."""
    m, n = matrix.shape
    gram = matrix.new_zeros(n, n)
    for top in range(0, m, n):  # a copy of the columns is no larger than the Gram matrix
        columns = matrix[top : top + n].mT.contiguous()
        for first in range(0, n, _STRIP):
            last = min(first + _STRIP, n)
            gram[first:last, :last] += times_transpose(columns[first:last], columns[:last])
    return gram


def project_each(
    spaces: Sequence[ColumnSpace], rows: Sequence[Tensor], tolerance: float
) -> list[tuple[Tensor, Tensor]]:
    """Approximations p ``(c, m)`` of the projections ``P y`` of rows y on each column space, in their precision.

    Also upper bounds ``(c,)``, in double precision, on ``||P (y - p)||``. ``p += W (L L^T)^-1 W^T (y - p)`` is repeated
    until all of these would be below ``tolerance``, and for at most ``_MOST_ROUNDS``: it halves them at least, and
    without rounding. A round waits once for all spaces.
    """
    here = [own.to(space.factor.dtype) for space, own in zip(spaces, rows, strict=True)]
    projected = [torch.zeros_like(own) for own in here]
    open_ = list(range(len(spaces)))
    for _ in range(_MOST_ROUNDS):
        # L^-1 W^T (y - p), whose length tells how far p is from the projection.
        gradients = [
            solve(spaces[i].factor, Dense(spaces[i].matrix).apply_transpose(here[i] - projected[i]))
            for i in open_
        ]
        largest = torch.stack([gradient.norm(dim=-1).amax().double() for gradient in gradients]).tolist()
        still = [
            (i, gradient)
            for i, gradient, size in zip(open_, gradients, largest, strict=True)
            if size > spaces[i].share ** 0.5 * tolerance
        ]
        for i, gradient in still:
            projected[i] += Dense(spaces[i].matrix).apply(solve_transposed(spaces[i].factor, gradient))
        open_ = [i for i, _ in still]
        if not open_:
            break
    in_their_precision = [p.to(own.dtype) for p, own in zip(projected, rows, strict=True)]
    return [
        (p, space.left_inside(own.double() - p.double()))
        for space, own, p in zip(spaces, rows, in_their_precision, strict=True)
    ]


def _rounding_and_inverse(matrix: Tensor, factor: Tensor) -> Tensor:
    """Upper bounds on ``||W^T W - L L^T||`` and on ``||(L L^T)^-1||``."""
    error = _norm_bound(lambda z: _gram_rows(matrix, z) - _gram_rows(factor.mT, z), factor, _ERROR_POWER)
    inverse = _norm_bound(lambda z: solve_transposed(factor, solve(factor, z)), factor, _INVERSE_POWER)
    return torch.stack([error, inverse])


def _norm_bound(product: Callable[[Tensor], Tensor], like: Tensor, power: int) -> Tensor:
    """An upper bound ``()`` on the norm of a symmetric ``(n, n)`` matrix B, where ``product`` gives ``rows @ B``."""
    rows = torch.randn(_PROBES, len(like), generator=own_generator(), dtype=torch.float64).to(like.device)
    logarithm = rows.new_zeros(())
    for _ in range(power):
        rows = product(rows)
        size = rows.norm().clamp_min(torch.finfo(rows.dtype).tiny)
        rows = rows / size
        logarithm = logarithm + size.log()
    return (logarithm / power).exp()


def _gram_rows(matrix: Tensor, rows: Tensor) -> Tensor:
    """``rows @ W.T @ W`` in double precision."""
    total = torch.zeros_like(rows)
    for _, wide in _wide_chunks(matrix):
        total += (rows @ wide.mT) @ wide
    return total


def _wide_chunks(matrix: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield chunks of the rows in double precision, each with the index of its first row."""
    for first in range(0, len(matrix), _CHUNK_ROWS):
        yield first, matrix[first : first + _CHUNK_ROWS].double()


def solve(factor: Tensor, rows: Tensor) -> Tensor:
    """``rows @ L^-T``: ``L^-1 v`` of every row v, in the rows' precision.

    By blocks, for torch's own way with few rows is several times slower, and would want L in that precision.
    """
    solution = torch.empty_like(rows)
    for first in range(0, len(factor), _BLOCK):
        strip = factor[first : first + _BLOCK, : first + _BLOCK].to(rows.dtype)
        here = slice(first, first + len(strip))
        rest = rows[:, here] - solution[:, :first] @ strip[:, :first].mT
        solution[:, here] = torch.linalg.solve_triangular(strip[:, here].mT, rest, upper=True, left=False)
    return solution


def solve_transposed(factor: Tensor, rows: Tensor) -> Tensor:
    """``rows @ L^-1``: ``L^-T v`` of every row v, as :func:`solve`."""
    solution = torch.empty_like(rows)
    for first in reversed(range(0, len(factor), _BLOCK)):
        strip = factor[first:, first : first + _BLOCK].to(rows.dtype)
        width = strip.shape[1]
        here = slice(first, first + width)
        rest = rows[:, here] - solution[:, first + width :] @ strip[width:]
        solution[:, here] = torch.linalg.solve_triangular(strip[:width], rest, upper=False, left=False)
    return solution
