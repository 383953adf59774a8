"""A randomized search for bounds of the certificate `coordinates` that do not hold, and so for wrong decisions.

Bases have the spectra of ``matrices.SPECTRA`` in tall, wide and square shapes, as they are, with rows of zeros, rounded
to bf16, with values tiny beside the largest, or hidden under a huge one; updates are of low rank: random, hot, mixes of
base vectors, in the base's own vectors (so that values of W lie at poles of the secular function), taking base values
away, or taking the largest away completely, so that what rounding left of it is among the rest. The truth is two
double-precision decompositions by numpy. A bound that does not hold is a wrong decision for some epsilon, and so is one
that is not wide open where the matrix leaves the vector undefined. Run as a program, it prints how many vectors were
tried::

    python -m tests.engine.wrong_coordinates 100000 --seed 1
"""

import argparse
from collections import Counter

import numpy as np
import torch

from intruders.linalg.coordinates import Coordinates
from intruders.linalg.low_rank import LowRank
from intruders.linalg.secular import coordinate_cosines, far_below, leading_vectors
from intruders.linalg.svd import CLUSTER_TOLERANCE
from intruders.linalg.whole_base import WholeBase
from tests.matrices import (
    SPECTRA,
    Array,
    PlantedPair,
    Truth,
    hot_update,
    orthonormal_columns,
    planted_mixes,
    with_values,
)

SHAPES = ((48, 48), (72, 48), (48, 72))
# Matrices that are judged as one batch.
TOGETHER = 5
VECTORS = 8
# What double precision leaves unknown of the truth.
UNSURE = 1e-8
# Distance to epsilon at which a decision is asked for.
NEAR = 1e-3


