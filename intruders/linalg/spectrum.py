"""Single numbers about a spectrum: how many directions it spreads over."""

import torch
from torch import Tensor

from .krylov import KrylovSpace
from .svd import eigh

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


def rank_of_energy(values: Tensor, share: float) -> Tensor:
    """The fewest leading values ``(*batch, p)`` whose squares sum to ``share`` of all squares; 0 for a zero matrix.

    >>> rank_of_energy(torch.tensor([3.0, 1.0, 0.1]), 0.99), rank_of_energy(torch.zeros(3), 0.99)
    (tensor(2), tensor(0))
    """
    squares = values.double().square()
    total = squares.sum(-1, keepdim=True)
    before = squares.cumsum(-1) - squares  # of the values ahead of each
    # The sum of all may round to less than the total, and a share of 1 asks for no value that is zero.
    return ((before < share * total) & (squares > 0)).sum(-1)


def estimate_effective_rank(
    space: KrylovSpace, probes: int, tracked: int, frobenius: Tensor
) -> tuple[Tensor, Tensor]:
    """Effective rank of a batch of m x n matrices, m >= n, and the estimate's error, from a space built already.

    The entropy of the normalized singular values needs two traces over the spectrum of ``G = W^T W``,
    ``sum_i s_i = tr G^(1/2)`` and ``sum_i s_i log s_i = tr G^(1/2) log G / 2``. A trace is n times the mean of
    ``z^T f(G) z`` over random unit vectors z (Hutchinson 1990), and the first ``probes`` right rows of a space from
    :meth:`KrylovSpace.from_random_block` are such vectors. What the space knows of G gives each term by two
    quadratures (Golub and Meurant 2010; Ubaru, Chen and Saad 2017): Gauss's from ``V G V^T``, and Radau's with a node
    at zero from ``U W W^T U^T``, one above ``tr G^(1/2)`` and one below it. Their mean is taken.

    What the space has of converged triplets among the ``tracked`` leading ones counts once rather than by chance, so
    that a few dominant values add no noise (as in Hutch++, Meyer et al. 2021). ``frobenius`` ``(batch)`` fixes the
    scale, so that a matrix times a constant has the same answer.

    The error is the standard error of the probes, from the variance of a quadratic form in a random unit vector and by
    the delta method, and half the distance of the two quadratures, as the root of their squares' sum. No pass over the
    matrix. Returns two ``(batch)`` tensors in double precision; both are 0 for a zero matrix.
    """
    size = space.basis.shape[-1]
    scale = (frobenius.double() / size**0.5).clamp_min(torch.finfo(torch.float64).tiny)
    leading = space.ritz(tracked)[0]
    # Those that count once: a run from the first, each alone in its cluster. Of a cluster the angles are those of its
    # space, and a block may not have seen all of its copies. Of the last triplet it is not known whether it is alone.
    is_apart = leading.clusters.diff() != 0
    is_alone = torch.nn.functional.pad(is_apart, (1, 0), value=True)
    is_alone &= torch.nn.functional.pad(is_apart, (0, 1))
    converged = ((leading.angles <= _CONVERGED) & is_alone).int().cumprod(-1).sum(-1)  # (batch)
    start = space.basis[..., :probes, :].double()
    rules = [
        _quadrature(space.products, None, probes, size, converged, scale),
        _quadrature(space.products_of_other_side(), start, probes, size, converged, scale),
    ]
    ranks = [_entropy_rank(*_sums(values, weights)) for values, weights in rules]
    sums, logs = (torch.stack(part).mean(0) for part in zip(*(_sums(*rule) for rule in rules), strict=True))
    rank = _entropy_rank(sums, logs).clamp(1.0, size)
    # The standard error of the entropy log S - T / S, by the spread of values that do not count once. The variance of
    # n z^T M z over random unit vectors z is 2 (tr M^2 - (tr M)^2 / n) but for terms of order 1 / n; M is here the
    # derivative (1 / S + T / S^2) dS - dT / S, as a function of the values.
    values, weights = rules[0]
    safe = sums.clamp_min(torch.finfo(sums.dtype).tiny)
    slope = (1 / safe + logs / safe.square()).unsqueeze(-1)
    influence = slope * values - torch.special.xlogy(values, values) / safe.unsqueeze(-1)
    left = torch.where(_last(converged, values.shape[-1]), 0.0, weights)
    spread = (left * influence.square()).sum(-1)
    spread = spread - (left * influence).sum(-1).square() / left.sum(-1).clamp_min(1.0)
    by_chance = (2 * spread.clamp_min(0.0) / probes).sqrt()
    error = torch.hypot(rank * by_chance, (ranks[0] - ranks[1]).abs() / 2)
    zero = frobenius == 0
    return rank.masked_fill(zero, 0.0), error.masked_fill(zero, 0.0)


def _quadrature(
    products: Tensor,  # (batch, p, q)
    start: Tensor | None,  # (batch, probes, q), orthonormal rows in the space that the products lie in
    probes: int,
    size: int,
    converged: Tensor,
    scale: Tensor,
) -> tuple[Tensor, Tensor]:
    """Nodes and weights ``(batch, p)``, ascending: singular values over ``scale``, and how many each stands for.

    ``products`` are those of the right basis, whose first rows are the probes; or of the left basis, with the
    probes as ``start``.
    """
    products = products.double()
    squares, vectors = eigh(products @ products.mT)  # columns
    if start is None:
        parts = vectors[..., :probes, :].square()
    else:
        tiny = torch.finfo(squares.dtype).tiny
        parts = ((start @ products.mT) @ vectors).square() / squares.clamp_min(tiny).unsqueeze(-2)
    is_known = _last(converged, squares.shape[-1])
    # What a probe has of the others is a random unit vector among them, once it is brought to length one.
    outside = 1 - torch.where(is_known.unsqueeze(-2), parts, 0.0).sum(-1, keepdim=True)
    rest = size - converged.double()[:, None, None]
    weights = (rest * parts / outside.clamp_min(torch.finfo(squares.dtype).eps)).mean(-2)
    weights = torch.where(is_known, 1.0, weights)
    return squares.clamp_min(0.0).sqrt() / scale.unsqueeze(-1), weights


def _last(counts: Tensor, size: int) -> Tensor:
    """Return a mask ``(batch, size)`` of the last ``counts`` ``(batch)``: the largest of ascending values."""
    return torch.arange(size - 1, -1, -1, device=counts.device) < counts.unsqueeze(-1)


def _sums(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """``sum s`` and ``sum s log s`` of values that stand for ``weights`` each."""
    return (weights * values).sum(-1), (weights * torch.special.xlogy(values, values)).sum(-1)


def _entropy_rank(sums: Tensor, logs: Tensor) -> Tensor:
    safe = sums.clamp_min(torch.finfo(sums.dtype).tiny)
    return (torch.log(safe) - logs / safe).exp()
