"""Ugly matrices, made by code and seeded, for every numerical test.

Small ones (``ugly``) are for whatever is decided densely; pairs of a base and an update (``PlantedPair``) come in any
size, so that the Krylov path can be met too. Everything is made in double precision; a ``PlantedPair`` is then
rounded to single, as weights are, and its truth is computed from the rounded numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.linalg import eigh
from torch import Tensor

from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair

Array = npt.NDArray[np.float64]


def orthonormal_columns(m: int, p: int, rng: np.random.Generator) -> Array:
    """p orthonormal columns of length m, uniformly random."""
    q, r = np.linalg.qr(rng.standard_normal((m, p)))
    return np.asarray(q * np.sign(np.diagonal(r)))


def leading_left(matrix: Array, k: int) -> Array:
    """The k leading left singular vectors ``(m, k)``, by a dense decomposition of W W^T in double precision.

    In a third to a half of the time of a singular value decomposition, for scans of many scales. Cosines are
    off by some 1e-16 over the gap of the squares, which is far below the steps of any scan.
    """
    m = len(matrix)
    return np.asarray(eigh(matrix @ matrix.T, subset_by_index=(m - min(k, m), m - 1))[1])


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def with_values(m: int, n: int, values: Array, rng: np.random.Generator) -> Array:
    """An m x n matrix with the given singular values (all min(m, n) of them) and random vectors."""
    left, right = (orthonormal_columns(side, len(values), rng) for side in (m, n))
    return (left * values) @ right.T


# Singular values, p of them, descending, the largest about 1.
SPECTRA: dict[str, Callable[[int, np.random.Generator], Array]] = {
    "power law": lambda p, rng: (1.0 + np.arange(p)) ** -rng.uniform(0.2, 1.5),
    "flat": lambda p, rng: 1.0 - 0.3 * np.arange(p) / p,
    "exponential": lambda p, rng: np.exp(-np.arange(p) / (0.15 * p)),
    "outliers over a bulk": lambda p, rng: np.sort(
        np.concatenate([rng.uniform(0.4, 1.0, p // 10), rng.uniform(0.0, 0.2, p - p // 10)])
    )[::-1],
    "one giant": lambda p, rng: np.concatenate([[1.0], np.linspace(0.02, 0.001, p - 1)]),
    "clustered top": lambda p, rng: np.concatenate(
        [1.0 - 1e-5 * np.arange(min(6, p)), np.linspace(0.7, 0.01, p - min(6, p))]
    ),
    "close pairs": lambda p, rng: (
        np.repeat(np.linspace(1.0, 0.1, -(-p // 2)), 2)[:p] * (1.0 - 1e-4 * (np.arange(p) % 2))
    ),
    "three equal": lambda p, rng: np.concatenate([np.ones(min(3, p)), np.linspace(0.8, 0.1, p - min(3, p))]),
    "many equal": lambda p, rng: np.concatenate([np.ones(min(12, p)), np.linspace(0.8, 0.1, p - min(12, p))]),
    "two plateaus": lambda p, rng: np.where(np.arange(p) < p // 3, 1.0, 0.4),
    "all equal": lambda p, rng: np.ones(p),
    "rank-deficient": lambda p, rng: np.where(np.arange(p) < -(-2 * p // 3), np.linspace(1.0, 0.2, p), 0.0),
    "low rank": lambda p, rng: np.where(np.arange(p) < 5, np.linspace(1.0, 0.5, p), 0.0),
}

SHAPES = [(1, 1), (1, 5), (6, 1), (2, 3), (3, 2), (7, 7), (12, 8), (8, 12), (20, 5), (5, 20)]


def ugly() -> dict[str, Tensor]:
    """Small matrices ``(m, n)`` in double precision by name."""
    rng = np.random.default_rng(0)
    found: dict[str, Array] = {}
    for m, n in SHAPES:
        found[f"gaussian {m}x{n}"] = rng.standard_normal((m, n))
        found[f"zero {m}x{n}"] = np.zeros((m, n))
    for name, spectrum in SPECTRA.items():
        for m, n in [(9, 9), (14, 9), (9, 14)]:
            found[f"{name} {m}x{n}"] = with_values(m, n, spectrum(9, rng), rng)
    gaussian = rng.standard_normal((9, 7))
    found["zero rows"] = np.where(np.arange(9)[:, None] % 3 == 0, 0.0, gaussian)
    found["zero columns"] = np.where(np.arange(7) % 3 == 0, 0.0, gaussian)
    found["one nonzero entry"] = np.where(np.arange(63).reshape(9, 7) == 40, 2.0, 0.0)
    found["identity"] = np.eye(8)
    found["identity, tall"] = np.eye(9, 6)
    found["orthogonal"] = orthonormal_columns(8, 8, rng)
    found["equal rows"] = np.ones((9, 7))
    found["huge"] = 1e30 * gaussian
    found["tiny"] = 1e-30 * gaussian
    found["of very different columns"] = gaussian * 10.0 ** -np.arange(7)
    result = {name: torch.from_numpy(matrix.copy()) for name, matrix in found.items()}
    result["bf16"] = torch.from_numpy(gaussian).bfloat16().double()
    return result


@dataclass(frozen=True)
class PlantedPair:
    """One base and its update, in single precision: dense, or as factors."""

    base: Tensor  # (m, n)
    tuned: Tensor | LowRank  # (m, n)

    @staticmethod
    def dense(base: Array, update: Array) -> "PlantedPair":
        return PlantedPair(_single(base), _single(base + update))

    @staticmethod
    def lowrank(base: Array, left: Array, right: Array) -> "PlantedPair":
        return PlantedPair(_single(base), LowRank(_single(left), _single(right)))

    def batch(self) -> Pair:
        return batch_of([self])

    def tuned_double(self) -> Array:
        """The tuned matrix that the single-precision numbers stand for, summed in double precision."""
        if isinstance(self.tuned, Tensor):
            return np.asarray(self.tuned.double())
        return np.asarray(self.base.double() + self.tuned.left.double() @ self.tuned.right.double())


def batch_of(pairs: list[PlantedPair]) -> Pair:
    return Pair.joined([Pair(pair.base, pair.tuned) for pair in pairs])


def _single(matrix: Array) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix)).float()


def spiked(base: Array, sizes: npt.ArrayLike, rng: np.random.Generator) -> PlantedPair:
    """Random directions of these singular values."""
    left, right = (orthonormal_columns(side, np.size(sizes), rng) for side in base.shape)
    return PlantedPair.lowrank(base, left * sizes, right.T)


# How an update is made: (base, generator) -> PlantedPair.
def lowrank_update(base: Array, rng: np.random.Generator) -> PlantedPair:
    """Rank 1 to 16, of any strength from a whisper to ten times the base's norm."""
    m, n = base.shape
    rank = int(rng.integers(1, 17))
    strength = 10.0 ** rng.uniform(-2.0, 1.0) * max(float(np.linalg.norm(base, 2)), 1e-3)
    left = rng.standard_normal((m, rank)) / m**0.5
    right = rng.standard_normal((rank, n)) / n**0.5
    return PlantedPair.lowrank(base, strength * left, right)


