"""Single singular triplets of tuned matrices, to the accuracy that changing the weights needs.

An audit computed the vectors only as well as its decisions needed. Here they are computed again, and told by the
singular values that it found. An intruder is mostly the update's doing: a Krylov space that starts from the update's
own directions finds it in some ten narrow products, where the whole set of leading vectors takes hundreds.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..linalg.full_precision import full_precision
from ..linalg.krylov import BLOCK, KrylovSpace, converge
from ..linalg.low_rank import LowRank
from ..linalg.operators import Dense, Update
from ..linalg.pair import Pair
from ..linalg.random_directions import own_generator
from ..linalg.svd import Components, leading_svd, settle_clusters

# Largest sine of the angle between a computed vector and the true one. Turned by it, a component s y v^T moves by
# at most about this share of s times the vectors' largest entries: well below 1e-3 of the matrix's largest entry.
ANGLE = 3e-5
# A Ritz triplet is the wanted one when its value is this close, as a share of the gap to the other leading values.
_SAME = 0.25
# Residuals of converged triplets, in units of the largest singular value and of the rounding of a product.
_ROUNDING = 8
_STEPS_BETWEEN_LOOKS = 6
_LOOKS = 5
# Below this smaller side a dense decomposition costs less than the calls of the Krylov method.
_DENSE_BELOW = 100
# Rows of the random block that is added when vectors are wanted that are not the update's doing.
_RANDOM_ROWS = 4
# Steps of the random chain that leading triplets of an update are looked for in, and rounds in which it grows, before
# the dense decomposition.
_KRYLOV_STEPS = 12
_KRYLOV_ROUNDS = 8
# Up to this many times the leading triplets wanted, and two blocks more, a dense decomposition costs less than a space
# for them, which would be much of the matrix.
_SMALL = 8


@full_precision()
def find_components(
    pair: Pair, wanted: Sequence[int], values: Sequence[float], from_update: bool
) -> Components:
    """Compute the singular triplets of W at the ``wanted`` places of its descending order.

    ``values`` are its leading singular values as an audit knows them, one for each vector examined. With
    ``from_update`` the wanted vectors are mostly the update's doing (intruders are); others need a wider start.

    Vectors are within an angle of ``ANGLE`` of the true ones. Single precision where that reaches it, then double;
    the dense decomposition where singular values are too close, or the shape too small, for either.
    """
    if min(pair.base.shape) >= _DENSE_BELOW:
        for dtype in dict.fromkeys((pair.base.dtype, torch.float64)):
            eps = torch.finfo(dtype).eps
            # Residuals must become as small as ``ANGLE`` asks, with products that are rounded to eps.
            if all(ANGLE * _gap(values, wanted, j) > _ROUNDING * eps * values[0] for j in wanted):
                widened = pair.to(pair.base.device, dtype)
                part = _by_krylov(widened, wanted, values, from_update)
                if part is not None:
                    return part
    return _by_dense_svd(pair.double(), wanted)


def _by_dense_svd(pair: Pair, wanted: Sequence[int]) -> Components:
    """Decompose the matrix; vectors within a cluster of singular values are chosen as by an exact audit."""
    matrix = pair.dense()
    svd = leading_svd(matrix, max(wanted) + 1)
    rows = torch.tensor(list(wanted), dtype=torch.long)
    left = settle_clusters(svd, max(wanted) + 1, pair.base)[rows]
    products = left @ matrix  # s_j v_j for any choice of y_j within a cluster
    lengths = products.norm(dim=-1)
    return Components(lengths, left, torch.nn.functional.normalize(products, dim=-1))


def _by_krylov(
    pair: Pair, wanted: Sequence[int], values: Sequence[float], from_update: bool
) -> Components | None:
    batch = Pair.joined([pair])
    start = _start(batch, len(wanted), from_update)
    width = start.shape[-2]
    space = KrylovSpace.empty(batch.operator)
    space.grow(start)
    for _ in range(_LOOKS):
        if len(space) + width * _STEPS_BETWEEN_LOOKS > min(pair.base.shape):
            break
        space.grow_chain(width, _STEPS_BETWEEN_LOOKS)
        part = _matched(space, wanted, values)
        if part is not None:
            return part
    return None


def _start(batch: Pair, most: int, from_update: bool) -> Tensor:
    """Return start rows of the shorter side: the update's leading directions, and random ones where needed."""
    count = most + 1
    update = batch.update
    if isinstance(update, LowRank):
        leading = update.svd.first(count)
        left, right = leading.left, leading.right
    else:
        difference = KrylovSpace.from_random_block(update, _RANDOM_ROWS, 6)
        triplets, _ = difference.ritz(min(count, len(difference) - 1))
        left, right = triplets.left, triplets.right
    _, m, n = batch.base.shape
    rows = (left if m < n else right).to(batch.base.dtype)
    if from_update:
        return rows
    random = torch.randn(_RANDOM_ROWS, min(m, n), generator=own_generator(), dtype=torch.float64)
    return torch.cat([rows, random.to(rows.device, rows.dtype).expand(len(rows), -1, -1)], dim=-2)


