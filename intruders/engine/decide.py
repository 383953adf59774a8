"""Intruder dimensions of a batch of equal-shaped matrices: the certificates, cheapest first.

Where all vectors of the base are known and the update is of low rank, the k leading left singular vectors of every
tuned matrix are read off in the base's coordinates (`coordinates`). Elsewhere they are computed by a Krylov method
that starts from what is known of the base, and each is decided by the first of these that can:

1. overlap: a computed base vector resembles it. Not an intruder.
2. mass: the computed base vectors hold so much of it that no other can resemble it, and none of them does. Intruder.
3. moment: no base vector, computed or not, can resemble it, by its spectral moments. Intruder.
4. exact: the dense decomposition of its matrix.
"""

from dataclasses import replace

import torch

from ..linalg.full_precision import full_precision, is_covered
from ..linalg.pair import Pair
from ..linalg.svd import dense_svd, gram_svd, leading_count
from .certificates import coordinates_of, decide_by_certificates, decide_in_coordinates
from .decisions import Decisions, decide_dense, measure_update
from .known_base import WHOLE_BELOW, KnownBase, least_side

# Below this smaller side the dense decompositions of both matrices are the fastest way.
DENSE_BELOW = 128


@full_precision()
def decide(
    batch: Pair, k: int, epsilon: float, exact: bool = False, known: KnownBase | None = None
) -> Decisions:
    """Decide the ``min(k, m, n)`` leading left singular vectors of every tuned matrix of a batch.

    y_j is an intruder when ``max_i |<x_i, y_j>| < epsilon`` over all left singular vectors x_i of its base matrix.
    ``exact`` takes the dense decompositions throughout. ``known`` is what an earlier call computed of the same
    bases (its result's ``known``), to start from. The batch must be finite. Single-precision products are computed in
    full, whatever the process has set, and a device whose products round more than the proofs allow for is ``exact``.
    """
    exact = exact or (batch.base.dtype == torch.float32 and not is_covered(batch.base.device))
    _, m, n = batch.base.shape
    k = min(k, m, n)
    update = measure_update(batch, k, exact)
    base_count = leading_count(k, m, n)
    overflows = float(update.spectral.max()) > torch.finfo(batch.base.dtype).max ** 0.5  # squares of it would
    if exact or overflows:
        decisions = decide_dense(batch, k, epsilon, base_count, update, dense_svd)
        return replace(decisions, known=None)  # all vectors of a large base, where an audit expects some
    if min(m, n) < max(DENSE_BELOW, least_side(k)):
        return decide_dense(batch, k, epsilon, base_count, update, gram_svd, known)
    if known is None and min(m, n) < WHOLE_BELOW:
        known = KnownBase.decomposed(batch.base)
    whole = None if known is None else known.whole()
    coordinates = None if whole is None else coordinates_of(batch, whole, k)
    if known is None or whole is None or coordinates is None:
        return decide_by_certificates(batch, k, epsilon, base_count, update, known)
    decisions, is_open = decide_in_coordinates(coordinates, whole, k, epsilon, base_count, update, known)
    left_open = is_open.nonzero().squeeze(-1)
    if len(left_open) == 0:
        return decisions
    some, of_some = batch.select(left_open), update.select(left_open)
    others = decide_by_certificates(some, k, epsilon, base_count, of_some, known.select(left_open))
    return decisions.with_rows(left_open, others)
