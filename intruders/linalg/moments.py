"""How much of a vector can lie along any single singular vector, bounded from a few products: the moment
certificate.

For a unit vector y, the spectral measure mu of W W^T at y puts mass <x_i, y>^2 on each eigenvalue s_i^2.
Lanczos steps from y give its first moments, in the form of a Jacobi matrix J. No measure with the moments of
a q x q Jacobi matrix has an atom at t heavier than the Christoffel function

    lambda_q(t) = 1 / sum_{p < q} pi_p(t)^2        (pi_p: orthonormal polynomials of mu)

(Akhiezer, The Classical Moment Problem, 1965, section 2.5; the Chebyshev-Markov-Stieltjes inequalities). If
the supremum of lambda_q over t is below epsilon^2, no singular vector has a cosine of epsilon with y, though
none was computed. docs/engine.md has the theorem, with its proof step by step. It is about the steps of W itself: were
anything projected out at the steps, mu would be the measure of another matrix.

The products that give J also give the Jacobi matrix of dnu(t) = t dmu(t) (the measure of W^T W at W^T y),
hence a second bound mu({t}) <= nu({t}) / t. It sees nothing of an atom of mu at zero, which a matrix with
more rows than columns always has (the part of y outside its column space) and which belongs to no singular
vector. The smaller of the two counts.

The supremum is taken over a continuum and proved, not sampled. With theta_k the nodes of J (its eigenvalues,
weights w_k), 1 / lambda_q(t) = sum_k l_k(t)^2 / w_k with the Lagrange polynomials l_k. All roots of l_k are
nodes, so |l_k| is log-concave between two neighbouring nodes, and on any interval [a, b] there it is at
least min(|l_k(a)|, |l_k(b)|).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .operators import Operator

# Where each gap between two nodes is cut, as shares of it: finely at the nodes, for the bounds have their peaks there.
_CUTS = (0.0, 1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 7 / 8, 31 / 32)
# Units of rounding, of the largest singular value, by which others must differ to be told apart. Vectors of values
# just farther apart turn under rounding by less than 1e-3.
_UNITS = 256
# Nodes within one another's resolution count as one, as long as the group is no wider than this many resolutions.
_WIDEST = 4
# An eigenvector's squared component below this is rounding, and a smaller one would prove more than is known.
_SMALLEST_WEIGHT = 1e-28
# Eigenvalues of a Jacobi matrix of norm one are known to this.
_NODE_ERROR = 1e-14
_TINY = torch.finfo(torch.float64).tiny


@dataclass(frozen=True)
class Bidiagonalization:
    """Golub-Kahan bidiagonalization of a stack of matrices from several start vectors, each with bases of
    its own.

    With u_1 the start: ``alpha_p v_p = W^T u_p - beta_p v_{p-1}`` and ``beta_{p+1} u_{p+1} = W v_p - alpha_p
    u_p``.
    """

    left: Tensor  # (batch, c, q, m)
    right: Tensor  # (batch, c, q - 1, n)
    alphas: Tensor  # (batch, c, q - 1), double
    betas: Tensor  # (batch, c, q - 1), double: beta_2 .. beta_q

    @classmethod
    def start(cls, vectors: Tensor) -> Bidiagonalization:
        """From unit rows ``(batch, c, m)``, with no step taken."""
        batch, c, _ = vectors.shape
        empty = torch.zeros(batch, c, 0, dtype=torch.float64, device=vectors.device)
        return cls(vectors.unsqueeze(2), vectors.new_zeros(batch, c, 0, 0), empty, empty)

    def extended(self, operator: Operator, steps: int, norm: Tensor) -> Bidiagonalization:
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

    def select(self, matrices: Tensor) -> Bidiagonalization:
        return Bidiagonalization(
            self.left[matrices], self.right[matrices], self.alphas[matrices], self.betas[matrices]
        )


def _next_rows(products: Tensor, basis: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonalizes ``(batch, c, n)`` rows, each against its own basis, and normalizes them; also their norms.

    A row of the size of rounding (its Krylov space is exhausted) becomes zero, with norm zero.
    """
    rows = products
    for _ in range(2):
        rows = rows - torch.einsum("bcq,bcqn->bcn", torch.einsum("bcqn,bcn->bcq", basis, rows), basis)
    size = rows.norm(dim=-1, keepdim=True)
    alive = size > 32 * torch.finfo(rows.dtype).eps * norm[:, None, None]
    rows = torch.where(alive, rows / size.clamp_min(torch.finfo(rows.dtype).tiny), torch.zeros_like(rows))
    return rows, torch.where(alive, size, torch.zeros_like(size)).double()


