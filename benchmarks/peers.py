"""Shows what general solvers take for the leading singular triplets alone, all at the same residual.

They prove nothing about the other vectors, on which the question whether a vector is an intruder hangs: no peer counts
intruders. PRIMME is run where it is installed (``pip install primme``).
"""

import importlib.util
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from intruders.linalg.krylov import BLOCK, KrylovSpace
from intruders.linalg.operators import Dense

from .inputs import llm_like
from .measure import REPEATS, K, timed

SHAPES = ((4096, 4096), (11008, 4096))
QUICK = ((512, 512), (1376, 512))
# Largest residual, over the largest singular value, that every solver has to come under.
RESIDUAL = 1e-4
_EFFORTS = range(12)

Array = npt.NDArray[np.float32]
# Left vectors (m, k), values (k,) and right vectors (n, k), in any order.
Found = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Peer:
    """One solver on one matrix, with the least effort that was enough; the median of several runs with that."""

    label: str
    solver: str
    seconds: float | None  # None where no effort was enough
    residual: float  # the largest of the K leading triplets, over the largest singular value


def peer_rows(shapes: tuple[tuple[int, int], ...]) -> Iterator[Peer]:
    """Every solver that is installed, on every shape."""
    for m, n in shapes:
        matrix = llm_like(m, n, seed=0)
        for name, solve in solvers().items():
            yield _least_effort(f"{m} x {n}", name, solve, matrix)


def _least_effort(label: str, name: str, solve: Callable[[Tensor, int], Found], matrix: Tensor) -> Peer:
    """What was tried with less effort does not count."""
    residual = float("inf")
    for effort in _EFFORTS:
        seconds, found = timed(partial(solve, matrix, effort))
        residual = largest_residual(matrix, *found)
        if residual <= RESIDUAL:
            repeated = [timed(partial(solve, matrix, effort))[0] for _ in range(REPEATS - 1)]
            return Peer(label, name, statistics.median([seconds, *repeated]), residual)
    return Peer(label, name, None, residual)


def largest_residual(matrix: Tensor, left: Tensor, values: Tensor, right: Tensor) -> float:
    """``max_j sqrt(||W v_j - s_j y_j||^2 + ||W^T y_j - s_j v_j||^2) / s_1``."""
    forward = (matrix @ right - left * values).square().sum(0)
    backward = (matrix.mT @ left - right * values).square().sum(0)
    return float((forward + backward).sqrt().max() / values.max())


def solvers() -> dict[str, Callable[[Tensor, int], Found]]:
    """By name; each takes a matrix and an effort from 0 on."""
    found: dict[str, Callable[[Tensor, int], Found]] = {
        "intruders": _block_lanczos,
        "torch.svd_lowrank": _svd_lowrank,
    }
    if importlib.util.find_spec("scipy") is not None:
        found["SciPy svds (ARPACK)"] = _scipy
    if importlib.util.find_spec("primme") is not None:
        found["PRIMME svds"] = _primme
    return found


def _block_lanczos(matrix: Tensor, effort: int) -> Found:
    space = KrylovSpace.from_random_block(Dense(matrix[None]), BLOCK, 12 + 4 * effort)
    triplets, _ = space.ritz(K)
    return triplets.left[0].mT, triplets.values[0], triplets.right[0].mT


def _svd_lowrank(matrix: Tensor, effort: int) -> Found:
    left, values, right = torch.svd_lowrank(matrix, q=2 * K, niter=2 + 3 * effort)
    return left[:, :K], values[:K], right[:, :K]


def _scipy(matrix: Tensor, effort: int) -> Found:
    from scipy.sparse.linalg import svds

    return _as_tensors(*svds(matrix.numpy(), k=K, tol=10.0 ** -(effort / 2), rng=np.random.default_rng(0)))


def _primme(matrix: Tensor, effort: int) -> Found:
    import primme

    # Its tolerance is the residual over the norm.
    return _as_tensors(*primme.svds(matrix.numpy(), k=K, tol=RESIDUAL / 2**effort))


def _as_tensors(left: Array, values: Array, right: Array) -> Found:
    parts = (left, values, right.T)
    return tuple(torch.from_numpy(np.ascontiguousarray(part)) for part in parts)  # type: ignore[return-value]