def make_base(m: int, n: int, rng: np.random.Generator) -> tuple[str, Array]:
    name = str(rng.choice(list(SPECTRA)))
    values = SPECTRA[name](min(m, n), rng).copy()
    kind = str(rng.choice(["as it is", "zero rows", "bf16", "tiny values", "under an outlier"]))
    if kind == "tiny values":
        values[len(values) // 2 :] *= 10.0 ** -rng.uniform(3, 12)
    if kind == "under an outlier":
        values[0] = values[0] * 10.0 ** rng.uniform(1, 5)
    base = with_values(m, n, values, rng)
    if kind == "zero rows":
        base[rng.random(m) < 0.2] = 0.0
    if kind == "bf16":
        base = np.asarray(torch.from_numpy(base).bfloat16().double())
    return kind, base * 10.0 ** rng.integers(-3, 4)


def make_update(base: Array, rng: np.random.Generator) -> tuple[str, PlantedPair]:
    m, n = base.shape
    kinds = ["random", "hot", "mixes", "own vectors", "unlearning", "partly own", "cancelling"]
    # What rounding leaves of a value that is taken away counts where the others are small beside it.
    first, second = np.linalg.svd(base, compute_uv=False)[:2]
    odds = np.array([1, 1, 1, 1, 1, 1, 12 if first > 1e3 * second else 1])
    kind = str(rng.choice(kinds, p=odds / odds.sum()))
    norm = max(float(np.linalg.norm(base, 2)), 1e-3)
    rank = int(rng.integers(1, 7))
    strength = 10.0 ** rng.uniform(-3.0, 1.0) * norm
    if kind == "mixes":
        return kind, planted_mixes(base, [int(rng.integers(2, 9)) for _ in range(rank)], rng)
    if kind == "hot":
        pair = hot_update(base, rng)
        if isinstance(pair.tuned, LowRank):
            left, right = pair.tuned.left[:, :rank], pair.tuned.right[:rank]
            return kind, PlantedPair(pair.base, LowRank(left, right))
        kind = "random"
    u, s, vt = np.linalg.svd(base, full_matrices=False)
    chosen = rng.choice(len(s), rank, replace=False)
    left, right = orthonormal_columns(m, rank, rng), orthonormal_columns(n, rank, rng).T
    if kind == "random":
        left, right = rng.standard_normal((m, rank)) / m**0.5, rng.standard_normal((rank, n)) / n**0.5
        return kind, PlantedPair.lowrank(base, strength * left, right)
    if kind == "own vectors":
        return kind, PlantedPair.lowrank(base, strength * u[:, chosen], vt[chosen])
    if kind == "unlearning":
        return kind, PlantedPair.lowrank(base, -s[chosen] * u[:, chosen] * rng.uniform(0.5, 1.5), vt[chosen])
    if kind == "cancelling":
        left = np.concatenate([-s[0] * u[:, :1], rng.uniform(0.5, 3) * s[1] * left[:, :1]], 1)
        return kind, PlantedPair.lowrank(base, left, np.concatenate([vt[:1], right[:1]]))
    return kind, PlantedPair.lowrank(base, strength * left, vt[chosen] if rng.random() < 0.5 else right)


def truth_of(pair: PlantedPair) -> Truth:
    """What numpy's decompositions say: with the worst choice of vectors within the base's clusters, and the best."""
    base = np.asarray(pair.base.double())
    x, s, _ = np.linalg.svd(base, full_matrices=False)
    y, values, _ = np.linalg.svd(pair.tuned_double(), full_matrices=False)
    y, tolerance = y[:, :VECTORS], CLUSTER_TOLERANCE * s[0]
    squares = (x.T @ y) ** 2
    cluster = np.concatenate([[0], np.cumsum(-np.diff(s) > tolerance)])
    ends = [(s[cluster == c].max(), s[cluster == c].min()) for c in range(cluster[-1] + 1)]
    too_wide = np.array([high - low > 4 * tolerance for high, low in ends])[cluster]
    is_equal = np.concatenate([[False], -np.diff(s) <= 1e-11 * s[0]])
    is_new = np.concatenate([[True], np.diff(cluster) > 0]) | (too_wide & ~is_equal)
    cluster = np.cumsum(is_new) - 1
    sums = np.zeros((cluster[-1] + 1, VECTORS))
    np.add.at(sums, cluster, squares)
    sizes = np.bincount(cluster)[:, None]
    if len(x) > len(s) and s[-1] <= tolerance:
        sums[-1] = 1 - squares[cluster < cluster[-1]].sum(0)
        sizes = sizes.astype(float)
        sizes[-1] = np.inf
    gaps = np.minimum(-np.diff(values, append=-1.0)[:VECTORS], -np.diff(values, prepend=np.inf)[:VECTORS])
    is_defined = (gaps > CLUSTER_TOLERANCE * values[0]) & (values[:VECTORS] > CLUSTER_TOLERANCE * values[0])
    least, most = np.sqrt((sums / sizes).max(0)), np.sqrt(sums.max(0).clip(0, 1))
    return Truth(least, most, values[:VECTORS], is_defined)


def search(seeds: range) -> Counter[str]:
    """Vectors tried, decided at a cosine ``NEAR`` to their own, left open, and bounded wrongly."""
    found: Counter[str] = Counter()
    for seed in seeds:
        rng = np.random.default_rng(seed)
        m, n = SHAPES[int(rng.integers(len(SHAPES)))]
        made = []
        for _ in range(TOGETHER):
            of_base, base = make_base(m, n, rng)
            of_update, pair = make_update(base, rng)
            made.append((f"{of_base}, {of_update}", pair))
        factors = [pair.tuned for _, pair in made if isinstance(pair.tuned, LowRank)]
        updates = [one.padded(max(other.rank for other in factors)) for one in factors]
        sides = [one.left for one in updates], [one.right for one in updates]
        joined = LowRank(torch.stack(sides[0]), torch.stack(sides[1]))
        whole = WholeBase.of(torch.stack([pair.base for _, pair in made]))
        coordinates = Coordinates.of(whole, joined.svd)
        leading = leading_vectors(coordinates.problem(), VECTORS, allowed=far_below(coordinates.off))
        cosines = coordinate_cosines(coordinates, leading, whole.off)
        for at, (kind, pair) in enumerate(made):
            truth = truth_of(pair)
            lower, upper = cosines.lower[at].numpy(), cosines.upper[at].numpy()
            wrong = (lower > truth.least + UNSURE) | (upper < truth.most - UNSURE)
            wrong |= ~truth.defined & ((lower > 0) | (upper < 1))
            is_open = (lower < truth.least - NEAR) | (upper > truth.most + NEAR)
            found["tried"] += VECTORS
            found["ambiguous"] += int((~truth.defined | (truth.most - truth.least > UNSURE)).sum())
            found["open"] += int(is_open.sum())
            found["unproved"] += int((upper >= 1).sum())
            if wrong.any():
                found["wrong"] += int(wrong.sum())
                short = np.maximum(lower - truth.least, truth.most - upper).max()
                print(f"wrong: seed {seed}, {m} x {n}, {kind}: by {short:.1e}")
    return found


def main() -> None:
    """Try that many vectors, and print how many were bounded wrongly."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("vectors", type=int)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = arguments.seed * 100_000_000
    found = search(range(start, start + -(-arguments.vectors // (TOGETHER * VECTORS))))
    print(
        f"{found['tried']:,} vectors tried, {found['ambiguous']:,} of them not defined one by one; "
        f"{found['tried'] - found['open']:,} decided at any epsilon {NEAR:g} from the truth, {found['wrong']} wrongly"
    )
    print(dict(found))


if __name__ == "__main__":
    main()
