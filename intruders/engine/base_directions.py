"""The leading singular triplets of one base matrix, as closely as a projection on them needs."""

from __future__ import annotations

from torch import Tensor

from ..linalg.full_precision import full_precision
from ..linalg.krylov import BLOCK, KrylovSpace
from ..linalg.operators import Dense
from ..linalg.svd import dense_svd
from .components import Components, converged_components
from .known_base import KnownBase

# Sine of the angle to the true vectors: far below the rounding of single-precision weights.
_ANGLE = 1e-9
_ROUNDS = 12
_STEPS = 12
# Below this many times the number of vectors a dense decomposition costs less.
_SMALL = 8


@full_precision()
def base_directions(matrix: Tensor, k: int, known: KnownBase | None = None) -> Components:
    """Compute the ``k`` leading singular triplets of a matrix ``(m, n)``, in double precision.

    ``known`` is what an audit has computed of it (a base cache's entry): a start that spares passes, and changes
    nothing about the result beyond rounding.
    """
    wide = matrix.double()
    if min(wide.shape) > _SMALL * (k + BLOCK):
        operator = Dense(wide.unsqueeze(0))
        space = KrylovSpace.empty(operator)
        if known is not None and not known.is_complete:
            space.grow(known.basis.to(wide.device).double())
        space.grow_randomly(BLOCK, max(_STEPS, k // 2))
        parts = converged_components(space, k, _ANGLE, _ROUNDS)
        if parts is not None:
            return parts
    svd = dense_svd(wide)
    return Components(svd.values[:k], svd.left[:k], svd.right[:k])
