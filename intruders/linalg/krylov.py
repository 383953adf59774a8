"""Leading singular triplets from a few passes over a matrix: a two-sided block Krylov method.

A :class:`KrylovSpace` holds an orthonormal left basis U and right basis V (as rows) with their products U W
and V W^T. The singular value decomposition of the small matrix U W V^T gives Ritz triplets, whose residuals
follow from the stored products without touching W again. The space grows by residuals: of a random block at
first (block Golub-Kahan, as in Musco and Musco 2015), then of those triplets alone that have not converged,
so that a space that starts from good vectors needs few products and stops early.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .operators import LowRankUpdate, Operator
from .svd import CLUSTER_TOLERANCE, cluster_ids

# Rows of a block. A narrow block reaches a higher polynomial degree for the same basis size, which is what
# flat spectra
# need: on SmolLM2-135M's projections 32 steps of 4 rows resolve what 12 steps of 16 do not.
BLOCK = 4
# Steps between two Rayleigh-Ritz decompositions, whose cost is that of several thin products.
STRIDE = 4


@dataclass(frozen=True)
class Triplets:
    """Leading singular triplets of a stack of matrices, with what is known about their errors."""

    values: Tensor  # (*batch, k), descending
    left: Tensor  # (*batch, k, m), unit rows
    right: Tensor  # (*batch, k, n), unit rows
    residuals: Tensor  # (*batch, k): sqrt(||y W - s v||^2 + ||W v - s y||^2), same unit as the values
    angles: (
        Tensor  # (*batch, k): bound on the sine of the angle between a computed left vector and the true one
    )

    def select(self, index: Tensor) -> Triplets:
        return Triplets(*(getattr(self, name)[index] for name in _TRIPLET_FIELDS))

    def leading(self, count: int) -> Triplets:
        return Triplets(
            self.values[..., :count],
            self.left[..., :count, :],
            self.right[..., :count, :],
            self.residuals[..., :count],
            self.angles[..., :count],
        )

    def with_rows_replaced(self, index: Tensor, other: Triplets) -> Triplets:
        """A copy in which the matrices at ``index`` of the stack take ``other``'s triplets."""
        return Triplets(
            *(
                getattr(self, name).index_copy(0, index, getattr(other, name).to(self.values.dtype))
                for name in _TRIPLET_FIELDS
            )
        )


_TRIPLET_FIELDS = ("values", "left", "right", "residuals", "angles")


def orthonormalize(rows: Tensor, against: Tensor | None = None) -> Tensor:
    """An orthonormal basis of the rows' span, orthogonal to the orthonormal rows of ``against``.

    ``rows`` is ``(*batch, b, n)``, ``against`` ``(*batch, a, n)`` with a + b <= n. Dependent or zero rows are
    replaced by arbitrary directions, so that the answer always has b rows. Two rounds of classical
    Gram-Schmidt are enough for orthogonality to rounding ("twice is enough", Giraud et al. 2005).
    """
    rows = torch.nn.functional.normalize(rows, dim=-1)
    for _ in range(2):
        if against is not None:
            rows = rows - (rows @ against.mT) @ against
        rows = torch.linalg.qr(rows.mT)[0].mT
    return rows.contiguous()