def largest_atom(process: Bidiagonalization, smallest_eigenvalue: Tensor, norm: Tensor) -> Tensor:
    """Upper bound ``(batch, c)`` on the mass that W W^T's spectral measure at a start vector has at one
    eigenvalue.

    ``smallest_eigenvalue`` ``(batch)`` is a proved lower bound on the eigenvalues that belong to singular
    vectors of the thin decomposition: 0 where nothing is known, and then an atom at zero counts as one of
    theirs. ``norm`` ``(batch)`` is the spectral norm of W. Mass at singular values that rounding does not tell from
    one another counts as one atom.
    """
    shape = process.alphas.shape[:2]
    alphas = process.alphas.flatten(0, 1)  # (lanes, q)
    betas = process.betas.flatten(0, 1)
    floor = smallest_eigenvalue.double().unsqueeze(-1).expand(shape).flatten()
    resolution = _UNITS * torch.finfo(process.left.dtype).eps * norm.double()
    resolution = resolution.unsqueeze(-1).expand(shape).flatten()
    bounds = torch.ones(len(alphas), dtype=torch.float64, device=alphas.device)
    # A lane whose Krylov space is exhausted after some steps has a finite measure, known completely; lanes
    # are grouped by that number of steps.
    lengths = ((alphas > 0) & (betas > 0)).long().cumprod(-1).sum(-1)
    for length in torch.unique(lengths).tolist():
        lanes = (lengths == length).nonzero().squeeze(-1)
        judge = _of_running if length == alphas.shape[-1] else _of_exhausted
        bounds[lanes] = judge(alphas[lanes], betas[lanes], length, floor[lanes], resolution[lanes])
    return bounds.reshape(shape).clamp_max(1.0)