def _matched(space: KrylovSpace, wanted: Sequence[int], values: Sequence[float]) -> Components | None:
    """Return the wanted triplets, or None until all of them have converged and can be told apart."""
    triplets, _ = space.ritz(min(len(space) - 1, 4 * len(values)))
    ritz = triplets.values[0].double()  # (tracked,)
    kept = _places(ritz, triplets.residuals[0].double(), values, wanted)
    if kept is None:
        return None
    return Components(ritz[kept], triplets.left[0, kept].double(), triplets.right[0, kept].double())


def _places(
    ritz: Tensor, residuals: Tensor, known: Sequence[float], wanted: Sequence[int]
) -> list[int] | None:
    """Return the positions of the wanted singular values among the Ritz values, if all have converged to ``ANGLE``."""
    taken: list[int] = []
    for j in wanted:
        distances = (ritz - known[j]).abs()
        distances[taken] = torch.inf
        position = int(distances.argmin())
        gap = _gap(known, wanted, j)
        if j == len(known) - 1 and position + 1 < len(ritz):
            # An audit does not say what comes after its last.
            gap = min(gap, abs(float(ritz[position] - ritz[position + 1])))
        if float(distances[position]) > _SAME * gap or float(residuals[position]) > ANGLE * gap:
            return None
        taken.append(position)
    return taken


def _gap(known: Sequence[float], wanted: Sequence[int], j: int) -> float:
    """Return the distance from the j-th singular value to the nearest one that is not wanted.

    Between wanted ones no gap is needed: the sum of their triplets depends on their common spaces alone, up to the
    difference of their values.
    """
    return min((abs(known[j] - other) for i, other in enumerate(known) if i not in wanted), default=known[j])


@full_precision()
def leading_components(update: Update, count: int, angle: float = ANGLE) -> Components:
    """Compute the leading ``count`` singular triplets of D, to an angle; fewer where it has fewer."""
    if isinstance(update, LowRank):
        return update.svd.first(count)
    if min(update.shape) > _SMALL * (count + 2 * BLOCK):
        space = KrylovSpace.from_random_block(Dense(update.matrix.unsqueeze(0)), BLOCK, _KRYLOV_STEPS)
        # A block more is followed: how far the last of those wanted can be off depends on what comes next.
        leading = converge(space, count, count + BLOCK, angle, _KRYLOV_ROUNDS)
        if float(leading.angles[0, :count].max()) <= angle:
            return Components(
                *(part[0, :count].double() for part in (leading.values, leading.left, leading.right))
            )
    svd = leading_svd(update.matrix, min(count, *update.shape)).first(count)
    # Copies: slices would hold the complete decomposition of every matrix in memory.
    return Components(svd.values.clone(), svd.left.clone(), svd.right.clone())
