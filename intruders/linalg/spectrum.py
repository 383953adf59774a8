"""Single numbers about a spectrum: how many directions it spreads over."""

from __future__ import annotations

import torch
from torch import Tensor

from .krylov import Triplets
from .operators import LowRankUpdate, Operator

# Triplets with a larger angle (a sine) to the true ones are left to the probes.
_CONVERGED = 0.02


def effective_rank(values: Tensor) -> Tensor:
    """``exp(-sum_i p_i log p_i)`` with ``p_i = s_i / sum_j s_j`` (Roy and Vetterli 2007).

    ``values`` ``(*batch, p)`` are all singular values of a matrix; between 1 and p. 0 for a zero matrix.
    """
    values = values.double()
    total = values.sum(-1, keepdim=True)
    shares = values / total.clamp_min(torch.finfo(values.dtype).tiny)
    entropy = -torch.special.xlogy(shares, shares).sum(-1)
    return torch.where(total.squeeze(-1) > 0, entropy.exp(), torch.zeros_like(entropy))


def stable_rank(frobenius: Tensor, spectral: Tensor) -> Tensor:
    """``||D||_F^2 / ||D||_2^2``; between 1 and the rank, and 0 for a zero matrix."""
    ratio = (frobenius / spectral.clamp_min(torch.finfo(spectral.dtype).tiny)).square()
    return torch.where(spectral > 0, ratio, torch.zeros_like(ratio))


def estimate_effective_rank(
    operator: Operator,
    frobenius: Tensor,
    leading: Triplets | None = None,
    probes: int = 8,
    steps: int = 12,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Effective rank of a stack of m x n matrices by stochastic Lanczos quadrature, and its standard error.

    The entropy of the normalized singular values needs two traces over the spectrum of the smaller Gram
    matrix G, ``sum_i s_i = tr G^(1/2)`` and ``sum_i s_i log s_i = tr G^(1/2) log G / 2``. Each is estimated
    as the mean of ``z^T f(G) z`` over random sign vectors z, each term by ``steps`` steps of Golub-Kahan
    (Ubaru, Chen and Saad 2017). ``frobenius`` ``(batch)`` fixes the scale, so that a matrix times a constant
    has the same answer. The error covers the probes' spread, by the delta method; that of the quadrature is
    smaller by far at the default steps.

    What ``leading`` has of converged singular triplets is taken out and counted exactly, so that a few dominant values
    add no noise (as in Hutch++, Meyer et al. 2021).

    Costs ``2 * steps`` passes of ``probes`` rows. Returns two ``(batch)`` tensors, double precision.
    """
    batch, m, n = operator.shape
    size = min(m, n)
    taken = frobenius.new_zeros(batch, 0, dtype=torch.float64)
    if leading is not None:
        taken = torch.where(leading.angles <= _CONVERGED, leading.values, 0.0).double()
        scaled = -leading.left.mT * taken.unsqueeze(-2).to(leading.left.dtype)
        operator = LowRankUpdate(operator, scaled, leading.right)
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (probes, size), generator=generator).mul(2).sub(1)
    z = signs.to(operator.device, operator.dtype).expand(batch, probes, size) / size**0.5
    forward, backward = operator.apply_transpose, operator.apply
    if m > n:  # probe the smaller side
        forward, backward = backward, forward
    current, other = z, None
    alphas, betas = [], []
    for _ in range(steps):
        product = forward(current)
        if other is not None:
            product = product - betas[-1].unsqueeze(-1).to(product.dtype) * other
        other, alpha = _normalized(product)
        alphas.append(alpha)
        product = backward(other) - alpha.unsqueeze(-1).to(product.dtype) * current
        current, beta = _normalized(product)
        betas.append(beta)
    a = torch.stack(alphas, -1)  # (batch, probes, steps)
    b = torch.stack(betas[:-1], -1)
    bidiagonal = torch.diag_embed(a) + torch.diag_embed(b, -1)
    vectors, nodes, _ = torch.linalg.svd(bidiagonal)
    weights = vectors[..., 0, :].square()
    scale = (frobenius.double() / size**0.5).clamp_min(torch.finfo(torch.float64).tiny)
    nodes = nodes / scale[:, None, None]
    sums = size * (weights * nodes).sum(-1)  # (batch, probes): one estimate of the sum of values each
    logs = size * (weights * torch.special.xlogy(nodes, nodes)).sum(-1)
    # The converged values' own terms, in the same unit.
    taken = taken / scale.unsqueeze(-1)
    sums = sums + taken.sum(-1, keepdim=True)
    logs = logs + torch.special.xlogy(taken, taken).sum(-1, keepdim=True)
    total, weighted = sums.mean(-1), logs.mean(-1)
    safe = total.clamp_min(torch.finfo(torch.float64).tiny)
    entropy = torch.log(safe) - weighted / safe
    # d entropy = (1 / S + T / S^2) dS - dT / S
    slope = (1 / safe + weighted / safe.square()).unsqueeze(-1)
    influence = slope * (sums - total.unsqueeze(-1)) - (logs - weighted.unsqueeze(-1)) / safe.unsqueeze(-1)
    error = influence.std(-1) / probes**0.5
    rank = entropy.exp().clamp(1.0, size)
    zero = frobenius == 0
    rank = torch.where(zero, torch.zeros_like(rank), rank)
    return rank, torch.where(zero, torch.zeros_like(rank), rank * error)


def _normalized(rows: Tensor) -> tuple[Tensor, Tensor]:
    norm = rows.norm(dim=-1)
    safe = norm.clamp_min(torch.finfo(norm.dtype).tiny).unsqueeze(-1)
    return rows / safe, norm.double()
