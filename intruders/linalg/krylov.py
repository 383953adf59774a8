"""Leading singular triplets from a few passes over a matrix: a two-sided block Krylov method.

A :class:`KrylovSpace` holds an orthonormal left basis U and right basis V (as rows) with their products U W
and V W^T. The singular value decomposition of the small matrix U W V^T gives Ritz triplets, whose residuals
follow from the stored products without touching W again. The space grows by residuals: of a random block at
first (block Golub-Kahan, as in Musco and Musco 2015), then of those triplets that have not converged, so
that a space that starts from good vectors needs few products and stops early.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import LowRankUpdate, Operator
from .orthonormal import GrowingRows, orthonormalize
from .svd import CLUSTER_TOLERANCE, cluster_ids

# Rows of a block. A narrow block reaches a higher polynomial degree for the same basis size, which is what
# flat spectra need: on SmolLM2-135M's projections 24 steps of 4 rows resolve what 10 steps of 16 do not.
BLOCK = 4
# Steps between two Rayleigh-Ritz decompositions, whose cost is that of several thin products.
STRIDE = 8
# Share of a gap that the residual of the vector below it may take before that vector is computed better too.
_LIMITING = 0.25
# A gap that an unconverged neighbour may have closed.
_NO_GAP = 1e-300


@dataclass(frozen=True)
class Triplets:
    """Leading singular triplets of a stack of matrices, with what is known about their errors."""

    values: Tensor  # (*batch, k), descending
    left: Tensor  # (*batch, k, m), unit rows
    right: Tensor  # (*batch, k, n), unit rows
    residuals: Tensor  # (*batch, k): sqrt(||y W - s v||^2 + ||W v - s y||^2), same unit as the values
    angles: Tensor  # (*batch, k): bounds on the sines of the angles between left vectors and the true ones

    def select(self, index: Tensor) -> Triplets:
        """The triplets of the matrices at ``index`` of a stack."""
        fields = (self.values, self.left, self.right, self.residuals, self.angles)
        return Triplets(*(field[index] for field in fields))


class KrylovSpace:
    """Orthonormal left and right bases of a stack of matrices, with their products; both grow in place."""

    def __init__(
        self,
        operator: Operator,
        left: Tensor,  # (*batch, a, m), orthonormal rows
        left_products: Tensor,  # (*batch, a, n): left @ W
        right: Tensor,  # (*batch, c, n), orthonormal rows
        right_products: Tensor,  # (*batch, c, m): right @ W.mT
        room: int = 0,
    ) -> None:
        self.operator = operator
        self._left = GrowingRows(left, room)
        self._left_products = GrowingRows(left_products, room)
        self._right = GrowingRows(right, room)
        self._right_products = GrowingRows(right_products, room)
        # The small decomposition and Ritz vectors of the space as it is now; growing forgets them.
        self._decomposed: tuple[Tensor, Tensor, Tensor] | None = None
        self._ritz: tuple[int, tuple[Triplets, Tensor, Tensor]] | None = None

    @classmethod
    def from_random_block(
        cls, operator: Operator, width: int, steps: int, seed: int = 0, room: int = 0
    ) -> KrylovSpace:
        """Block Golub-Kahan from ``width`` Gaussian rows: ``2 * steps`` passes of a block over the matrix."""
        *batch, _, n = operator.shape
        generator = torch.Generator().manual_seed(seed)
        # The same block for every matrix of a stack: results must not depend on what it is batched with.
        block = torch.randn(width, n, generator=generator, dtype=operator.dtype).to(operator.device)
        right = orthonormalize(block.expand(*batch, width, n))
        right_products = operator.apply(right)
        left = orthonormalize(right_products)
        left_products = operator.apply_transpose(left)
        space = cls(operator, left, left_products, right, right_products, room + width * (steps - 1))
        for _ in range(steps - 1):
            space.grow_right(space.left_products[..., -width:, :])
            space.grow_left(space.right_products[..., -width:, :])
        return space

    @classmethod
    def from_bases(cls, operator: Operator, left: Tensor, right: Tensor, room: int = 0) -> KrylovSpace:
        """The space of given orthonormal rows, multiplied out: one pass for each side."""
        return cls(operator, left, operator.apply_transpose(left), right, operator.apply(right), room)

    @property
    def left(self) -> Tensor:
        return self._left.rows

    @property
    def left_products(self) -> Tensor:
        return self._left_products.rows

    @property
    def right(self) -> Tensor:
        return self._right.rows

    @property
    def right_products(self) -> Tensor:
        return self._right_products.rows

    def grow_left(self, directions: Tensor) -> None:
        """Adds the span of ``directions`` ``(*batch, b, m)`` to the left basis: one pass of b rows."""
        self._decomposed = self._ritz = None
        new = orthonormalize(directions, self.left)
        self._left.append(new)
        self._left_products.append(self.operator.apply_transpose(new))

    def grow_right(self, directions: Tensor) -> None:
        """Adds the span of ``directions`` ``(*batch, b, n)`` to the right basis: one pass of b rows."""
        self._decomposed = self._ritz = None
        new = orthonormalize(directions, self.right)
        self._right.append(new)
        self._right_products.append(self.operator.apply(new))

    def grow_randomly(self, width: int, steps: int, seed: int = 0) -> None:
        """Adds a block Golub-Kahan chain from Gaussian rows: ``2 * steps`` passes of ``width`` rows."""
        generator = torch.Generator().manual_seed(seed)
        shape = (width, self.right.shape[-1])
        block = torch.randn(shape, generator=generator, dtype=self.right.dtype).to(self.right.device)
        self.grow_right(block.expand(*self.right.shape[:-2], *shape))
        for step in range(steps):
            self.grow_left(self.right_products[..., -width:, :])
            if step < steps - 1:
                self.grow_right(self.left_products[..., -width:, :])

    def compressed(self, count: int) -> KrylovSpace:
        """The subspace of the ``count`` leading Ritz vectors on each side; products follow without a pass."""
        a, _, b = self._small_svd(count)
        return KrylovSpace(
            self.operator, a @ self.left, a @ self.left_products, b @ self.right, b @ self.right_products
        )

    def plus_lowrank(self, left: Tensor, right: Tensor) -> KrylovSpace:
        """The same bases for ``W + left @ right``, of shapes (m, r) and (r, n): no pass over W."""
        room = 2 * left.shape[-1] + 4 * BLOCK * STRIDE
        return KrylovSpace(
            LowRankUpdate(self.operator, left, right),
            self.left,
            self.left_products + (self.left @ left) @ right,
            self.right,
            self.right_products + (self.right @ right.mT) @ left.mT,
            room,
        )

    def ritz(self, count: int) -> tuple[Triplets, Tensor, Tensor]:
        """The ``count`` leading Ritz triplets, with their residual rows on the left and on the right side."""
        if self._ritz is not None and self._ritz[0] == count:
            return self._ritz[1]
        a, values, b = self._small_svd(count + 1)
        floor = values[..., count] if values.shape[-1] > count else torch.zeros_like(values[..., 0])
        a, values, b = a[..., :count, :], values[..., :count], b[..., :count, :]
        dtype = self.left.dtype
        scale = values.to(dtype).unsqueeze(-1)
        left, right = a @ self.left, b @ self.right
        left_residual = b @ self.right_products - scale * left  # (*batch, count, m)
        right_residual = a @ self.left_products - scale * right  # (*batch, count, n)
        residuals = torch.hypot(left_residual.norm(dim=-1), right_residual.norm(dim=-1)).double()
        angles = _angle_bounds(values, residuals, floor, torch.finfo(dtype).eps)
        triplets = Triplets(values.to(dtype), left, right, residuals.to(dtype), angles.to(dtype))
        self._ritz = count, (triplets, left_residual, right_residual)
        return self._ritz[1]

    def _small_svd(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Leading triplets of ``left @ W @ right.mT``: vectors as rows in the bases' dtype, values in double."""
        if self._decomposed is None:
            core = (self.left_products @ self.right.mT).double()
            a, values, b = _small_svd(core)
            self._decomposed = a.to(self.left.dtype), values, b.to(self.left.dtype)
        a, values, b = self._decomposed
        return a[..., :count, :], values[..., :count], b[..., :count, :]


