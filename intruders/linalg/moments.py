"""How much of a vector can lie along any single singular vector, bounded from a few products: the moment certificate.

The theorem and its proof are in docs/concepts/certificate.md (steps 7 to 13; Akhiezer, The Classical Moment Problem,
1965, section 2.5). Lanczos steps of W from a unit vector y give the first moments of the spectral measure mu of W W^T
at y, whose mass at s_i^2 is <x_i, y>^2, as a Jacobi matrix; and those of ``dnu(t) = t dmu(t)``, which sees nothing of
an atom of mu at zero: of a matrix with more rows than columns it belongs to no singular vector. Were anything
projected out at the steps, mu would be the measure of another matrix. What is bounded is the mass of a *window*, a
cell of the axis and a little more to either side, with polynomials over the nodes: products over nodes are
log-concave between their roots.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import Operator
from .products import Batched, rounding
from .svd import eigh

# Where each gap between two nodes is cut, as shares of it: finely at the nodes, for the bounds have their peaks there.
_CUTS = (0.0, 1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 31 / 32)
# Windows within which atoms count as one reach so far to either side, as a share of the norm. A narrower one would
# leave more atoms apart, and these would turn by more under rounding; a wider one would hold several nodes more often.
_WIDTH = 2.0**-13
# Nodes within this many widths of a cell may be taken into its window: the fewest that are needed, or some more.
_REACHES = (1, 4)
# An eigenvector's squared component below this is rounding, and a smaller one would prove more than is known.
_SMALLEST_WEIGHT = 1e-28
# A product of this many roundings of the norm ends the Krylov space.
_ENDS_BELOW = 32
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Bidiagonalization(Batched):
    """Golub-Kahan bidiagonalization of a batch of matrices from several start vectors u_1, each with bases of its own.

    ``alpha_p v_p = W^T u_p - beta_p v_{p-1}`` and ``beta_{p+1} u_{p+1} = W v_p - alpha_p u_p``.
    """

    left: Tensor  # (batch, c, q, m)
    right: Tensor  # (batch, c, q - 1, n)
    alphas: Tensor  # (batch, c, q - 1), double
    betas: Tensor  # (batch, c, q - 1), double: beta_2 .. beta_q

    @classmethod
    def start(cls, vectors: Tensor) -> "Bidiagonalization":
        """Start from unit rows ``(batch, c, m)``, with no step taken."""
        batch, c, _ = vectors.shape
        empty = torch.zeros(batch, c, 0, dtype=torch.float64, device=vectors.device)
        return cls(vectors.unsqueeze(2), vectors.new_zeros(batch, c, 0, 0), empty, empty)

    def extended(self, operator: Operator, steps: int, norm: Tensor) -> "Bidiagonalization":
        """``steps`` further steps of two passes each.

        ``norm`` ``(batch)`` is the spectral norm of the matrices, against which a product counts as zero.
        """
        left, right, alphas, betas = self.left, self.right, [self.alphas], [self.betas]
        if right.shape[-1] == 0:
            right = right.new_zeros(*right.shape[:3], operator.shape[-1])
        for _ in range(steps):
            v, alpha = _next_rows(operator.apply_transpose(left[:, :, -1]), right, norm)
            right = torch.cat([right, v.unsqueeze(2)], dim=2)
            u, beta = _next_rows(operator.apply(v), left, norm)
            left = torch.cat([left, u.unsqueeze(2)], dim=2)
            alphas.append(alpha)
            betas.append(beta)
        return Bidiagonalization(left, right, torch.cat(alphas, -1), torch.cat(betas, -1))


def _next_rows(products: Tensor, basis: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonalize ``(batch, c, n)`` rows, each against its own basis, and normalize them; also return their norms.

    A row of the size of rounding (its Krylov space is exhausted) becomes zero, with norm zero.
    """
    rows = products
    for _ in range(2):
        rows = rows - torch.einsum("bcq,bcqn->bcn", torch.einsum("bcqn,bcn->bcq", basis, rows), basis)
    size = rows.norm(dim=-1, keepdim=True)
    alive = size > _ENDS_BELOW * torch.finfo(rows.dtype).eps * norm[:, None, None]
    rows = torch.where(alive, rows / size.clamp_min(torch.finfo(rows.dtype).tiny), torch.zeros_like(rows))
    return rows, torch.where(alive, size, torch.zeros_like(size)).double()


