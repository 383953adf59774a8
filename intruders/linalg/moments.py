"""How much of a vector can lie along any single singular vector, bounded from a few products: the moment
certificate.

For a unit vector y, the spectral measure mu of W W^T at y puts mass <x_i, y>^2 on each eigenvalue s_i^2.
Lanczos steps from y give its first moments, in the form of a Jacobi matrix J. No measure with the moments of
a q x q Jacobi matrix has an atom at t heavier than the Christoffel function

    lambda_q(t) = 1 / sum_{p < q} pi_p(t)^2        (pi_p: orthonormal polynomials of mu)

(Akhiezer, The Classical Moment Problem, 1965, section 2.5; the Chebyshev-Markov-Stieltjes inequalities). If
the supremum of lambda_q over t is below epsilon^2, no singular vector has a cosine of epsilon with y, though
none was computed.

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
from .svd import CLUSTER_TOLERANCE

# Each gap between two nodes is cut into this many intervals; more of them tighten the bound by little.
_CUTS = 8
# Squared components of an eigenvector below this are rounding of single-precision products.
_LEAST_WEIGHT = 1e-14


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

    def extended(
        self, operator: Operator, steps: int, left_deflated: Tensor, right_deflated: Tensor, norm: Tensor
    ) -> Bidiagonalization:
        """``steps`` further steps of two passes each, orthogonal to the deflated rows (d, m) and (d, n).

        ``norm`` ``(batch)`` is the spectral norm of the matrices, against which a product counts as zero.
        """
        left, right, alphas, betas = self.left, self.right, [self.alphas], [self.betas]
        if right.shape[-1] == 0:
            right = right.new_zeros(*right.shape[:3], operator.shape[-1])
        for _ in range(steps):
            v, alpha = _next_rows(operator.apply_transpose(left[:, :, -1]), right, right_deflated, norm)
            right = torch.cat([right, v.unsqueeze(2)], dim=2)
            u, beta = _next_rows(operator.apply(v), left, left_deflated, norm)
            left = torch.cat([left, u.unsqueeze(2)], dim=2)
            alphas.append(alpha)
            betas.append(beta)
        return Bidiagonalization(left, right, torch.cat(alphas, -1), torch.cat(betas, -1))

    def select(self, matrices: Tensor) -> Bidiagonalization:
        return Bidiagonalization(
            self.left[matrices], self.right[matrices], self.alphas[matrices], self.betas[matrices]
        )


def _next_rows(products: Tensor, basis: Tensor, deflated: Tensor, norm: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonalizes ``(batch, c, n)`` rows, each against its own basis, and normalizes them; also their norms.

    A row of the size of rounding (its Krylov space is exhausted) becomes zero, with norm zero.
    """
    rows = products
    for _ in range(2):
        rows = rows - (rows @ deflated.mT) @ deflated
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
    theirs. ``norm`` ``(batch)`` is the spectral norm of W. Singular values within ``CLUSTER_TOLERANCE`` of
    it count as one, as they do
    everywhere: products in single precision do not tell them apart.
    """
    shape = process.alphas.shape[:2]
    alphas = process.alphas.flatten(0, 1)  # (lanes, q)
    betas = process.betas.flatten(0, 1)
    floor = smallest_eigenvalue.double().unsqueeze(-1).expand(shape).flatten()
    resolution = CLUSTER_TOLERANCE * norm.double().unsqueeze(-1).expand(shape).flatten()
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
    lower = torch.diag_embed(alphas[:, : length + 1]) + torch.diag_embed(betas[:, :length], -1)
    measure = _Measure.of_jacobi(lower @ lower.mT, resolution)
    # Half of a proved floor: what lies below it is an atom at zero, up to rounding.
    counted = measure.nodes >= 0.5 * floor.unsqueeze(-1)
    return torch.where(counted, measure.weights, torch.zeros_like(measure.weights)).amax(-1)


def _of_running(alphas: Tensor, betas: Tensor, length: int, floor: Tensor, resolution: Tensor) -> Tensor:
    """The supremum of the smaller of the two Christoffel bounds, over all eigenvalues from the floor on."""
    lower = torch.diag_embed(alphas) + torch.diag_embed(betas[:, :-1], -1)
    mu = _Measure.of_jacobi(lower @ lower.mT, resolution)
    last = torch.zeros_like(lower)
    last[:, -1, -1] = betas[:, -1].square()
    nu = _Measure.of_jacobi(lower.mT @ lower + last, resolution)
    ends = torch.cat([mu.nodes, nu.nodes, floor.unsqueeze(-1)], -1).sort(-1).values
    grid = _subdivide(ends)  # (lanes, g)
    start, end = grid[:, :-1], grid[:, 1:]
    tiny = torch.finfo(torch.float64).tiny
    bound_nu = alphas[:, :1].square() * nu.atom_bounds(grid) / start.clamp_min(tiny)
    bound = torch.minimum(mu.atom_bounds(grid), bound_nu)
    # Beyond the last node both bounds fall. Intervals below the floor hold no eigenvalue that counts.
    return torch.where(end > floor.unsqueeze(-1), bound, torch.zeros_like(bound)).amax(-1)


def _subdivide(points: Tensor) -> Tensor:
    """Points that cut every gap between sorted ``points`` ``(lanes, p)`` into equal intervals."""
    fractions = torch.arange(_CUTS, dtype=points.dtype, device=points.device) / _CUTS
    inner = points[:, :-1, None] + (points[:, 1:] - points[:, :-1])[:, :, None] * fractions
    return torch.cat([inner.flatten(1), points[:, -1:]], -1)


@dataclass(frozen=True)
class _Measure:
    """The Gauss quadrature of a Jacobi matrix: nodes and weights, with nodes too close to tell apart merged."""

    nodes: Tensor  # (lanes, q), ascending; a merged node takes the place of each of its members
    weights: Tensor  # (lanes, q): of the merged node
    present: Tensor  # (lanes, q), bool: true for one member of each merged node

    @classmethod
    def of_jacobi(cls, matrix: Tensor, resolution: Tensor) -> _Measure:
        nodes, vectors = torch.linalg.eigh(matrix)
        nodes = nodes.clamp_min(0.0)
        # Weights below rounding are noise; a larger weight only makes the bound weaker.
        weights = vectors[:, 0].square().clamp_min(_LEAST_WEIGHT)
        values = nodes.sqrt()
        apart = (values[:, 1:] - values[:, :-1]) > resolution.unsqueeze(-1)
        present = torch.cat([torch.ones_like(apart[:, :1]), apart], -1)
        ids = present.long().cumsum(-1) - 1
        merged = torch.zeros_like(weights).scatter_add(-1, ids, weights).gather(-1, ids)
        first = torch.full_like(nodes, torch.inf).scatter_reduce(-1, ids, nodes, "amin").gather(-1, ids)
        return cls(first, merged, present)

    def atom_bounds(self, grid: Tensor) -> Tensor:
        """Upper bounds on the atom in each interval of an ascending ``grid`` ``(lanes, g)`` that holds all
        nodes.

        The Lagrange polynomials come from the nodes, as sums of logarithms. Their orthonormal polynomials'
        three-term recurrence loses all accuracy once a node has converged to an eigenvalue.
        """
        differences = _log_distance(
            grid.unsqueeze(-1), self.nodes.unsqueeze(-2), self.present
        )  # (lanes, g, q)
        separation = _log_distance(self.nodes.unsqueeze(-1), self.nodes.unsqueeze(-2), self.present)
        own = torch.eye(self.nodes.shape[-1], dtype=torch.bool, device=grid.device)
        separation = torch.where(own, torch.zeros_like(separation), separation).sum(-1)  # (lanes, q)
        log_lagrange = differences.sum(-1, keepdim=True) - differences - separation.unsqueeze(-2)
        terms = (2 * log_lagrange - self.weights.log().unsqueeze(-2)).clamp(-600, 600).exp()
        terms = torch.where(self.present.unsqueeze(-2), terms, torch.zeros_like(terms))
        least = torch.minimum(terms[:, :-1], terms[:, 1:]).sum(-1)
        return 1.0 / least.clamp_min(torch.finfo(torch.float64).tiny)


def _log_distance(points: Tensor, nodes: Tensor, present: Tensor) -> Tensor:
    """``log |t - theta_k|``, finite where they are equal, and 0 for members of a merged node but one."""
    logs = (points - nodes).abs().clamp_min(torch.finfo(torch.float64).tiny).log()
    return torch.where(present.unsqueeze(-2), logs, torch.zeros_like(logs))
