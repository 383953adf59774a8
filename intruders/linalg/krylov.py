"""Leading singular triplets from a few passes over a matrix: block Lanczos on the Gram matrix of its shorter side.

A :class:`KrylovSpace` holds an orthonormal basis V (as rows) of vectors of the shorter side, their products P = V W^T
and N = P W of those (W^T for W in a matrix with more columns than rows). The eigenvectors of the small matrix P P^T
give Ritz triplets, whose residuals follow from N without touching W again. A step costs as much as one of block
Golub-Kahan (Musco and Musco 2015), but keeps one basis orthonormal instead of two, and that with the shorter rows.
The space grows from a random block at first, then by residuals of those triplets that have not converged.
"""

import torch
from torch import Tensor

from .low_rank import LowRank
from .operators import Dense, Operator, Sum
from .orthonormal import orthonormalize
from .products import rounding
from .random_directions import own_generator
from .ritz import Triplets, angle_bounds
from .svd import cluster_ids, eigh

# Rows of a block. A narrow block reaches a higher polynomial degree for the same basis size, which is what
# flat spectra need: on SmolLM2-135M's projections 24 steps of 4 rows resolve what 10 steps of 16 do not. Blocks of 8
# and 16 rows with fewer steps gained a tenth there at best, on one core of an Intel Xeon. On the benchmark's synthetic
# squares of 576 to 1024 without intruders they are up to 1.8 times faster.
BLOCK = 4
# Steps that a space goes on from the residuals of vectors that have not converged.
_STEPS = 4
# Share of a gap that the residual of the vector below it may take before that vector is computed better too.
_LIMITING = 0.25
# Roundings of the largest value below which a singular value has no direction.
_NOISE = 16


