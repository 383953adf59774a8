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

# Each gap between two nodes is cut into this many intervals; more of them tighten the bound by little.
_CUTS = 8


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
        self, operator: Operator, steps: int, left_deflated: Tensor, right_deflated: Tensor
    ) -> Bidiagonalization:
        """``steps`` further steps of two passes each, orthogonal to the deflated rows (d, m) and (d, n)."""
        left, right, alphas, betas = self.left, self.right, [self.alphas], [self.betas]
        if right.shape[-1] == 0:
            right = right.new_zeros(*right.shape[:3], operator.shape[-1])
        for _ in range(steps):
            v, alpha = _next_rows(operator.apply_transpose(left[:, :, -1]), right, right_deflated)
            right = torch.cat([right, v.unsqueeze(2)], dim=2)
            u, beta = _next_rows(operator.apply(v), left, left_deflated)
            left = torch.cat([left, u.unsqueeze(2)], dim=2)
            alphas.append(alpha)
            betas.append(beta)
        return Bidiagonalization(left, right, torch.cat(alphas, -1), torch.cat(betas, -1))

    def select(self, matrices: Tensor) -> Bidiagonalization:
        return Bidiagonalization(
            self.left[matrices], self.right[matrices], self.alphas[matrices], self.betas[matrices]
        )


def _next_rows(products: Tensor, basis: Tensor, deflated: Tensor) -> tuple[Tensor, Tensor]:
    """Orthogonalizes ``(batch, c, n)`` rows, each against its own basis, and normalizes them; returns their
    norms too.

    A row that vanishes (its Krylov space is exhausted) becomes zero, with norm zero.
    """
    size = products.norm(dim=-1, keepdim=True)
    rows = products
    for _ in range(2):
        rows = rows - (rows @ deflated.mT) @ deflated
        rows = rows - torch.einsum("bcq,bcqn->bcn", torch.einsum("bcqn,bcn->bcq", basis, rows), basis)
    norm = rows.norm(dim=-1, keepdim=True)
    alive = norm > 32 * torch.finfo(rows.dtype).eps * size
    rows = torch.where(alive, rows / norm.clamp_min(torch.finfo(rows.dtype).tiny), torch.zeros_like(rows))
    return rows, torch.where(alive, norm, torch.zeros_like(norm)).double()


def largest_atom(process: Bidiagonalization, smallest_eigenvalue: Tensor) -> Tensor:
    """Upper bound ``(batch, c)`` on the mass that W W^T's spectral measure at a start vector has at any one
    eigenvalue.

    ``smallest_eigenvalue`` ``(batch)`` is a proved lower bound on the positive eigenvalues that belong to
    singular vectors of the thin decomposition: 0 where nothing is known, and then an atom at zero counts as
    one of theirs.
    """
    shape = process.alphas.shape[:2]
    alphas = process.alphas.flatten(0, 1)  # (lanes, q - 1)
    betas = process.betas.flatten(0, 1)
    floor = smallest_eigenvalue.double().unsqueeze(-1).expand(shape).flatten()
    bounds = torch.ones(len(alphas), dtype=torch.float64, device=alphas.device)
    # A lane whose Krylov space is exhausted after some steps has a finite measure, known completely; lanes
    # are grouped by that number of steps.
    lengths = ((alphas > 0) & (betas > 0)).long().cumprod(-1).sum(-1)
    for length in torch.unique(lengths).tolist():
        lanes = (lengths == length).nonzero().squeeze(-1)
        if length < alphas.shape[-1]:
            bounds[lanes] = _largest_atom_of_exhausted(alphas[lanes], betas[lanes], length, floor[lanes])
        else:
            bounds[lanes] = _largest_atom_of_running(alphas[lanes], betas[lanes], floor[lanes])
    return bounds.reshape(shape).clamp_max(1.0)


def _largest_atom_of_exhausted(alphas: Tensor, betas: Tensor, length: int, floor: Tensor) -> Tensor:
    """The largest weight of a measure that has no more than ``length + 1`` atoms, all of which are known."""
    size = length + 1
    lower = torch.diag_embed(alphas[:, :size]) + torch.diag_embed(betas[:, :length], -1)
    nodes, vectors = torch.linalg.eigh(lower @ lower.mT)
    weights = vectors[:, 0].square()
    # Half of a proved floor: what lies below it is an atom at zero, up to rounding.
    return torch.where(
        nodes.clamp_min(0) >= 0.5 * floor.unsqueeze(-1), weights, torch.zeros_like(weights)
    ).amax(-1)