def largest_atom(process: Bidiagonalization, smallest_eigenvalue: Tensor, norm: Tensor) -> Tensor:
    """Upper bound ``(batch, c)`` on the mass that W W^T's spectral measure at a start vector has at one eigenvalue.

    ``smallest_eigenvalue`` ``(batch)`` is a proved lower bound on the eigenvalues that belong to singular vectors of
    the thin decomposition; with 0, for none, an atom at zero counts as one of theirs. ``norm`` ``(batch)`` is the
    spectral norm of W. Mass at singular values within a width of one another counts as one atom. Rounding of the steps
    counts too (step 8 of the proof), with twice :func:`rounding` for ``||E||``.
    """
    shape = process.alphas.shape[:2]
    alphas = process.alphas.flatten(0, 1)  # (lanes, q)
    betas = process.betas.flatten(0, 1)
    floor = smallest_eigenvalue.double().unsqueeze(-1).expand(shape).flatten()
    norms = norm.double().unsqueeze(-1).expand(shape).flatten()
    cosines = alphas.new_empty(len(alphas))
    eps = torch.finfo(process.left.dtype).eps
    # Of both products of a step, with what their orthogonalization adds.
    error = 2 * rounding(process.left.shape[-1], process.right.shape[-1])
    # A lane whose Krylov space is exhausted after some steps has a finite measure, known completely; lanes
    # are grouped by that number of steps.
    lengths = ((alphas > 0) & (betas > 0)).long().cumprod(-1).sum(-1)
    for length in torch.unique(lengths).tolist():
        lanes = (lengths == length).nonzero().squeeze(-1)
        a, b, width = alphas[lanes], betas[lanes], _WIDTH * norms[lanes]
        if length == alphas.shape[-1]:
            mass, turned = _of_running(a, b, floor[lanes], width), error
        else:
            mass, turned = _of_exhausted(a, b, length, floor[lanes], width), error + _ENDS_BELOW
        cosines[lanes] = (mass.sqrt() + 2**0.5 * turned * eps / _WIDTH).clamp_max(1.0)
    return cosines.square().reshape(shape)


def _of_exhausted(alphas: Tensor, betas: Tensor, length: int, floor: Tensor, width: Tensor) -> Tensor:
    """The largest mass in a window of a measure that has no more than ``length + 1`` atoms, all of which are known."""
    size = length + 1
    a, b = alphas[:, :size].square(), betas[:, :length].square()
    diagonal = a + torch.cat([torch.zeros_like(a[:, :1]), b], -1)
    scale = diagonal.amax(-1, keepdim=True).clamp_min(_TINY)
    measure = _Measure.of_jacobi(diagonal / scale, (a[:, :length] * b).sqrt() / scale)
    roots = measure.nodes.sqrt()
    floor, width = floor.sqrt().unsqueeze(-1) / scale.sqrt(), width.unsqueeze(-1) / scale.sqrt()
    weights = torch.where(roots >= floor - width, measure.weights, 0.0)
    ahead = roots.unsqueeze(-2) - roots.unsqueeze(-1)  # (lanes, q, q)
    together = (ahead >= 0) & (ahead <= 2 * width.unsqueeze(-1))
    return (together * weights.unsqueeze(-2)).sum(-1).amax(-1)


def _of_running(alphas: Tensor, betas: Tensor, floor: Tensor, width: Tensor) -> Tensor:
    """The largest mass in a window, by the smaller of the bounds from mu and from nu on each."""
    scale = alphas.square().amax(-1, keepdim=True) + betas.square().amax(-1, keepdim=True)
    a, b = alphas.square() / scale, betas.square() / scale
    floor, width = floor.unsqueeze(-1) / scale, width.unsqueeze(-1) / scale.sqrt()
    # Jacobi matrices of mu (from B B^T) and of nu (from B^T B), B lower bidiagonal; both of size q - 1.
    mu = _Measure.of_jacobi(
        a + torch.cat([torch.zeros_like(b[:, :1]), b[:, :-1]], -1), (a * b).sqrt()[:, :-1]
    )
    nu = _Measure.of_jacobi(a + b, (a[:, 1:] * b[:, :-1]).sqrt())
    nodes = torch.cat([mu.nodes, nu.nodes, floor], -1).sort(-1).values
    # Beyond the last node and a window both bounds fall; below the first one, down to the floor, the grid goes on.
    last = (nodes[:, -1:].sqrt() + 2 * width).square()
    cuts = nodes[:, :-1, None] + nodes.diff(dim=-1)[:, :, None] * torch.tensor(_CUTS).to(nodes)
    grid = torch.cat([cuts.flatten(1), nodes[:, -1:], last], -1)  # (lanes, g)
    first, end = _widened(grid, width)
    reaches = [_widened(grid, reach * width) for reach in _REACHES]
    by_mu = mu.window_bounds(first, end, reaches)
    by_nu = a[:, :1] * nu.window_bounds(first, end, reaches) / first.clamp_min(_TINY)
    return torch.where(grid[:, 1:] > floor, torch.minimum(by_mu, by_nu), 0.0).amax(-1)