def _of_exhausted(alphas: Tensor, betas: Tensor, length: int, floor: Tensor, resolution: Tensor) -> Tensor:
    """The largest weight of a measure that has no more than ``length + 1`` atoms, all of which are known."""
    size = length + 1
    a, b = alphas[:, :size].square(), betas[:, :length].square()
    diagonal = a + torch.cat([torch.zeros_like(a[:, :1]), b], -1)
    scale = diagonal.amax(-1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    measure = _Measure.of_jacobi(
        diagonal / scale, (a[:, :length] * b).sqrt() / scale, resolution / scale[:, 0].sqrt()
    )
    counts = measure.nodes.clamp_min(0).sqrt() >= (floor.sqrt() - resolution).unsqueeze(-1) / scale.sqrt()
    return torch.where(counts, measure.weights, torch.zeros_like(measure.weights)).amax(-1)


def _of_running(alphas: Tensor, betas: Tensor, length: int, floor: Tensor, resolution: Tensor) -> Tensor:
    scale = alphas.square().amax(-1, keepdim=True) + betas.square().amax(-1, keepdim=True)
    a, b = alphas.square() / scale, betas.square() / scale
    resolution = (resolution / scale[:, 0].sqrt()).unsqueeze(-1)
    lowest = (floor.sqrt().unsqueeze(-1) / scale.sqrt() - resolution).clamp_min(0).square()
    # Jacobi matrices of mu (from B B^T) and of nu (from B^T B), B lower bidiagonal; both of size q - 1.
    mu = _Measure.of_jacobi(
        a + torch.cat([torch.zeros_like(b[:, :1]), b[:, :-1]], -1), (a * b).sqrt()[:, :-1], resolution[:, 0]
    )
    nu = _Measure.of_jacobi(a + b, (a[:, 1:] * b[:, :-1]).sqrt(), resolution[:, 0])
    nodes, order = torch.cat([mu.nodes, nu.nodes, lowest], -1).sort(-1)
    least_of, most_of = (
        torch.cat([ends_mu, ends_nu, lowest], -1).gather(-1, order)
        for ends_mu, ends_nu in ((mu.least, nu.least), (mu.most, nu.most))
    )
    grid = _subdivide(nodes)  # (lanes, g)
    start, end = grid[:, :-1], grid[:, 1:]
    least = (start.clamp_min(0).sqrt() - resolution).clamp_min(0).square()
    bound_nu = a[:, :1] * nu.atom_bounds(grid) / least.clamp_min(torch.finfo(torch.float64).tiny)
    # Beyond the last node both bounds fall; below the first one, down to the floor, the grid goes on.
    counts = end > lowest
    regions = _regions(least_of, most_of, resolution[:, 0])
    by_mu = _largest_by_region(torch.where(counts, mu.atom_bounds(grid), 0.0), regions)
    by_nu = _largest_by_region(torch.where(counts, bound_nu, 0.0), regions)
    bound = torch.minimum(by_mu, by_nu).amax(-1)
    return torch.where(mu.is_resolved & nu.is_resolved, bound, 1.0)


def _regions(least: Tensor, most: Tensor, resolution: Tensor) -> Tensor:
    """The region ``(lanes, g - 1)`` of each interval: that of the nearest node, or group of nodes.

    ``least`` and ``most`` ``(lanes, p)`` are the nodes that the ascending ones were merged from. The peaks of the two
    measures at one atom are narrower than rounding and apart by it, or by the width of what was merged: near zero nu
    has its weight at the upper end of a group, and mu anywhere. Their bounds may only be compared over a region that
    holds both, and the atom.
    """
    reached = most.cummax(-1).values[:, :-1]
    ahead = least.flip(-1).cummin(-1).values.flip(-1)[:, 1:]
    is_new = torch.nn.functional.pad(_exceeds(reached, ahead, resolution), (1, 0))
    ids = is_new.long().cumsum(-1)
    nearer_end = torch.tensor(_CUTS, device=least.device) >= 0.5
    return torch.where(nearer_end, ids[:, 1:, None], ids[:, :-1, None]).flatten(1)


def _largest_by_region(bounds: Tensor, regions: Tensor) -> Tensor:
    return torch.zeros(
        len(bounds), bounds.shape[-1] + 2, dtype=bounds.dtype, device=bounds.device
    ).scatter_reduce(-1, regions, bounds, "amax")


def _can_be_told_apart(nodes: Tensor, resolution: Tensor) -> Tensor:
    """Which ascending nodes ``(lanes, p)`` are farther from the one before than the resolution of their roots."""
    first = torch.ones_like(nodes[:, :1], dtype=torch.bool)
    return torch.cat([first, _exceeds(nodes[:, :-1], nodes[:, 1:], resolution)], -1)


def _exceeds(lower: Tensor, upper: Tensor, resolution: Tensor) -> Tensor:
    """Whether roots of nodes ``(lanes, p)`` differ by more than the resolution, and nodes by more than rounding."""
    reach = resolution.unsqueeze(-1)
    return upper - lower > (lower.sqrt() + upper.sqrt() + reach) * reach + _NODE_ERROR


def _subdivide(nodes: Tensor) -> Tensor:
    """Points that cut every gap between sorted ``nodes`` ``(lanes, p)`` into equal intervals."""
    fractions = torch.tensor(_CUTS, dtype=nodes.dtype, device=nodes.device)
    inner = nodes[:, :-1, None] + (nodes[:, 1:] - nodes[:, :-1])[:, :, None] * fractions
    return torch.cat([inner.flatten(1), nodes[:, -1:]], -1)


@dataclass(frozen=True)
class _Measure:
    """A probability measure known through its Gauss quadrature; nodes that cannot be told apart are one."""

    nodes: Tensor  # (lanes, q), ascending; a merged node stands in all its places
    weights: Tensor  # (lanes, q): of the merged node, in each of its places
    least: Tensor  # (lanes, q): the least node that was merged into it
    most: Tensor  # (lanes, q): and the largest
    counts: Tensor  # (lanes, q), bool: one place of each node
    is_resolved: Tensor  # (lanes), bool: no group of merged nodes is so wide that it stands for none of them

    @classmethod
    def of_jacobi(cls, diagonal: Tensor, offdiagonal: Tensor, resolution: Tensor) -> _Measure:
        """``resolution`` ``(lanes)``: distance of singular values (square roots of nodes) that counts as none."""
        matrix = (
            torch.diag_embed(diagonal) + torch.diag_embed(offdiagonal, 1) + torch.diag_embed(offdiagonal, -1)
        )
        nodes, vectors = torch.linalg.eigh(matrix)
        nodes = nodes.clamp_min(0.0)
        weights = vectors[:, 0].square()
        counts = _can_be_told_apart(nodes, resolution)
        ids = counts.long().cumsum(-1) - 1
        mass = torch.zeros_like(nodes).scatter_add(-1, ids, weights)
        tiny = torch.finfo(torch.float64).tiny
        moment = torch.zeros_like(nodes).scatter_add(-1, ids, (weights + tiny) * nodes)
        share = torch.zeros_like(nodes).scatter_add(-1, ids, weights + tiny)
        merged = (moment / share.clamp_min(tiny)).gather(-1, ids)
        lowest = torch.full_like(nodes, torch.inf).scatter_reduce(-1, ids, nodes, "amin").gather(-1, ids)
        highest = torch.zeros_like(nodes).scatter_reduce(-1, ids, nodes, "amax").gather(-1, ids)
        is_resolved = ~_exceeds(lowest, nodes, _WIDEST * resolution).any(-1)
        return cls(merged, mass.gather(-1, ids), lowest, highest, counts, is_resolved)

    def atom_bounds(self, grid: Tensor) -> Tensor:
        """Upper bounds on the atoms in each interval of an ascending ``grid`` ``(lanes, g)`` with all nodes.

        The Lagrange polynomials are products over the nodes, never recurrences: at a node that has converged
        the recurrence leaves the peak of the bound, which is narrower than rounding.
        """
        difference = grid.unsqueeze(-1) - self.nodes.unsqueeze(-2)  # (lanes, g, q)
        counts = self.counts.unsqueeze(-2)
        here = (difference == 0) & counts  # a node's own place in the grid
        logs = torch.where(here | ~counts, 1.0, difference.abs()).log()
        lagrange = logs.sum(-1, keepdim=True) - logs - self._own_logs().unsqueeze(-2)
        lagrange = torch.where(here.any(-1, keepdim=True) & ~here, -torch.inf, lagrange)
        terms = 2 * torch.minimum(lagrange[:, :-1], lagrange[:, 1:]) - self._log_weights().unsqueeze(-2)
        least = torch.where(counts, terms.clamp_max(600.0).exp(), 0.0).sum(-1)
        return 1.0 / least.clamp_min(torch.finfo(torch.float64).tiny)

    def _log_weights(self) -> Tensor:
        return self.weights.clamp_min(_SMALLEST_WEIGHT).log()

    def _own_logs(self) -> Tensor:
        """``sum_{j != k} log |theta_k - theta_j|`` ``(lanes, q)``."""
        difference = (self.nodes.unsqueeze(-1) - self.nodes.unsqueeze(-2)).abs()
        other = self.counts.unsqueeze(-2) & (difference > 0)
        return torch.where(other, difference, 1.0).log().sum(-1)