@dataclass(frozen=True)
class KrylovSpace:
    """Orthonormal left and right bases (rows) of an operator, with their products."""

    operator: Operator
    left: Tensor  # (*batch, a, m)
    left_products: Tensor  # (*batch, a, n): left @ W
    right: Tensor  # (*batch, c, n)
    right_products: Tensor  # (*batch, c, m): right @ W.mT

    @classmethod
    def from_random_block(cls, operator: Operator, width: int, steps: int, seed: int = 0) -> KrylovSpace:
        """Block Golub-Kahan from ``width`` Gaussian rows: ``2 * steps`` passes of a block over the matrix."""
        *batch, _, n = operator.shape
        generator = torch.Generator().manual_seed(seed)
        # The same block for every matrix of a stack: results must not depend on what it is batched with.
        block = torch.randn(width, n, generator=generator, dtype=operator.dtype).to(operator.device)
        right = orthonormalize(block.expand(*batch, width, n))
        right_products = operator.apply(right)
        left = orthonormalize(right_products)
        space = cls(operator, left, operator.apply_transpose(left), right, right_products)
        for _ in range(steps - 1):
            space = space.grow_right(space.left_products[..., -width:, :])
            space = space.grow_left(space.right_products[..., -width:, :])
        return space

    @classmethod
    def from_bases(cls, operator: Operator, left: Tensor, right: Tensor) -> KrylovSpace:
        """The space of given orthonormal rows, multiplied out: one pass for each side."""
        return cls(operator, left, operator.apply_transpose(left), right, operator.apply(right))

    def grow_left(self, directions: Tensor) -> KrylovSpace:
        """Adds the span of ``directions`` ``(*batch, b, m)`` to the left basis: one pass of b rows."""
        new = orthonormalize(directions, self.left)
        return replace(
            self,
            left=torch.cat([self.left, new], dim=-2),
            left_products=torch.cat([self.left_products, self.operator.apply_transpose(new)], dim=-2),
        )

    def grow_right(self, directions: Tensor) -> KrylovSpace:
        """Adds the span of ``directions`` ``(*batch, b, n)`` to the right basis: one pass of b rows."""
        new = orthonormalize(directions, self.right)
        return replace(
            self,
            right=torch.cat([self.right, new], dim=-2),
            right_products=torch.cat([self.right_products, self.operator.apply(new)], dim=-2),
        )

    def select(self, index: Tensor) -> KrylovSpace:
        return KrylovSpace(
            self.operator.select(index),
            self.left[index],
            self.left_products[index],
            self.right[index],
            self.right_products[index],
        )

    def compressed(self, count: int) -> KrylovSpace:
        """The subspace of the ``count`` leading Ritz vectors on each side; products follow without a pass."""
        core = (self.left_products @ self.right.mT).double()
        a, _, b = _leading_svd(core, count)
        a, b = a.to(self.left.dtype), b.to(self.left.dtype)
        return KrylovSpace(
            self.operator, a @ self.left, a @ self.left_products, b @ self.right, b @ self.right_products
        )

    def plus_lowrank(self, left: Tensor, right: Tensor) -> KrylovSpace:
        """The same bases for ``W + left @ right``, of shapes (m, r) and (r, n): no pass over W."""
        return KrylovSpace(
            LowRankUpdate(self.operator, left, right),
            self.left,
            self.left_products + (self.left @ left) @ right,
            self.right,
            self.right_products + (self.right @ right.mT) @ left.mT,
        )

    def ritz(self, count: int) -> tuple[Triplets, Tensor, Tensor]:
        """The ``count`` leading Ritz triplets, with their residual rows on the left and on the right side."""
        core = (self.left_products @ self.right.mT).double()  # (*batch, a, c)
        a, values, b = _leading_svd(core, count + 1)
        floor = values[..., count] if values.shape[-1] > count else torch.zeros_like(values[..., 0])
        values = values[..., :count]
        a = a[..., :count, :].to(self.left.dtype)  # (*batch, count, a)
        b = b[..., :count, :].to(self.left.dtype)  # (*batch, count, c)
        scale = values.to(self.left.dtype).unsqueeze(-1)
        left, right = a @ self.left, b @ self.right
        left_residual = b @ self.right_products - scale * left  # (*batch, count, m)
        right_residual = a @ self.left_products - scale * right  # (*batch, count, n)
        squared = left_residual.double().square().sum(-1) + right_residual.double().square().sum(-1)
        residuals = squared.sqrt()
        angles = _angle_bounds(values, residuals, floor, torch.finfo(self.left.dtype).eps)
        dtype = self.left.dtype
        triplets = Triplets(values.to(dtype), left, right, residuals.to(dtype), angles.to(dtype))
        return triplets, left_residual, right_residual