def dense_update(base: Array, rng: np.random.Generator) -> PlantedPair:
    """Noise everywhere, from a whisper to the base's own norm."""
    m, n = base.shape
    noise = rng.standard_normal((m, n)) / (m**0.5 + n**0.5)
    return PlantedPair.dense(base, 10.0 ** rng.uniform(-2.0, 0.0) * np.linalg.norm(base, 2) * noise)


def hot_update(base: Array, rng: np.random.Generator) -> PlantedPair:
    """Six to twenty-four directions at and above the base's norm: nearly every leading vector is new."""
    m, n = base.shape
    count = min(int(rng.integers(6, 25)), m, n)
    values = np.sort(rng.uniform(0.8, 3.0, count))[::-1] * max(float(np.linalg.norm(base, 2)), 1e-3)
    left, right = (orthonormal_columns(side, count, rng) for side in (m, n))
    if rng.random() < 0.5:
        return PlantedPair.lowrank(base, left * values, right.T)
    return PlantedPair.dense(base, (left * values) @ right.T)


def planted_update(base: Array, rng: np.random.Generator) -> PlantedPair:
    """One to fourteen directions, each an equal mix of 2 to 8 base vectors that nothing else uses.

    The mixes are of trailing base vectors, on the left and on the right, and above everything in the base: the
    tuned vectors are these mixes (as far as the update outweighs what it is made of), decoupled from the
    leading ones.
    """
    count, spread = int(rng.integers(1, 15)), int(rng.integers(2, 9))
    planted = planted_mixes(base, [spread] * count, rng)
    return planted if rng.random() < 0.5 else PlantedPair.dense(base, planted.tuned_double() - base)


