"""The max cosines of one matrix from two dense decompositions: the reference path, and the last certificate.

Everything here is in double precision. Where the matrix leaves a choice of vectors (a cluster of equal
singular values, in the base or in the tuned matrix), the answer takes the cosine with the cluster's space
and says whether another choice would decide otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .svd import CLUSTER_TOLERANCE, Components, cluster_ids, cluster_projections, dense_svd, settle_clusters

Decomposition = Callable[[Tensor], Components]

# What a cosine may be off by where vectors come from a Gram matrix, or were kept in single precision: vectors of small
# values close to each other turn by up to 6e-5.
_SHORTCUT = 1e-4


@dataclass(frozen=True)
class ExactCosines:
    """The max cosines of one tuned matrix's k leading left singular vectors, by two full decompositions."""

    max_cosines: Tensor  # (k,), double
    ambiguous: Tensor  # (k,), bool: another choice of vectors within a cluster would decide otherwise
    values: Tensor  # (k,): singular values of the tuned matrix
    next_value: Tensor  # (): the singular value after these, 0 for none
    left: Tensor  # (k, m): its left singular vectors
    base_values: Tensor  # (p,)
    base_left: Tensor  # (p, m)


def exact_cosines(
    base: Tensor,
    tuned: Tensor,
    k: int,
    epsilon: float,
    decompose: Decomposition = dense_svd,
    base_svd: Components | None = None,
) -> ExactCosines:
    """``max_i |<x_i, y_j>|`` of every y_j, j < k, over all left singular vectors x_i of ``base`` ``(m, n)``.

    ``tuned`` is ``(m, n)`` too. ``epsilon`` only serves to say which decisions are ambiguous. ``decompose`` is
    :func:`dense_svd`, or :func:`.svd.gram_svd` for the same answer in less time. ``base_svd`` spares the base's, of
    which only values and left vectors are read. A max cosine next to ``epsilon`` is computed again without either.
    """
    is_shortcut = decompose is not dense_svd or base_svd is not None
    base = base.double()
    before = decompose(base) if base_svd is None else base_svd
    tuned_svd = decompose(tuned)
    if tuned_svd.values[min(k, len(tuned_svd.values)) - 1] <= CLUSTER_TOLERANCE * tuned_svd.values[0]:
        tuned_svd = dense_svd(tuned)  # vectors of zero singular values are examined: no shortcut gives them
    ids, is_free = cluster_ids(before.values), _is_free(before).unsqueeze(-1)

    def beside(rows: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines ``(p, c)`` of unit rows with the base's vectors, and those with the spaces of their clusters."""
        cosines = before.left @ rows.mT
        # The thin decomposition of a rank-deficient tall matrix takes some directions of the left null space as x_i,
        # and which ones is arbitrary: the projection on the whole of it is what counts.
        outside = (1 - torch.where(is_free, 0.0, cosines).square().sum(0)).clamp_min(0).sqrt()
        return cosines, torch.where(is_free, outside, cluster_projections(cosines, ids))

    left = settle_clusters(tuned_svd, k, base)
    cosines, projections = beside(left)
    max_cosines = projections.amax(0).clamp_max(1.0)
    sizes = cluster_projections(torch.ones_like(cosines), ids)  # square roots of the cluster sizes
    # Of a left null space that has more dimensions than the base has vectors there, all can avoid y.
    worst = torch.where(is_free, 0.0, projections / sizes).amax(0)
    if is_shortcut and bool(((torch.stack([max_cosines, worst]) - epsilon).abs() < _SHORTCUT).any()):
        return exact_cosines(base, tuned, k, epsilon)
    ambiguous = (max_cosines >= epsilon) & (worst < epsilon)
    # So are those whose cluster in the tuned matrix has unit vectors with different decisions.
    tuned_ids = cluster_ids(tuned_svd.values)
    for cluster in torch.unique(tuned_ids[:k]).tolist():
        members = (tuned_ids == cluster).nonzero().squeeze(-1)
        if len(members) > 1:
            cosines, projections = beside(tuned_svd.left[members])
            largest = projections.square().sum(-1).sqrt().max()
            # max_i |<x_i, u>| >= |G u| / sqrt(rows of G), with G the cosines with as many base vectors as it has.
            cosines = torch.where(is_free, 0.0, cosines)
            strongest = cosines.square().sum(-1).topk(len(members)).indices
            smallest = torch.linalg.svdvals(cosines[strongest])[-1] / len(members) ** 0.5
            if largest >= epsilon and smallest < epsilon:
                ambiguous[members[members < k]] = True
    next_value = tuned_svd.values[k] if k < len(tuned_svd.values) else tuned_svd.values.new_zeros(())
    values = tuned_svd.values[:k]
    return ExactCosines(max_cosines, ambiguous, values, next_value, left, before.values, before.left)


def _is_free(base: Components) -> Tensor:
    """Return a mask of left vectors ``(p,)`` in a larger left null space: value zero, more rows than columns.

    With the others of their cluster, whose vectors are no more defined.
    """
    p, m = base.left.shape
    is_zero = (base.values <= CLUSTER_TOLERANCE * base.values[:1]) & (m > p)
    ids = cluster_ids(base.values)
    return torch.zeros_like(is_zero).index_put((ids[is_zero],), torch.tensor(True, device=ids.device))[ids]