def _small_svd(core: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Left vectors (rows), values and right vectors (rows) of small double-precision matrices, descending.

    Through the eigenvectors of the smaller Gram matrix, at half the time of an SVD. Squaring costs accuracy only in
    values below 1e-8 of the largest, and those never lead unless the matrix has too few others.
    """
    if core.shape[-2] > core.shape[-1]:
        right, values, left = _small_svd(core.mT)
        return left, values, right
    _, vectors = torch.linalg.eigh(core @ core.mT)
    left = vectors.mT.flip(-2)
    right = left @ core
    values = right.norm(dim=-1)
    right = right / values.unsqueeze(-1).clamp_min(torch.finfo(values.dtype).tiny)
    return left, values, right


def _angle_bounds(values: Tensor, residuals: Tensor, floor: Tensor, eps: float) -> Tensor:
    """Bounds on the sines of the angles of left Ritz vectors to the true ones.

    The smaller of two. The first is residual over gap (Davis and Kahan 1970). The second tells near neighbours, which
    the Ritz vectors hold themselves, from the rest of the spectrum, which lies farther off. The leading b Ritz triplets
    and what is orthogonal to them split the symmetric matrix of W and W^T into ``[[diag(s), E^T], [E, M]]``, with R the
    norm of their residuals: ``||E||^2 <= R^2 / 2``. With g the distance of s_j to the spectrum of M, an eigenvector's
    part in the leading b is one of ``diag(s) + P``, ``0 <= P <= h = R^2 / 2g`` (Schur complement), and rounding. So it
    turns among them by at most ``a = h / d``, d being the distance of s_j to the other values there, less h; and out
    of them by ``(r_j + R a) / g``. The least over b counts.

    The gap below is that to the next Ritz value, or to ``floor``, the first one left out, less its residual: Ritz
    values lie below the true ones until they have converged. Values of one cluster are no gap: the angle is then that
    to the cluster's space.
    """
    # The last value has nothing below it but the floor, of which nothing is known but that it is a lower bound.
    below = torch.cat([values[..., 1:], floor.unsqueeze(-1)], dim=-1)
    unsure = torch.cat([residuals[..., 1:], residuals[..., -1:]], dim=-1)
    steps = values - below
    ids = cluster_ids(values)
    is_open = steps[..., -1:] <= CLUSTER_TOLERANCE * values[..., :1]  # the last cluster may go on below
    apart = torch.cat([ids[..., 1:] != ids[..., :-1], ~is_open], dim=-1)
    down = torch.where(apart, (steps - unsure).clamp_min(_NO_GAP), torch.inf)
    first = torch.full_like(steps[..., :1], torch.inf)
    above = torch.cat([first, torch.where(apart, steps, torch.inf)[..., :-1]], dim=-1)
    nearest = torch.full_like(steps, torch.inf).scatter_reduce(-1, ids, torch.minimum(down, above), "amin")
    nearest = nearest.gather(-1, ids)
    rounding = 4 * eps * values[..., :1]
    residuals = residuals + rounding
    # Of a cluster that may go on below, the vectors here are a part: nothing is known of its space.
    is_part = is_open & (ids == ids[..., -1:])
    direct = torch.where(is_part | nearest.isinf(), 1.0, residuals / nearest)

    # Entries are (*batch, b, j) from here on: of vector j with the split below b.
    block = residuals.square().cumsum(-1).sqrt().unsqueeze(-1)  # R
    gap = values.unsqueeze(-2) - (below + unsure).unsqueeze(-1)  # g
    gap = gap.clamp_min(_NO_GAP)
    turned = block.square() / (2 * gap) + rounding.unsqueeze(-1)  # h
    inner = _distances_within(values, steps, apart, ids).unsqueeze(-2)
    within = (inner - turned).clamp_min(_NO_GAP)
    turn = turned / within
    bound = turn + (residuals.unsqueeze(-2) + block * turn) / gap
    kept = torch.ones_like(bound, dtype=torch.bool).tril() & (gap > _NO_GAP)
    split = torch.where(kept, bound, 1.0).amin(-2)
    return torch.minimum(direct, split).clamp_max(1.0)


def _distances_within(values: Tensor, steps: Tensor, apart: Tensor, ids: Tensor) -> Tensor:
    """Distance ``(*batch, k)`` of each value's cluster to the nearest value outside it, among the leading k."""
    last = torch.full_like(steps[..., :1], torch.inf)
    down = torch.cat([torch.where(apart, steps, torch.inf)[..., :-1], last], dim=-1)
    up = torch.cat([last, torch.where(apart, steps, torch.inf)[..., :-1]], dim=-1)
    nearest = torch.full_like(steps, torch.inf).scatter_reduce(-1, ids, torch.minimum(down, up), "amin")
    return nearest.gather(-1, ids)


def converge(
    space: KrylovSpace, count: int, tracked: int, tolerance: float, max_rounds: int, width: int = BLOCK
) -> Triplets:
    """Grows ``space`` in place until the ``count`` leading left vectors are within ``tolerance`` of the true ones.

    ``tolerance`` is a sine. Returns ``tracked >= count`` triplets; which of them have converged is in their
    ``angles``. ``max_rounds`` bounds the work for spectra without gaps, where the caller takes another way.
    """
    for _ in range(max_rounds):
        triplets, _, _ = space.ritz(tracked)
        if not refine(space, tracked, triplets.angles[..., :count] > tolerance, width):
            break
    return space.ritz(tracked)[0]


def refine(
    space: KrylovSpace, tracked: int, wanted: Tensor, width: int = BLOCK, stride: int = STRIDE
) -> bool:
    """Grows ``space`` in place from the residuals of the ``wanted`` ``(batch, c)`` of its leading vectors, once.

    Adds up to ``width`` residual rows, and goes ``stride`` steps on from them. Gives whether it has grown: not where
    nothing is wanted that more steps could better, and not beyond the size of the matrix.
    """
    triplets, left_residual, right_residual = space.ritz(tracked)
    wanted = _with_limiting_neighbours(wanted, triplets)
    held_back = wanted & _can_be_bettered(triplets)[..., : wanted.shape[-1]]
    rows = min(width, int(held_back.sum(-1).max()))
    used = max(space.left.shape[-2], space.right.shape[-2])
    if rows == 0 or used + stride * rows > min(space.operator.shape[-2:]):
        return False
    chosen = held_back.int().argsort(dim=-1, descending=True, stable=True)[..., :rows]
    _grow(space, triplets, left_residual, right_residual, chosen, stride)
    return True


def _with_limiting_neighbours(wanted: Tensor, triplets: Triplets) -> Tensor:
    """Also the vector after a wanted one, where its residual is what leaves no gap between the two."""
    count = min(wanted.shape[-1] + 1, triplets.values.shape[-1])
    gaps = triplets.values[..., : count - 1] - triplets.values[..., 1:count]
    limits = triplets.residuals[..., 1:count] > _LIMITING * gaps
    extended = torch.nn.functional.pad(wanted, (0, count - wanted.shape[-1]))
    extended[..., 1:] |= extended[..., :-1] & limits
    return extended


def _can_be_bettered(triplets: Triplets) -> Tensor:
    """Which vectors are held back by their residual, rather than by rounding."""
    noise = 16 * torch.finfo(triplets.values.dtype).eps * triplets.values[..., :1]
    return triplets.residuals > noise


def _grow(
    space: KrylovSpace,
    triplets: Triplets,
    left_residual: Tensor,
    right_residual: Tensor,
    chosen: Tensor,
    stride: int,
) -> None:
    """Adds the chosen residual rows, then follows each chain for ``stride`` steps: products of what was added last.

    A space grown from one side only (Golub-Kahan) has zero residuals on one side, and one chain; a space
    that starts from bases on both sides has two.
    """
    rows = chosen.shape[-1]
    noise = 16 * torch.finfo(triplets.values.dtype).eps * triplets.values[..., :1]
    left_open = bool((left_residual.norm(dim=-1) > noise).any())
    right_open = bool((right_residual.norm(dim=-1) > noise).any())
    if left_open:
        space.grow_left(_gather_rows(left_residual, chosen))
    if right_open:
        space.grow_right(_gather_rows(right_residual, chosen))
    for _ in range(stride - 1):
        from_left, from_right = space.left_products[..., -rows:, :], space.right_products[..., -rows:, :]
        if left_open:
            space.grow_right(from_left)
        if right_open:
            space.grow_left(from_right)
        left_open, right_open = right_open, left_open


def _gather_rows(rows: Tensor, index: Tensor) -> Tensor:
    return rows.gather(-2, index.unsqueeze(-1).expand(*index.shape, rows.shape[-1]))
