"""Intervals for the max cosine of a tuned vector with all base vectors: the overlap and mass certificates.

From a few computed base vectors an interval follows: the max cosine of y is at least the largest cosine with one of
them, and at most the larger of that and the norm of what they leave of y. Angles of computed vectors to true ones
widen both ends (docs/concepts/certificate.md, steps 1 to 4). Base vectors whose singular values agree (a cluster) are
not defined one by one: their cosine is taken with the space of the cluster, the largest that any choice of vectors
allows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .products import Batched
from .ritz import Triplets
from .svd import are_alone, cluster_projections

# Base vectors with a larger angle (as a sine) to the true ones say nothing certain.
USABLE_ANGLE = 0.3
# Only vectors this close are taken out of y before its moments are bounded: each leaks its cosine with y times its
# angle into the bound.
DEFLATION_ANGLE = 0.02


@dataclass(frozen=True)
class Intervals(Batched):
    """Proved ``lower <= max cosine <= upper`` for k vectors of each matrix in a batch."""

    lower: Tensor  # (batch, k), double
    upper: Tensor  # (batch, k), double


def overlap_intervals(base: Triplets, tuned: Triplets, count: int, is_complete: bool = False) -> Intervals:
    """Intervals of the ``count`` leading tuned vectors from the computed base vectors.

    The max cosine lies in ``[cos(a + t), max(cos(a - t), rest + leak)]`` with a the smallest angle between y
    and a computed base vector, t the sum of the two vectors' own errors, and rest the norm of y outside the
    computed base vectors. Where the tuned vectors form a cluster, the interval holds for every unit vector
    of its space, so its lower end is 0. ``is_complete``: these are all of the base's vectors, and there is no rest.
    """
    cosines, leak = _cosines(base, tuned, count, USABLE_ANGLE)
    lower, upper = _interval_from_computed(base, tuned, cosines, USABLE_ANGLE)
    if is_complete:
        return _widen_for_clusters(tuned, Intervals(lower, upper.clamp_max(1.0)))
    rest = (1 - cosines.square().sum(-2)).clamp_min(0).sqrt() + leak
    return _widen_for_clusters(tuned, Intervals(lower, torch.maximum(upper, rest).clamp_max(1.0)))


def remainders(base: Triplets, tuned: Triplets, count: int) -> Tensor:
    """``y - X X^T y`` ``(batch, count, m)`` of leading tuned vectors y, with the well-computed base vectors X."""
    left = base.left * _known(base, DEFLATION_ANGLE).unsqueeze(-1)
    vectors = tuned.left[..., :count, :]
    for _ in range(2):
        vectors = vectors - (vectors @ left.mT) @ left
    return vectors


@dataclass(frozen=True)
class MomentIntervals:
    """Bounds of :func:`overlap_intervals` with the rest of y bounded by its heaviest atom, which further steps lower.

    What does not depend on the atoms is computed once.
    """

    tuned: Triplets
    lower: Tensor  # (batch, count), double
    upper: Tensor  # (batch, count): of the cosines with the computed base vectors
    leak: Tensor  # (batch, count)

    @classmethod
    def of(cls, base: Triplets, tuned: Triplets, count: int) -> "MomentIntervals":
        good_cosines, leak = _cosines(base, tuned, count, DEFLATION_ANGLE)
        _, upper = _interval_from_computed(base, tuned, good_cosines, DEFLATION_ANGLE)
        all_cosines, _ = _cosines(base, tuned, count, USABLE_ANGLE)
        lower, _ = _interval_from_computed(base, tuned, all_cosines, USABLE_ANGLE)
        return cls(tuned, lower, upper, leak)

    def given(self, atom: Tensor) -> Intervals:
        """The intervals where ``atom`` ``(batch, count)`` bounds the mass of the rest along any one singular vector."""
        upper = torch.maximum(self.upper, atom.sqrt() + self.leak).clamp_max(1.0)
        return _widen_for_clusters(self.tuned, Intervals(self.lower, upper))


def _cosines(base: Triplets, tuned: Triplets, count: int, largest_angle: float) -> tuple[Tensor, Tensor]:
    """Cosines ``(batch, d, count)`` with the base vectors computed well enough (zero for others), and their leak.

    The leak ``(batch, count)`` bounds how far errors of the base vectors used and of y itself move the cosine of y with
    any base vector that was not used: ``sum_j |c_j| e_j + 2 sin(arcsin(t) / 2)`` (steps 2 and 4 of the proof).
    """
    cosines = (base.left @ tuned.left[..., :count, :].mT).double()
    cosines = torch.where(_known(base, largest_angle).unsqueeze(-1), cosines, torch.zeros_like(cosines))
    from_base = (cosines.abs() * base.angles.double().unsqueeze(-1)).sum(-2)
    turned = torch.asin(tuned.angles[..., :count].double())
    return cosines, from_base + 2 * torch.sin(turned / 2)


def _known(base: Triplets, largest_angle: float) -> Tensor:
    """Return a mask of base vectors ``(batch, d)`` that are computed to that angle, with all of their cluster.

    A cluster counts as one, through its space: a part of it says nothing of the rest.
    """
    ids = base.clusters
    if are_alone(ids):
        return base.angles <= largest_angle
    worst = torch.zeros_like(base.angles).scatter_reduce(-1, ids, base.angles, "amax").gather(-1, ids)
    return worst <= largest_angle


def _interval_from_computed(
    base: Triplets, tuned: Triplets, cosines: Tensor, largest_angle: float
) -> tuple[Tensor, Tensor]:
    """Ends ``(batch, count)`` of the interval of the largest cosine with the base vectors used."""
    ids = base.clusters
    sizes = cluster_projections(torch.ones_like(cosines), ids).square()  # members of each vector's cluster
    with_cluster = cluster_projections(cosines, ids).clamp_max(1.0)
    # Errors of a cluster's vectors may all be in one direction: together, the root of the sum of their squares.
    together = cluster_projections(base.angles.double().unsqueeze(-1), ids)
    own = torch.asin(together.clamp_max(1.0))
    error = own + torch.asin(tuned.angles[..., : cosines.shape[-1]].double()).unsqueeze(-2)
    angle = torch.acos(with_cluster)
    used = _known(base, largest_angle).unsqueeze(-1)
    lower = torch.cos((angle + error).clamp_max(torch.pi / 2)) / sizes.sqrt()
    upper = torch.cos((angle - error).clamp_min(0.0))
    lower = torch.where(used, lower, torch.zeros_like(lower))
    upper = torch.where(used, upper, torch.zeros_like(upper))
    return lower.amax(-2), upper.amax(-2)


def _widen_for_clusters(tuned: Triplets, intervals: Intervals) -> Intervals:
    """Widen the bounds of tuned vectors in one cluster to every unit vector of the cluster's space.

    For u = sum_j a_j y_j, ``|<x, u>| <= sqrt(sum_j <x, y_j>^2)``, whence the upper end. The cluster may
    reach beyond the vectors examined; then nothing is known of the others, and the upper end is 1.
    """
    count = intervals.lower.shape[-1]
    ids = tuned.clusters
    if are_alone(ids):
        return intervals
    inside = ids[..., :count]
    sizes = cluster_projections(torch.ones_like(tuned.values).unsqueeze(-1).double(), ids).square()
    sizes = sizes.squeeze(-1)[..., :count]
    seen = cluster_projections(torch.ones_like(intervals.upper).unsqueeze(-1), inside).square().squeeze(-1)
    joint = cluster_projections(intervals.upper.unsqueeze(-1), inside).squeeze(-1).clamp_max(1.0)
    alone = sizes < 1.5
    upper = torch.where(
        alone, intervals.upper, torch.where(seen > sizes - 0.5, joint, torch.ones_like(joint))
    )
    return Intervals(torch.where(alone, intervals.lower, torch.zeros_like(upper)), upper)
