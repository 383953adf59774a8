"""Singular triplets found in a subspace, and how far their vectors can be from the true ones."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .products import Batched
from .svd import CLUSTER_TOLERANCE, cluster_ids, distances_beyond

# A gap that an unconverged neighbour may have closed.
_NO_GAP = 1e-300


@dataclass(frozen=True)
class Triplets(Batched):
    """Leading singular triplets of a batch of matrices, with what is known about their errors."""

    values: Tensor  # (*batch, k), descending
    left: Tensor  # (*batch, k, m), unit rows; one whose value is zero to rounding may be zero, with angle 1
    right: Tensor  # (*batch, k, n), the same
    residuals: Tensor  # (*batch, k): sqrt(||y W - s v||^2 + ||W v - s y||^2), same unit as the values
    angles: Tensor  # (*batch, k): bounds on the sines of the angles between left vectors and the true ones

    @cached_property
    def clusters(self) -> Tensor:
        return cluster_ids(self.values)


def angle_bounds(values: Tensor, residuals: Tensor, floor: Tensor, noise: float, ids: Tensor) -> Tensor:
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
    to the cluster's space. ``noise`` is what rounding adds to a residual, as a share of the largest value. ``ids`` are
    those of the values' clusters (:func:`~intruders.linalg.svd.cluster_ids`).
    """
    # The last value has nothing below it but the floor, of which nothing is known but that it is a lower bound.
    below = torch.cat([values[..., 1:], floor.unsqueeze(-1)], dim=-1)
    unsure = torch.cat([residuals[..., 1:], residuals[..., -1:]], dim=-1)
    steps = values - below
    is_open = steps[..., -1:] <= CLUSTER_TOLERANCE * values[..., :1]  # the last cluster may go on below
    apart = torch.cat([ids[..., 1:] != ids[..., :-1], ~is_open], dim=-1)
    down = torch.where(apart, (steps - unsure).clamp_min(_NO_GAP), torch.inf)
    inside = torch.where(apart, steps, torch.inf)[..., :-1]
    nearest = distances_beyond(down, inside, ids)
    rounding = noise * values[..., :1]
    residuals = residuals + rounding
    # Of a cluster that may go on below, the vectors here are a part: nothing is known of its space.
    is_part = is_open & (ids == ids[..., -1:])
    direct = torch.where(is_part | nearest.isinf(), 1.0, residuals / nearest)

    # Entries are (*batch, b, j) from here on: of vector j with the split below b.
    block = residuals.square().cumsum(-1).sqrt().unsqueeze(-1)  # R
    gap = values.unsqueeze(-2) - (below + unsure).unsqueeze(-1)  # g
    gap = gap.clamp_min(_NO_GAP)
    turned = block.square() / (2 * gap) + rounding.unsqueeze(-1)  # h
    among = torch.nn.functional.pad(inside, (0, 1), value=torch.inf)  # distances within the leading k
    inner = distances_beyond(among, inside, ids).unsqueeze(-2)
    within = (inner - turned).clamp_min(_NO_GAP)
    turn = turned / within
    bound = turn + (residuals.unsqueeze(-2) + block * turn) / gap
    kept = torch.ones_like(bound, dtype=torch.bool).tril() & (gap > _NO_GAP)
    split = torch.where(kept, bound, 1.0).amin(-2)
    return torch.minimum(direct, split).clamp_max(1.0)
