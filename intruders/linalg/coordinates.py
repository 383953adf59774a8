"""A tuned matrix ``W0 + D`` in the coordinates of its base: a diagonal matrix plus one of rank r.

docs/concepts/certificate.md has the notation, the theorem on ``M = diag(s, 0) + [P; R_b] [Q; R_a]^T`` and its proof.
The first entries of a left singular vector of M are the cosines with all left singular vectors of W0. With D =
diag(s^2, 0),

    M M^T - t I = (D - t) + F C F^T,    C = [[0, I], [I, I]],    K(t) = -C^-1 - F^T (D - t)^-1 F

counts of eigenvalues come from those of K(t), and ``(M M^T - t)^-1 = (D - t)^-1 + (D - t)^-1 F K^-1 F^T (D - t)^-1``
(Woodbury). U and V come rounded, so that what is computed as [Q; R_a] is not quite orthonormal. Its QR factors are
taken, and the triangle goes to the left: M stays the same.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .low_rank import LowRank
from .products import Batched
from .svd import Components, eigvalsh
from .whole_base import WholeBase, columns_times, times_columns

# Numbers that weighted copies of F may have at once.
_AT_ONCE = 2**22
# The sign of an eigenvalue of K(t) is known where it is larger than this many times the bound on K's rounding, in
# which every sum is as wrong as it can be.
_SURE = 4.0
# Distance, as a share of the largest eigenvalue, that a shift keeps from a pole.
_OFF_POLE = 1e-18
# Of a base of zeros all poles are 0: as a share of the squared norm of F, what the largest pole is taken for at least,
# so that a shift at 0 has a finite K. It is far below any pole of another base.
_AT_LEAST = 1e-60
# What rounding of U moves of P and, twice, of R_b, as a multiple of its norm.
_BOTH_PARTS = math.sqrt(5.0)


@dataclass(frozen=True)
class Coordinates(Batched):
    """A batch of tuned matrices in their bases' coordinates, in double precision.

    a = p, or p + r where m > n; b = p, or p + r where n > m.
    """

    values: Tensor  # (batch, p): singular values of the bases
    left: Tensor  # (batch, a, r): [P; R_b]
    right: Tensor  # (batch, b, r): [Q; R_a], orthonormal columns
    off: Tensor  # (batch): bound on the norm of what separates M from W in the coordinates of W0

    @classmethod
    def of(cls, base: WholeBase, update: Components) -> "Coordinates":
        """Compute from the thin SVD of ``update`` ``(batch, m, n)``: one product with a square side of the base, two
        with a longer one.
        """
        columns, rows = update.factors()
        left = _in_coordinates(base.left, columns)
        right = _in_coordinates(base.right, rows.mT)
        # The columns are orthonormal but for rounding in single precision, and made so in double. One Cholesky
        # factorization is as exact as QR there: Gram matrices are I to 1e-6. NaN, where there is none, decides nothing.
        triangle, failed = torch.linalg.cholesky_ex(right.mT @ right)
        triangle = torch.where((failed == 0)[:, None, None], triangle, torch.nan)
        right = torch.linalg.solve_triangular(triangle, right.mT, upper=False).mT
        is_square = base.left.shape[-1] == base.right.shape[-1]
        moved = base.rounded if is_square else _BOTH_PARTS * base.rounded
        return cls(base.values, left @ triangle, right, base.off + update.values[:, 0] * moved)

    @property
    def rank(self) -> int:
        return self.left.shape[-1]

    @property
    def size(self) -> int:
        return self.left.shape[-2]

    def update(self) -> LowRank:
        return LowRank(self.left, self.right.mT)

    def poles(self) -> Tensor:
        """``(batch, a)``: squared singular values of the bases, and zeros."""
        return torch.nn.functional.pad(self.values.square(), (0, self.size - self.values.shape[-1]))

    def through(self) -> Tensor:
        """``(batch, a, r)``: what W0 makes of the update's right directions, ``diag(s) Q``."""
        p = self.values.shape[-1]
        return torch.nn.functional.pad(
            self.values.unsqueeze(-1) * self.right[:, :p], (0, 0, 0, self.size - p)
        )

    def problem(self) -> "SecularProblem":
        return SecularProblem.of(self.poles(), torch.cat([self.through().mT, self.left.mT], -2))


def _in_coordinates(rows: Tensor, columns: Tensor) -> Tensor:
    """``(batch, p, r)`` products of the base's vectors ``(batch, p, m)`` with columns ``(batch, m, r)``.

    Where m > p, the QR factor of what the columns have outside follows, ``(batch, p + r, r)``.
    """
    along = times_columns(rows, columns)
    p, m = rows.shape[-2:]
    if m == p:
        return along
    return torch.cat([along, torch.linalg.qr(columns - columns_times(rows, along)).R], -2)