class KrylovSpace:
    """Orthonormal rows of a batch of matrices' shorter side, with their products; it grows in place."""

    def __init__(self, operator: Operator, basis: Tensor, products: Tensor, squares: Tensor) -> None:
        """With p = min(m, n) and q = max(m, n): basis and squares ``(*batch, a, p)``, products ``(*batch, a, q)``."""
        self.operator, self.basis, self.products, self.squares = operator, basis, products, squares
        self._core = basis.new_zeros(*basis.shape[:-2], 0, 0, dtype=torch.float64)
        # The small decomposition and Ritz vectors of the space as it is now; growing forgets them.
        self._decomposed: tuple[Tensor, Tensor] | None = None
        self._ritz: tuple[int, tuple[Triplets, Tensor]] | None = None

    @classmethod
    def empty(cls, operator: Operator) -> "KrylovSpace":
        *batch, m, n = operator.shape
        none = torch.zeros(*batch, 0, min(m, n), dtype=operator.dtype, device=operator.device)
        return cls(operator, none, none.new_zeros(*batch, 0, max(m, n)), none)

    @classmethod
    def from_random_block(cls, operator: Operator, width: int, steps: int) -> "KrylovSpace":
        """The chain of ``width`` Gaussian rows: ``2 * steps`` passes of a block over the matrix."""
        space = cls.empty(operator)
        space.grow_randomly(width, steps)
        return space

    @property
    def is_left(self) -> bool:
        """Whether the basis is of left vectors: the matrices have fewer rows than columns."""
        return self.operator.shape[-2] < self.operator.shape[-1]

    def __len__(self) -> int:
        return self.basis.shape[-2]

    def grow(self, directions: Tensor) -> None:
        """Add the span of ``directions`` ``(*batch, b, p)``: two passes of b rows."""
        self._decomposed = self._ritz = None
        new = orthonormalize(directions, self.basis if len(self) else None)
        products = self.operator.apply_transpose(new) if self.is_left else self.operator.apply(new)
        squares = self.operator.apply(products) if self.is_left else self.operator.apply_transpose(products)
        self.basis = torch.cat([self.basis, new], -2)
        self.products = torch.cat([self.products, products], -2)
        self.squares = torch.cat([self.squares, squares], -2)

    def grow_chain(self, width: int, steps: int) -> None:
        """Continue the chain from the last ``width`` rows: ``2 * steps`` passes."""
        for _ in range(steps):
            self.grow(self.squares[..., -width:, :])

    def grow_randomly(self, width: int, steps: int) -> None:
        """Add a chain from ``width`` Gaussian rows: ``2 * steps`` passes."""
        shape = (width, self.basis.shape[-1])
        block = torch.randn(shape, generator=own_generator(), dtype=self.basis.dtype).to(self.basis.device)
        # The same block for every matrix of a batch: results must not depend on what it is batched with.
        self.grow(block.expand(*self.basis.shape[:-2], *shape))
        self.grow_chain(width, steps - 1)

    def compressed(self, count: int) -> "KrylovSpace":
        """The subspace of the ``count`` leading Ritz vectors; products follow without a pass."""
        if len(self) <= count:
            return self
        a, _ = self._small_eigenvectors(count)
        return KrylovSpace(self.operator, a @ self.basis, a @ self.products, a @ self.squares)

    def select(self, index: Tensor) -> "KrylovSpace":
        basis, products, squares = (part[index] for part in (self.basis, self.products, self.squares))
        selected = KrylovSpace(self.operator.select(index), basis, products, squares)
        selected._core = self._core[index]
        return selected

    def repeated(self, count: int) -> "KrylovSpace":
        operator = Dense(self.operator.dense().expand(count, -1, -1))
        basis, products, squares = (
            part.expand(count, -1, -1) for part in (self.basis, self.products, self.squares)
        )
        return KrylovSpace(operator, basis, products, squares)

    def with_rows(self, index: Tensor, other: "KrylovSpace") -> "KrylovSpace":
        """The same with the spaces of ``other``, of as many rows, for the matrices at ``index``."""
        basis = self.basis.index_copy(0, index, other.basis)
        products = self.products.index_copy(0, index, other.products)
        return KrylovSpace(self.operator, basis, products, self.squares.index_copy(0, index, other.squares))

    def plus_lowrank(self, update: LowRank) -> "KrylovSpace":
        """The same basis for ``W + update``: one pass of r rows over W.

        The space of one matrix may get a batch of updates of it.
        """
        base = self.operator
        if base.shape != update.shape:
            base = Dense(base.dense().expand(update.shape))
        if self.is_left:
            long, short = update.right, update.left.mT  # (r, q), (r, p)
            back = base.apply(long)
        else:
            long, short = update.left.mT, update.right
            back = base.apply_transpose(long)
        inner = self.basis @ short.mT
        products = self.products + inner @ long
        squares = self.squares + inner @ back + (products @ long.mT) @ short
        basis = self.basis.expand(*squares.shape)
        return KrylovSpace(Sum(base, update), basis, products, squares)

    def ritz(self, count: int) -> tuple[Triplets, Tensor]:
        """The ``count`` leading Ritz triplets, with their residual rows on the shorter side."""
        if self._ritz is not None and self._ritz[0] == count:
            return self._ritz[1]
        a, values = self._small_eigenvectors(count + 1)
        floor = values[..., count] if values.shape[-1] > count else torch.zeros_like(values[..., 0])
        a, values = a[..., :count, :], values[..., :count]
        eps = torch.finfo(self.basis.dtype).eps
        inverse = self._inverses(values)
        short, long = a @ self.basis, (a @ self.products) * inverse
        residual = (a @ self.squares) * inverse - values.to(self.basis.dtype).unsqueeze(-1) * short
        # What a residual has inside the space is rounding, and may be much of the largest vectors: W^T W multiplies it
        # by their squares. They are far off in value, and it turns a vector by little.
        inside = residual @ short.mT
        residual = residual - inside @ short
        residuals = residual.norm(dim=-1).double()
        noise = rounding(*self.operator.shape[-2:]) * eps
        ids = cluster_ids(values)
        apart = (values.unsqueeze(-1) - values.unsqueeze(-2)).abs()
        apart = torch.where(ids.unsqueeze(-1) == ids.unsqueeze(-2), torch.inf, apart)
        turned = (inside.double() / apart).norm(dim=-1)
        angles = angle_bounds(values, residuals, floor, noise, ids) + turned
        angles = torch.where(inverse.squeeze(-1) > 0, angles.clamp_max(1.0), 1.0)
        left, right = (short, long) if self.is_left else (long, short)
        dtype = self.basis.dtype
        triplets = Triplets(values.to(dtype), left, right, residuals.to(dtype), angles.to(dtype))
        self._ritz = count, (triplets, residual)
        return self._ritz[1]

    def products_of_other_side(self) -> Tensor:
        """``(*batch, a, p)``: of an orthonormal basis of the products' span, with zeros where that has fewer rows."""
        a, values = self._small_eigenvectors(len(self))
        return (a @ self.squares) * self._inverses(values)

    def _inverses(self, values: Tensor) -> Tensor:
        """``1 / values`` as a column in the basis's dtype, 0 for those that are rounding and have no direction."""
        has_direction = values > _NOISE * torch.finfo(self.basis.dtype).eps * values[..., :1]
        return torch.where(has_direction, 1 / values, 0.0).to(self.basis.dtype).unsqueeze(-1)

    def _small_eigenvectors(self, count: int) -> tuple[Tensor, Tensor]:
        """Leading eigenvectors of P P^T as rows in the basis's dtype, and the roots of their values in double."""
        if self._decomposed is None:
            known, products = self._core.shape[-1], self.products.double()
            strip = products[..., known:, :] @ products.mT  # (*batch, new, a)
            core = strip.new_empty(*strip.shape[:-2], len(self), len(self))
            core[..., :known, :known] = self._core
            core[..., known:, :] = strip
            core[..., :known, known:] = strip[..., :known].mT
            self._core = core
            squares, vectors = eigh(core)
            rows = vectors.mT.flip(-2).to(self.basis.dtype)
            self._decomposed = rows, squares.flip(-1).clamp_min(0.0).sqrt()
        a, values = self._decomposed
        return a[..., :count, :], values[..., :count]