def _leading_svd(core: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """``count`` leading left vectors (rows), values and right vectors (rows) of small double-precision
    matrices.

    Through the eigenvectors of the smaller Gram matrix, at half the time of an SVD. Squaring costs accuracy
    only in values below 1e-8 of the largest, and those never lead unless the matrix has too few others.
    """
    if core.shape[-2] > core.shape[-1]:
        right, values, left = _leading_svd(core.mT, count)
        return left, values, right
    _, vectors = torch.linalg.eigh(core @ core.mT)
    left = vectors.mT.flip(-2)[..., :count, :]
    right = left @ core
    values = right.norm(dim=-1)
    right = right / values.unsqueeze(-1).clamp_min(torch.finfo(values.dtype).tiny)
    return left, values, right


def _angle_bounds(values: Tensor, residuals: Tensor, floor: Tensor, eps: float) -> Tensor:
    """Bounds on the sines of the angles of Ritz vectors to the true ones: residual over gap (Davis and Kahan
    1970).

    The gap is that to the nearest other Ritz value, or to ``floor``, the first one left out. A smaller,
    second-order bound holds between vectors of one Ritz step, but only where no true value hides between two
    Ritz values, and a space that has not converged can hide some. Values of one cluster are no gap: the
    angle is then that to the cluster's space. A cluster's size must stay below the width of the block that
    made the space, or copies of it may be missing; ``converge`` sees to that.
    """
    below = torch.cat([values[..., 1:], floor.unsqueeze(-1)], dim=-1)
    steps = values - below
    steps = torch.where(steps > CLUSTER_TOLERANCE * values[..., :1], steps, torch.inf)
    above = torch.cat([torch.full_like(steps[..., :1], torch.inf), steps[..., :-1]], dim=-1)
    gap = torch.minimum(steps, above)
    ids = cluster_ids(values)
    gap = torch.full_like(gap, torch.inf).scatter_reduce(-1, ids, gap, "amin").gather(-1, ids)
    rounding = 4 * eps * values[..., :1]
    # An infinite gap is an unknown one: the cluster reaches from the first value down to the floor.
    return torch.where(gap.isinf(), 1.0, (residuals + rounding) / gap).clamp_max(1.0)


def converge(
    space: KrylovSpace, count: int, tracked: int, tolerance: float, max_rounds: int, width: int = BLOCK
) -> Triplets:
    """Grows ``space`` until the ``count`` leading left vectors are within ``tolerance`` (a sine) of the true
    ones.

    Returns ``tracked >= count`` triplets; which of them have converged is in their ``angles``. The stack is
    one-dimensional here, and matrices that have converged leave it. Every round adds up to ``width`` rows
    and goes ``STRIDE`` steps on from them. ``max_rounds`` bounds the work for spectra without gaps, where
    the caller takes another way.
    """
    triplets, left_residual, right_residual = space.ritz(tracked)
    capacity = min(space.operator.shape[-2:])
    for round_number in range(max_rounds):
        still_open = _unconverged(triplets, count, tolerance)  # (batch, count)
        pending = still_open.any(-1).nonzero().squeeze(-1)
        if len(pending) == 0:
            break
        rows = min(width, int(still_open.sum(-1).max()))
        if max(space.left.shape[-2], space.right.shape[-2]) + STRIDE * rows > capacity:
            break
        if len(pending) <= still_open.shape[0] // 2:
            rest = converge(
                space.select(pending), count, tracked, tolerance, max_rounds - round_number, width
            )
            return triplets.with_rows_replaced(pending, rest)
        chosen = still_open.int().argsort(dim=-1, descending=True, stable=True)[..., :rows]
        space = _grow(space, triplets, left_residual, right_residual, chosen)
        triplets, left_residual, right_residual = space.ritz(tracked)
    return triplets


def _unconverged(triplets: Triplets, count: int, tolerance: float) -> Tensor:
    """Which of the leading vectors are held back by their residual, rather than by rounding."""
    noise = 16 * torch.finfo(triplets.values.dtype).eps * triplets.values[..., :1]
    angles = triplets.angles[..., :count]
    return (angles > tolerance) & (triplets.residuals[..., :count] > noise)


def _grow(
    space: KrylovSpace, triplets: Triplets, left_residual: Tensor, right_residual: Tensor, chosen: Tensor
) -> KrylovSpace:
    """Adds the chosen residual rows, then follows each chain for ``STRIDE`` steps: products of what was
    added last.

    A space grown from one side only (Golub-Kahan) has zero residuals on one side, and one chain; a space that
    starts from bases on both sides has two.
    """
    rows = chosen.shape[-1]
    noise = 16 * torch.finfo(triplets.values.dtype).eps * triplets.values[..., :1]
    left_open = bool((left_residual.norm(dim=-1) > noise).any())
    right_open = bool((right_residual.norm(dim=-1) > noise).any())
    if left_open:
        space = space.grow_left(_gather_rows(left_residual, chosen))
    if right_open:
        space = space.grow_right(_gather_rows(right_residual, chosen))
    for _ in range(STRIDE - 1):
        from_left, from_right = space.left_products[..., -rows:, :], space.right_products[..., -rows:, :]
        if left_open:
            space = space.grow_right(from_left)
        if right_open:
            space = space.grow_left(from_right)
        left_open, right_open = right_open, left_open
    return space


def _gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    return rows.gather(-2, index.unsqueeze(-1).expand(*index.shape, rows.shape[-1]))