@dataclass(frozen=True)
class SecularProblem(Batched):
    """``diag(poles) + F C F^T``, a batch of symmetric matrices whose eigenvalues are squared singular values.

    With the updates at scales f, C is ``[[0, f I], [f I, f^2 I]]``, so that F is the same for all of them.
    """

    poles: Tensor  # (batch, a), double
    across: Tensor  # (batch, 2r, a): F^T, in whose layout every shift weighs it
    scales: Tensor  # (batch): f

    @classmethod
    def of(cls, poles: Tensor, across: Tensor) -> "SecularProblem":
        return cls(poles, across.contiguous(), torch.ones_like(poles[:, 0]))

    @property
    def rank(self) -> int:
        return self.across.shape[-2] // 2

    @property
    def spread(self) -> Tensor:
        """``(batch, a, 2r)``: F."""
        return self.across.mT

    def at(self, scales: Tensor) -> "SecularProblem":
        """The same with each update at its own scale ``(batch)``, which must not be 0."""
        return replace(self, scales=scales)

    def apply(self, rows: Tensor) -> Tensor:
        return rows * self.poles.unsqueeze(-2) + self._times_c(rows @ self.spread) @ self.across

    def projected(self, rows: Tensor) -> Tensor:
        """``(batch, c, c)``: the matrix between rows ``(batch, c, a)``."""
        return (rows * self.poles.unsqueeze(-2)) @ rows.mT + self.between(rows @ self.spread)

    def between(self, inner: Tensor) -> Tensor:
        """``(batch, c, c)``: ``F C F^T`` between rows whose products with F are ``inner`` ``(batch, c, 2r)``."""
        return self._times_c(inner) @ inner.mT

    def solve(self, shifts: Tensor, rows: Tensor) -> Tensor:
        """``(A - shift)^-1 row`` of rows ``(batch, c, a)``, each at a shift of its own ``(batch, c)``.

        Rows of which nothing finite comes are returned as they are.
        """
        weights, core = self._secular(shifts)
        first = weights * rows
        inner, _ = torch.linalg.solve_ex(core, (first @ self.spread).unsqueeze(-1))
        solved = first + weights * (inner.squeeze(-1) @ self.across)
        solved = solved / solved.abs().amax(-1, keepdim=True)
        return torch.where(solved.isfinite().all(-1, keepdim=True), solved, rows)

    def over_poles(self, shifts: Tensor, rows: Tensor) -> Tensor:
        """``(D - shift)^-1 row`` of rows ``(batch, c, a)``: of a residual where its vector is wrong."""
        solved = rows * self._weights(shifts)
        return solved / solved.abs().amax(-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)

    def counts(self, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """Count the eigenvalues above each shift ``(batch, c)``; also return whether rounding cannot have changed that.

        Each sum over the coordinates is taken to be as wrong as it can be.
        """
        weights, core = self._secular(shifts)
        eigenvalues = eigvalsh(core)
        above = (self.poles.unsqueeze(-2) > shifts.unsqueeze(-1)).sum(-1)
        counts = above + (eigenvalues > 0).sum(-1) - self.rank
        width, a = self.across.shape[-2:]
        size = weights.abs()
        mass = (size @ self.across.square().sum(-2).unsqueeze(-1)).squeeze(-1)
        eps = torch.finfo(self.across.dtype).eps
        # A pole and a shift are rounded too, which moves their distance by a share of itself.
        near = ((self.poles.unsqueeze(-2) + shifts.unsqueeze(-1)) * size).amax(-1)
        wrong = eps * mass * (a + 8 + near) + eps * width * eigenvalues.abs().amax(-1)
        return counts, eigenvalues.abs().amin(-1) > _SURE * wrong

    def _secular(self, shifts: Tensor) -> tuple[Tensor, Tensor]:
        """``(D - t)^-1`` ``(batch, c, a)`` and K(t) ``(batch, c, 2r, 2r)``."""
        weights = self._weights(shifts)
        batch, c, a = weights.shape
        width = self.across.shape[-2]
        step = max(1, _AT_ONCE // max(1, batch * a * width))
        core = weights.new_empty(batch, c, width, width)
        rows = self.across.unsqueeze(1)
        for first in range(0, c, step):
            part = slice(first, first + step)
            # One product of all shifts a matrix: as many products as shifts would each get a copy of F.
            weighted = (rows * weights[:, part].unsqueeze(-2)).flatten(1, 2)
            core[:, part] = -(weighted @ self.spread).view(batch, -1, width, width)
        rank = self.rank
        upper = torch.arange(rank, device=core.device)
        inverse = (1 / self.scales)[:, None, None]
        core[..., upper, upper] += 1.0
        core[..., upper, upper + rank] -= inverse
        core[..., upper + rank, upper] -= inverse
        return weights, core

    def _weights(self, shifts: Tensor) -> Tensor:
        """``(D - t)^-1`` ``(batch, c, a)``."""
        distances = self.poles.unsqueeze(-2) - shifts.unsqueeze(-1)
        largest = torch.maximum(self.poles.amax(-1), _AT_LEAST * self.across.square().sum((-2, -1)))
        least = _OFF_POLE * largest[:, None, None].clamp_min(torch.finfo(self.poles.dtype).tiny * 1e20)
        return 1 / torch.where(distances.abs() < least, least, distances)

    def _times_c(self, inner: Tensor) -> Tensor:
        """``(batch, c, 2r)`` rows times C."""
        first, second = inner[..., : self.rank], inner[..., self.rank :]
        scales = self.scales[:, None, None]
        return torch.cat([scales * second, scales * (first + scales * second)], -1)