def converge(space: KrylovSpace, count: int, tracked: int, tolerance: float, max_rounds: int) -> Triplets:
    """Grow ``space`` in place until the ``count`` leading left vectors are within ``tolerance`` of the true ones.

    ``tolerance`` is a sine. Returns ``tracked >= count`` triplets; which of them have converged is in their
    ``angles``. ``max_rounds`` bounds the work for spectra without gaps, where the caller takes another way.
    """
    for _ in range(max_rounds):
        triplets, _ = space.ritz(tracked)
        if not refine(space, tracked, triplets.angles[..., :count] > tolerance, BLOCK, _STEPS):
            break
    return space.ritz(tracked)[0]


def refine(space: KrylovSpace, tracked: int, wanted: Tensor, width: int, steps: int) -> bool:
    """Grow ``space`` in place from the residuals of the ``wanted`` ``(batch, c)`` of its leading vectors, once.

    Adds up to ``width`` residual rows and their chain, ``steps`` steps in all. Returns True if the space grew. It does
    not grow if all wanted vectors are at rounding level or the space would exceed the matrix.
    """
    triplets, residual = space.ritz(tracked)
    # Also the vector after a wanted one, where its residual closes the gap between the two.
    count = min(wanted.shape[-1] + 1, triplets.values.shape[-1])
    gaps = triplets.values[..., : count - 1] - triplets.values[..., 1:count]
    limits = triplets.residuals[..., 1:count] > _LIMITING * gaps
    wanted = torch.nn.functional.pad(wanted, (0, count - wanted.shape[-1]))
    wanted[..., 1:] |= wanted[..., :-1] & limits
    # Those that are limited by their residual, rather than by rounding.
    noise = _NOISE * torch.finfo(triplets.values.dtype).eps * triplets.values[..., :1]
    held_back = wanted & (triplets.residuals > noise)[..., : wanted.shape[-1]]
    rows = min(width, int(held_back.sum(-1).max()))
    if rows == 0 or len(space) + steps * rows > min(space.operator.shape[-2:]):
        return False
    chosen = held_back.int().argsort(dim=-1, descending=True, stable=True)[..., :rows]
    space.grow(residual.gather(-2, chosen.unsqueeze(-1).expand(*chosen.shape, residual.shape[-1])))
    space.grow_chain(rows, steps - 1)
    return True


def may_hide_copies(triplets: Triplets) -> Tensor:
    """Return a mask ``(batch)`` of matrices with as many equal values as a block has rows."""
    largest = torch.nn.functional.one_hot(triplets.clusters).sum(-2).amax(-1)
    return largest >= BLOCK