def _largest_atom_of_running(alphas: Tensor, betas: Tensor, floor: Tensor) -> Tensor:
    scale = alphas.square().amax(-1, keepdim=True) + betas.square().amax(-1, keepdim=True)
    a, b = alphas.square() / scale, betas.square() / scale
    # Jacobi matrices of mu (from B B^T) and of nu (from B^T B), B lower bidiagonal; both of size q - 1.
    mu = _Measure.of_jacobi(
        a + torch.cat([torch.zeros_like(b[:, :1]), b[:, :-1]], -1), (a * b).sqrt()[:, :-1]
    )
    nu = _Measure.of_jacobi(a + b, (a[:, 1:] * b[:, :-1]).sqrt())
    nodes = torch.cat([mu.nodes, nu.nodes, (floor.unsqueeze(-1) / scale)], -1).sort(-1).values
    grid = _subdivide(nodes)  # (lanes, g)
    start, end = grid[:, :-1], grid[:, 1:]
    bound_mu = mu.atom_bounds(grid)
    bound_nu = a[:, :1] * nu.atom_bounds(grid) / start.clamp_min(torch.finfo(torch.float64).tiny)
    bound = torch.minimum(bound_mu, bound_nu)
    allowed = end > floor.unsqueeze(-1) / scale
    # Beyond the last node both bounds fall; below the first one, down to the floor, the grid goes on.
    return torch.where(allowed, bound, torch.zeros_like(bound)).amax(-1)


def _subdivide(nodes: Tensor) -> Tensor:
    """Points that cut every gap between sorted ``nodes`` ``(lanes, p)`` into equal intervals."""
    fractions = torch.arange(_CUTS, dtype=nodes.dtype, device=nodes.device) / _CUTS
    inner = nodes[:, :-1, None] + (nodes[:, 1:] - nodes[:, :-1])[:, :, None] * fractions
    return torch.cat([inner.flatten(1), nodes[:, -1:]], -1)


@dataclass(frozen=True)
class _Measure:
    """A probability measure known through its Jacobi matrix."""

    diagonal: Tensor  # (lanes, q)
    offdiagonal: Tensor  # (lanes, q - 1)
    nodes: Tensor  # (lanes, q), ascending
    vectors: Tensor  # (lanes, q, q): eigenvectors, vectors[p, k] = pi_p(theta_k) sqrt(w_k)

    @classmethod
    def of_jacobi(cls, diagonal: Tensor, offdiagonal: Tensor) -> _Measure:
        matrix = (
            torch.diag_embed(diagonal) + torch.diag_embed(offdiagonal, 1) + torch.diag_embed(offdiagonal, -1)
        )
        nodes, vectors = torch.linalg.eigh(matrix)
        return cls(diagonal, offdiagonal, nodes, vectors)

    def polynomials(self, points: Tensor) -> Tensor:
        """Orthonormal polynomials pi_0 .. pi_{q-1} at ``points`` ``(lanes, g)``: ``(lanes, g, q)``."""
        previous, current = torch.zeros_like(points), torch.ones_like(points)
        columns = [current]
        for p in range(self.offdiagonal.shape[-1]):
            below = self.offdiagonal[:, p - 1 : p] * previous if p > 0 else 0.0
            following = ((points - self.diagonal[:, p : p + 1]) * current - below) / self.offdiagonal[
                :, p : p + 1
            ]
            # Far from the support the values only need to be large; infinities would become NaN in sums.
            following = following.clamp(-1e100, 1e100)
            previous, current = current, following
            columns.append(current)
        return torch.stack(columns, -1)

    def atom_bounds(self, grid: Tensor) -> Tensor:
        """Upper bounds on the atoms in each interval of an ascending ``grid`` ``(lanes, g)`` that holds all nodes."""
        # l_k(t) / sqrt(w_k) = sum_p pi_p(t) vectors[p, k]
        lagrange = (self.polynomials(grid) @ self.vectors).square()  # (lanes, g, q)
        least = torch.minimum(lagrange[:, :-1], lagrange[:, 1:]).sum(-1)
        return 1.0 / least.clamp_min(torch.finfo(torch.float64).tiny)
