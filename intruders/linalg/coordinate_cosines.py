"""Bounds on max cosines from vectors in the coordinates of their base, where all base vectors are known.

Let z be a computed unit vector in these coordinates, at an angle of at most arcsin t to the true left vector y of W,
and ``off`` a bound on the norm of what the base's decomposition is wrong by. Then for a true base vector x with value s

    |<x, y>| <= sqrt(sum of z_l^2 over |s_l - s| <= h + off) + sqrt(2) off / h + 2 sin(arcsin(t) / 2)

for any h > 0, by what a window holds (docs/concepts/certificate.md, step 8). And the projection of y on the true space
of a cluster differs from that of z on the computed one by at most ``sqrt(2) off / gap`` (Davis and Kahan 1970) and the
same last term. The smaller of the two upper bounds counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .batched import Batched
from .coordinates import Coordinates
from .leading_secular import LeadingVectors
from .svd import CLUSTER_TOLERANCE, cluster_ids, cluster_projections

# Half-width of the windows, as a share of the largest base value: wider than any cluster of values that count as one.
_WINDOW = 1e-5
# An error of a base vector beyond this makes it worth to look at windows.
_LARGE = 1e-5
# Tuned values closer than this many cluster tolerances are left to others: it may depend on rounding whether they count
# as one.
_APART = 1.5


@dataclass(frozen=True)
class CoordinateCosines(Batched):
    """Max cosines of k vectors of each matrix of a batch; double precision."""

    cosines: Tensor  # (batch, k): with the nearest base vector, or the space of the nearest cluster
    lower: Tensor  # (batch, k): bounds that hold for every choice of base vectors within clusters
    upper: Tensor  # (batch, k)


def coordinate_cosines(coordinates: Coordinates, leading: LeadingVectors, off: Tensor) -> CoordinateCosines:
    """Max cosines of the leading vectors with all base vectors; ``off`` ``(batch)`` is the base's own error.

    Where a base has more rows than columns, there are coordinates beyond those of its vectors: its left null space
    belongs to no base vector.
    """
    values, p = coordinates.values, coordinates.values.shape[-1]
    is_tall = coordinates.size > p
    inside = leading.rows[..., :p].mT  # (batch, p, k)
    ids = cluster_ids(values)
    projections = cluster_projections(inside, ids)
    # Square roots of the numbers of members.
    sizes = cluster_projections(torch.ones_like(inside[..., :1]), ids)
    turned = 2 * torch.sin(torch.asin(_angles(coordinates, leading)) / 2)  # (batch, k)
    lost = math.sqrt(2) * off.unsqueeze(-1) / _cluster_gaps(values, ids, off)  # (batch, p)
    lost = lost.unsqueeze(-1)
    lower = ((projections - lost) / sizes).amax(-2) - turned
    upper = projections + lost
    # Where values are no cluster and yet close, the windows are what bounds their vectors, if these come first.
    is_bad = lost > _LARGE
    best = torch.where(is_bad, 0.0, upper).amax(-2, keepdim=True)
    if bool((is_bad & (upper > best)).any()):
        window = _WINDOW * values[:, :1]
        outside = leading.rows[..., p:].square().sum(-1) if is_tall else torch.zeros_like(turned)
        held = _held_by_windows(values, inside.square(), outside, window + off.unsqueeze(-1))
        upper = torch.minimum(upper, held.sqrt() + (math.sqrt(2) * off.unsqueeze(-1) / window).unsqueeze(-1))
    upper = upper.amax(-2) + turned
    # Of a base that is zero, or tall without full rank, some base vectors are any in a null space.
    is_free = (values[:, :1] == 0) | (
        (values[:, -1:] <= _APART * CLUSTER_TOLERANCE * values[:, :1]) & is_tall
    )
    is_known = leading.is_proved.unsqueeze(-1) & ~is_free & lower.isfinite() & upper.isfinite()
    return CoordinateCosines(
        projections.amax(-2).clamp_max(1.0),
        torch.where(is_known, lower.clamp_min(0.0), 0.0),
        torch.where(is_known, upper.clamp_max(1.0), 1.0),
    )


def _angles(coordinates: Coordinates, leading: LeadingVectors) -> Tensor:
    """Sines ``(batch, k)`` of the angles to the true tuned vectors; 1 where another value is too near."""
    values, off = leading.values, coordinates.off.unsqueeze(-1)
    below = torch.cat([values[:, 1:], leading.floor.unsqueeze(-1)], -1)
    down = values - below
    up = torch.nn.functional.pad(down[:, :-1], (1, 0), value=torch.inf)
    # The mirrored values of [[0, W], [W^T, 0]], and its zeros, are at the distance of the value itself.
    # No two of the intervals of a value and its residual meet where values are further apart than both residuals.
    both = math.sqrt(2) * leading.residuals.norm(dim=-1, keepdim=True)
    gap = torch.minimum(torch.minimum(down, up), values) - off - both
    sine = (math.sqrt(2) * off + leading.residuals) / gap
    is_apart = gap > _APART * CLUSTER_TOLERANCE * values[:, :1]
    return torch.where(is_apart, sine, 1.0).clamp_max(1.0)


def _cluster_gaps(values: Tensor, ids: Tensor, off: Tensor) -> Tensor:
    """Distance ``(batch, p)`` from each value's cluster to the next other value, less what both may be off by."""
    steps = values[..., :-1] - values[..., 1:]
    steps = torch.where(ids[..., :-1] == ids[..., 1:], torch.inf, steps)
    down, up = (torch.nn.functional.pad(steps, side, value=torch.inf) for side in ((0, 1), (1, 0)))
    # Within a dilation every value has its mirror image: a value of zero is its own neighbor.
    nearest = torch.minimum(down, up)
    nearest = torch.full_like(values, torch.inf).scatter_reduce(-1, ids, nearest, "amin").gather(-1, ids)
    nearest = torch.minimum(nearest, values) - 2 * off.unsqueeze(-1)
    return nearest.clamp_min(torch.finfo(values.dtype).tiny)


def _held_by_windows(values: Tensor, mass: Tensor, outside: Tensor, width: Tensor) -> Tensor:
    """The mass ``(batch, p, k)`` of the vectors in the window about each base value.

    ``mass`` is ``(batch, p, k)`` by descending values ``(batch, p)``; ``outside`` belongs to the value zero.
    """
    ascending = -values
    first = torch.searchsorted(ascending, ascending - width)
    last = torch.searchsorted(ascending, ascending + width, right=True)
    total = torch.nn.functional.pad(mass.cumsum(-2), (0, 0, 1, 0))
    shape = (*first.shape, mass.shape[-1])
    held = total.gather(-2, last.unsqueeze(-1).expand(shape)) - total.gather(
        -2, first.unsqueeze(-1).expand(shape)
    )
    held = held + torch.where((values <= width).unsqueeze(-1), outside.unsqueeze(-2), 0.0)
    return held.clamp_min(0.0)
