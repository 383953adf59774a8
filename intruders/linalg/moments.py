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

# Intervals between nodes are cut into this many parts, this often, until the bound over each is within the slack of the
# largest value at a point.
_PARTS = 4
_MOST_CUTS = 16
_SLACK = 0.02
# Squared components of an eigenvector below this are rounding of single-precision products.
_LEAST_WEIGHT = 1e-14
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


def smallest_node(process: Bidiagonalization) -> Tensor:
    """An estimate from above ``(batch)`` of the smallest positive eigenvalue of W^T W that the start vectors reach."""
    lower = torch.diag_embed(process.alphas) + torch.diag_embed(process.betas[..., :-1], -1)
    last = torch.zeros_like(lower)
    last[..., -1, -1] = process.betas[..., -1].square()
    nodes: Tensor = torch.linalg.eigvalsh(lower.mT @ lower + last)
    return nodes[..., 0].clamp_min(0.0).amin(-1)


def _of_exhausted(alphas: Tensor, betas: Tensor, length: int, floor: Tensor, resolution: Tensor) -> Tensor:
    """The largest weight of a measure that has no more than ``length + 1`` atoms, all of which are known."""
    lower = torch.diag_embed(alphas[:, : length + 1]) + torch.diag_embed(betas[:, :length], -1)
    measure = _Measure.of_jacobi(lower @ lower.mT, resolution)
    # Half of a proved floor: what lies below it is an atom at zero, up to rounding.
    counted = measure.nodes >= 0.5 * floor.unsqueeze(-1)
    return torch.where(counted, measure.weights, torch.zeros_like(measure.weights)).amax(-1)


def _of_running(alphas: Tensor, betas: Tensor, length: int, floor: Tensor, resolution: Tensor) -> Tensor:
    """The supremum of the smaller of the two Christoffel bounds, over all eigenvalues from the floor on.

    Intervals whose bound exceeds the largest value seen at a point by more than ``_SLACK`` are cut up further, so that
    the proved supremum comes that close to the true one.
    """
    lower = torch.diag_embed(alphas) + torch.diag_embed(betas[:, :-1], -1)
    mu = _Measure.of_jacobi(lower @ lower.mT, resolution)
    last = torch.zeros_like(lower)
    last[:, -1, -1] = betas[:, -1].square()
    nu = _Measure.of_jacobi(lower.mT @ lower + last, resolution)
    nu_mass = alphas[:, 0].square()

    # Beyond the last node both bounds fall, and below the floor no eigenvalue counts.
    points = torch.cat([mu.nodes, nu.nodes, floor.unsqueeze(-1)], -1).sort(-1).values
    lanes = torch.arange(len(alphas), device=alphas.device).unsqueeze(-1).expand(-1, points.shape[-1] - 1)
    lanes, starts, ends = lanes.flatten(), points[:, :-1].flatten(), points[:, 1:].flatten()
    proved = torch.zeros(len(alphas), dtype=torch.float64, device=alphas.device)
    seen = torch.zeros_like(proved)
    for attempt in range(_MOST_CUTS):
        kept = ends > floor[lanes]
        lanes, starts, ends = lanes[kept], starts[kept], ends[kept]
        at_start, at_end, between = _smaller_bounds(mu, nu, nu_mass, lanes, starts, ends)
        seen.scatter_reduce_(0, lanes, torch.maximum(at_start, at_end), "amax")
        open_still = between > (1 + _SLACK) * seen[lanes]
        if attempt == _MOST_CUTS - 1:
            open_still = torch.zeros_like(open_still)
        proved.scatter_reduce_(0, lanes[~open_still], between[~open_still], "amax")
        lanes, starts, ends = lanes[open_still], starts[open_still], ends[open_still]
        if len(lanes) == 0:
            break
        cuts = torch.arange(_PARTS + 1, dtype=starts.dtype, device=starts.device) / _PARTS
        grid = starts.unsqueeze(-1) + (ends - starts).unsqueeze(-1) * cuts
        lanes = lanes.unsqueeze(-1).expand(-1, _PARTS).flatten()
        starts, ends = grid[:, :-1].flatten(), grid[:, 1:].flatten()
    return proved


def _smaller_bounds(
    mu: _Measure, nu: _Measure, nu_mass: Tensor, lanes: Tensor, starts: Tensor, ends: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The smaller of the bounds through mu and through nu, at both ends of intervals and anywhere between them.

    An interval belongs to the lane of the same index and holds no node inside. All arguments but the measures are
    ``(intervals,)``.
    """
    mass = nu_mass[lanes]
    mu_bounds = mu.bounds(lanes, starts, ends)
    nu_start, nu_end, nu_between = nu.bounds(lanes, starts, ends)
    low, high = starts.clamp_min(_TINY), ends.clamp_min(_TINY)
    nu_bounds = (mass * nu_start / low, mass * nu_end / high, mass * nu_between / low)
    smaller = [torch.minimum(one, other) for one, other in zip(mu_bounds, nu_bounds, strict=True)]
    return smaller[0], smaller[1], smaller[2]


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

    def bounds(self, lanes: Tensor, starts: Tensor, ends: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Upper bounds on the atom at the start, at the end, and anywhere in intervals without a node inside."""
        separation = _log_distance(
            self.nodes.unsqueeze(-1), self.nodes.unsqueeze(-2), self.present.unsqueeze(-2)
        )
        own = torch.eye(self.nodes.shape[-1], dtype=torch.bool, device=starts.device)
        separation = torch.where(own, torch.zeros_like(separation), separation).sum(-1)  # (lanes, q)
        constant = -2 * separation - self.weights.log()
        at_start = self._terms(lanes, starts, constant)
        at_end = self._terms(lanes, ends, constant)
        least = torch.minimum(at_start, at_end)
        return 1 / at_start.sum(-1), 1 / at_end.sum(-1), 1 / least.sum(-1).clamp_min(_TINY)

    def _terms(self, lanes: Tensor, points: Tensor, constant: Tensor) -> Tensor:
        """``l_k(t)^2 / w_k`` ``(intervals, q)``, whose sum over k is one over the Christoffel function.

        The Lagrange polynomials come from the nodes, as sums of logarithms. Their orthonormal polynomials'
        three-term recurrence loses all accuracy once a node has converged to an eigenvalue.
        """
        present = self.present[lanes]
        logs = _log_distance(points.unsqueeze(-1), self.nodes[lanes], present)
        terms = 2 * (logs.sum(-1, keepdim=True) - logs) + constant[lanes]
        return torch.where(present, terms.clamp(-600, 600).exp(), torch.zeros_like(terms))


def _log_distance(points: Tensor, nodes: Tensor, present: Tensor) -> Tensor:
    """``log |t - theta_k|``, finite where they are equal, and 0 for members of a merged node but one."""
    logs = (points - nodes).abs().clamp_min(_TINY).log()
    return torch.where(present, logs, torch.zeros_like(logs))