def planted_mixes(base: Array, spreads: list[int], rng: np.random.Generator) -> PlantedPair:
    """A low-rank update whose directions are equal mixes of ``spreads[i]`` trailing base vectors each."""
    u, s, vt = np.linalg.svd(base, full_matrices=False)
    end = len(s)
    left, right = [], []
    for spread in spreads:
        chosen = np.arange(end - spread, end)
        end -= spread
        left.append(u[:, chosen] @ rng.choice([-1.0, 1.0], spread) / spread**0.5)
        right.append(rng.choice([-1.0, 1.0], spread) / spread**0.5 @ vt[chosen])
    values = s[0] * np.linspace(3.0, 1.5, len(spreads))
    return PlantedPair.lowrank(base, np.array(left).T * values, np.array(right))


def scaled_update(base: Array, rng: np.random.Generator) -> PlantedPair:
    """The base times a number: every vector stays."""
    return PlantedPair.dense(base, rng.uniform(0.1, 2.0) * base)


UPDATES: dict[str, Callable[[Array, np.random.Generator], PlantedPair]] = {
    "low-rank": lowrank_update,
    "dense": dense_update,
    "hot": hot_update,
    "planted": planted_update,
    "scaled": scaled_update,
}


@dataclass(frozen=True)
class Truth:
    """What numpy's dense double-precision decompositions say about the k leading tuned vectors."""

    least: Array  # (k,): max cosine, with the base vectors that numpy chose in clusters
    most: Array  # (k,): max over the base's clusters of the projection on the cluster's space
    values: Array  # (k,): singular values of the tuned matrix
    defined: npt.NDArray[np.bool_]  # (k,): the vector has a singular value to itself


def truth_of(pair: PlantedPair, k: int, closeness: float = 1e-5) -> Truth:
    """Values closer than ``closeness`` times the largest are taken as a cluster."""
    x, base_values, _ = np.linalg.svd(np.asarray(pair.base.double()), full_matrices=False)
    y, tuned_values, _ = np.linalg.svd(pair.tuned_double(), full_matrices=False)
    k = min(k, len(tuned_values))
    cosines = np.abs(x.T @ y[:, :k])  # (p, k)
    cluster = np.concatenate([[0], np.cumsum(-np.diff(base_values) > closeness * base_values[0])])
    sums = np.zeros((int(cluster[-1]) + 1, k))
    np.add.at(sums, cluster, cosines**2)
    if len(x) > len(base_values) and base_values[-1] <= 1e-6 * base_values[0]:
        # Tall and rank-deficient: any direction outside the column space can be a vector of value zero.
        inside = base_values > 1e-6 * base_values[0]
        sums[-1] = 1 - (cosines[inside] ** 2).sum(0)
    gaps = np.abs(np.diff(tuned_values, append=-np.inf if len(x) == 0 else -1.0))[:k]
    above = np.abs(np.diff(tuned_values, prepend=np.inf))[:k]
    defined = np.minimum(gaps, above) > closeness * tuned_values[0]
    return Truth(cosines.max(0), np.sqrt(sums.max(0).clip(0, 1)), tuned_values[:k], defined)
