"""When a growing rank-one term shows among the leading singular vectors of a matrix: the rectangular spiked threshold.

For W = W0 + theta u v^T with directions u and v that have nothing to do with the m x n matrix W0, and the transforms

    phi_L(z) = 1/m tr z (z^2 - W0 W0^T)^-1        phi_R(z) = 1/n tr z (z^2 - W0^T W0)^-1

the singular values z of W away from those of W0 solve ``phi_L(z) phi_R(z) = 1 / theta^2`` (Benaych-Georges and
Nadakuditi 2012, theorem 2.8, in the limit of large matrices). The threshold of that theory, at the edge b of W0's
spectrum, is ``theta_c = (phi_L(b) phi_R(b))^(-1/2)``: below it no singular value leaves the bulk.

A real weight matrix has no edge but a few large singular values over a bulk, and what is asked is not whether a value
leaves the bulk, but whether one of the k leading vectors resembles no x_i. The vector y that belongs to z has, on
average over u and v,

    <x_i, y>^2  proportional to  (z^2 / m + r s_i^2 / n) / (z^2 - s_i^2)^2,    r = phi_L(z) / phi_R(z),

so that z decides how much of y lies along the nearest x_i. The threshold here is the smallest theta whose z is above
the k-th singular value and whose y has less than epsilon^2 along every x_i. For a bulk that fills up densely the
two agree.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .krylov import BLOCK, KrylovSpace
from .operators import Dense, Operator
from .random_directions import own_generator
from .ritz import Triplets
from .svd import leading_count

_PROBES = 6
_STEPS = 14
# Up to this side all singular values are computed; above it the leading ones, and the rest is sampled.
_DENSE_SIDE = 1024
_KRYLOV_STEPS = 4
# Points per gap between two leading singular values, and above the largest, where theta is looked at.
_POINTS = 96


@dataclass(frozen=True)
class Spectrum:
    """The eigenvalues of W0 W0^T: the leading ones singly, the rest as nodes with weights. Double precision."""

    leading: Tensor  # (d,): singular values, descending
    nodes: Tensor  # (q,): eigenvalues
    weights: Tensor  # (q,): how many of the m - d others each stands for
    shape: tuple[int, int]  # (m, n)

    @classmethod
    def of_values(cls, values: Tensor, shape: tuple[int, int], leading: int) -> "Spectrum":
        """Build from all min(m, n) singular values; the first ``leading`` are kept singly."""
        values = values.double()
        rest = values[leading:].square()
        null = rest.new_zeros(1)
        weights = torch.cat([torch.ones_like(rest), (null + shape[0] - len(values)).clamp_min(0)])
        return cls(values[:leading], torch.cat([rest, null]), weights, shape)

    def grouped(self, most: int) -> "Spectrum":
        """Let at most ``most`` nodes stand for the others: the means of neighbors, of equal numbers of nodes."""
        if len(self.nodes) <= most:
            return self
        order = self.nodes.argsort()
        group = torch.arange(len(order), device=order.device) * most // len(order)
        weights = self.weights.new_zeros(most).index_add(0, group, self.weights[order])
        totals = self.weights.new_zeros(most).index_add(0, group, (self.weights * self.nodes)[order])
        return Spectrum(self.leading, totals / weights.clamp_min(1.0), weights, self.shape)

    def fitting(self, z: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        """phi_L phi_R at points ``z`` ``(g,)`` that are no singular value, and where they fit.

        They fit where both are positive, and the largest expected share of y along one leading x_i, by the z that y
        belongs to, is below epsilon^2.
        """
        m, n = self.shape
        d = len(self.leading)
        eigenvalues = torch.cat([self.leading.square(), self.nodes])  # (d + q,)
        weights = torch.cat([torch.ones_like(self.leading), self.weights])  # how many each stands for
        inverse = 1 / (z.square().unsqueeze(-1) - eigenvalues)
        trace = z * (inverse @ weights)
        left, right = trace / m, (trace - (m - n) / z) / n  # phi_L and phi_R
        ratio = left / right
        # The density of an eigenvalue e is (z^2 / m + r e / n) / (z^2 - e)^2.
        squares = inverse.square()
        by_n, by_m = ratio / n, z.square() / m
        total = by_m * (squares @ weights) + by_n * (squares @ (weights * eigenvalues))
        single = by_m.unsqueeze(-1) + by_n.unsqueeze(-1) * eigenvalues[:d]
        largest = (single * squares[:, :d]).amax(-1) / total
        return left * right, (left > 0) & (right > 0) & (largest < epsilon**2)


def sampled_spectra(operator: Operator, leading: Triplets) -> list[Spectrum]:
    """Estimate the spectra of a batch of matrices from leading triplets, and a few random vectors for the rest.

    Stochastic Lanczos quadrature (Ubaru, Chen and Saad 2017) on what the leading vectors leave: ``2 * 14`` passes of 6
    rows. Away from the spectrum of the rest the transforms are right to a few per cent.
    """
    _, m, n = operator.shape
    d = leading.values.shape[-1]
    probes = torch.randn(_PROBES, m, generator=own_generator(), dtype=operator.dtype).to(operator.device)
    left, right = leading.left, leading.right
    current, _ = _normalized(probes - (probes @ left.mT) @ left)  # (batch, probes, m)
    other, beta = None, None
    alphas, betas = [], []
    for _ in range(max(1, min(_STEPS, min(m, n) - d))):
        product = operator.apply_transpose(current)
        if other is not None and beta is not None:
            product = product - beta.to(product.dtype) * other
        other, alpha = _normalized(product - (product @ right.mT) @ right)
        product = operator.apply(other) - alpha.to(product.dtype) * current
        current, beta = _normalized(product - (product @ left.mT) @ left)
        alphas.append(alpha.squeeze(-1))
        betas.append(beta.squeeze(-1))
    bidiagonal = torch.diag_embed(torch.stack(alphas, -1)) + torch.diag_embed(
        torch.stack(betas, -1)[..., :-1], -1
    )
    vectors, values, _ = torch.linalg.svd(bidiagonal)
    shares = vectors[..., 0, :].square()  # (batch, probes, steps)
    nodes, weights = values.square().flatten(1), (shares * (m - d) / _PROBES).flatten(1)
    return [
        Spectrum(leading.values[i].double(), nodes[i], weights[i], (m, n)) for i in range(operator.shape[0])
    ]


def spectrum_of(matrix: Tensor, k: int) -> Spectrum:
    """The spectrum of one matrix ``(m, n)``, with enough of its leading values for the k-th threshold.

    All singular values up to a side of 1,024, a sample of the rest beyond.
    """
    m, n = matrix.shape
    count = leading_count(k, m, n)
    if min(m, n) <= _DENSE_SIDE:
        values = torch.linalg.svdvals(matrix.double())
        return Spectrum.of_values(values, (m, n), count)
    operator = Dense(matrix.unsqueeze(0))
    space = KrylovSpace.from_random_block(operator, count + BLOCK, _KRYLOV_STEPS)
    return sampled_spectra(operator, space.ritz(count)[0])[0]


def spiked_threshold(spectrum: Spectrum, k: int, epsilon: float) -> float:
    """The smallest theta at which a rank-one term in random directions is an intruder among the k leading vectors.

    ``spectrum`` must hold k leading singular values singly (all of them, if there are fewer).
    """
    edges = spectrum.leading[:k]
    edges = edges[edges > 0]
    if len(edges) == 0:
        return 0.0
    fractions = torch.arange(1, _POINTS, dtype=torch.float64, device=edges.device) / _POINTS
    # Above the largest value there is no end: distances from 1e-4 of it to three times it.
    beyond = edges[:1] * (1 + 10 ** (4.5 * fractions - 4))
    low, high = edges[1:], edges[:-1]
    low, high = low[high > low, None], high[high > low, None]
    z = torch.cat([beyond, (low + (high - low) * fractions).flatten()])
    product, fits = spectrum.fitting(z, epsilon)
    return float(torch.where(fits, product, 0.0).amax().rsqrt())


def _normalized(rows: Tensor) -> tuple[Tensor, Tensor]:
    norm = rows.norm(dim=-1, keepdim=True)
    return rows / norm.clamp_min(torch.finfo(norm.dtype).tiny), norm.double()