def _widened(grid: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
    """Ends ``(lanes, g - 1)`` of windows that reach beyond a grid's cells by ``width`` ``(lanes, 1)`` of the roots."""
    roots = grid.sqrt()
    return (roots[:, :-1] - width).clamp_min(0).square(), (roots[:, 1:] + width).square()


@dataclass(frozen=True)
class _Measure:
    nodes: Tensor  # (lanes, q), ascending
    weights: Tensor  # (lanes, q)

    @classmethod
    def of_jacobi(cls, diagonal: Tensor, offdiagonal: Tensor) -> "_Measure":
        matrix = (
            torch.diag_embed(diagonal) + torch.diag_embed(offdiagonal, 1) + torch.diag_embed(offdiagonal, -1)
        )
        nodes, vectors = eigh(matrix)
        return cls(nodes.clamp_min(0.0), vectors[:, 0].square().clamp_min(_SMALLEST_WEIGHT))

    def window_bounds(self, first: Tensor, end: Tensor, reaches: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """Upper bounds on the masses of the windows from ``first`` to ``end``, both ``(lanes, g)``; steps 9 and 10.

        The polynomials are products over the nodes, never recurrences: at a node that has converged the recurrence
        leaves the peak of the bound, which is narrower than rounding.
        """
        nodes = self.nodes.unsqueeze(-2)
        apart = (self.nodes.unsqueeze(-1) - nodes).abs().clamp_min(_TINY).log()
        apart = apart - torch.diag_embed(apart.diagonal(dim1=-2, dim2=-1))
        own, log_weights = apart.sum(-1), self.weights.log()
        logs_first, logs_end = (
            (side.unsqueeze(-1) - nodes).abs().clamp_min(_TINY).log() for side in (first, end)
        )
        lagrange = torch.minimum(
            logs_first.sum(-1, keepdim=True) - logs_first, logs_end.sum(-1, keepdim=True) - logs_end
        )
        terms = 2 * (lagrange - own.unsqueeze(-2)) - log_weights.unsqueeze(-2)
        bounds = 1.0 / terms.clamp_max(600.0).exp().sum(-1).clamp_min(_TINY)
        holds_some = _count_up_to(self.nodes, end, True) > _count_up_to(self.nodes, first, False)
        bounds = torch.where(holds_some, torch.inf, bounds)

        sums = torch.nn.functional.pad(apart.cumsum(-1), (1, 0))  # (lanes, q, q + 1)
        for low, high in reaches:
            before, upto = _count_up_to(self.nodes, low, False), _count_up_to(self.nodes, high, True)
            # From here on (windows, q), of those that leave nodes out: mostly a few of all.
            lane, window = (upto > before).nonzero(as_tuple=True)
            before, upto = before[lane, window].unsqueeze(-1), upto[lane, window].unsqueeze(-1)
            places = torch.arange(self.nodes.shape[-1], device=before.device)
            is_left_out = (places >= before) & (places < upto)
            others = torch.minimum(
                torch.where(is_left_out, 0.0, logs_first[lane, window]).sum(-1),
                torch.where(is_left_out, 0.0, logs_end[lane, window]).sum(-1),
            )
            # Of each node, the product over those that are not left out.
            at_nodes = own[lane] - (sums[lane, :, upto[:, 0]] - sums[lane, :, before[:, 0]])
            masses = (log_weights[lane] + 2 * (at_nodes - others.unsqueeze(-1))).clamp_max(600.0).exp()
            mass = torch.where(is_left_out, masses, 0.0).sum(-1)
            bounds[lane, window] = torch.minimum(bounds[lane, window], mass)
        return bounds


def _count_up_to(nodes: Tensor, points: Tensor, inclusive: bool) -> Tensor:
    """Count the ascending ``nodes`` ``(lanes, q)`` below, or not above, each of ``points`` ``(lanes, g)``."""
    return torch.searchsorted(nodes, points.contiguous(), right=inclusive)
