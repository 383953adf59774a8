"""A randomized search for vectors that the moment certificate calls intruders and that are none.

A case is made to mislead it: a plateau of 2 to 24 singular values, 1e-5 to 1e-2 of the largest apart, among, across or
just beyond the computed base vectors, whose errors lean into the plateau, and tuned vectors that resemble one of its
vectors as closely as epsilon asks for. Or the matrix is tall, the plateau is of its least singular values, down to 1e-7
of the largest, and much of the tuned vectors is outside its column space. Epsilon is each case's own true max cosine,
so that a bound that is too low by more than the margin is a wrong decision. Run as a program, it prints how many
vectors were tried::

    python -m tests.engine.wrong_decisions 60 --seed 1
"""

import argparse
import time
from collections import Counter
from dataclasses import dataclass

import numpy as np
import torch

from intruders.engine.certificates import _MARGIN
from intruders.engine.moment_certificate import bound_by_moments
from intruders.linalg.operators import Dense
from intruders.linalg.ritz import Triplets
from intruders.linalg.svd import CLUSTER_TOLERANCE
from tests.matrices import Array, orthonormal_columns

# Of the plateau: beyond, across and among the computed base vectors, and at the end of them all.
PLACES = ("beyond", "across", "among", "least")
SHAPES = ((1.0, 1.0), (1.7, 1.0), (1.0, 1.7))
VECTORS = 6
# A bound so near to the truth would show an error: what rounding may turn is at most 0.06 of it in these sizes.
CLOSE = 0.06


@dataclass(frozen=True)
class Case:
    """One base matrix with computed triplets of it, and tuned vectors whose truth is known."""

    matrix: Array  # (m, n), as single precision holds it
    left: Array  # (m, p): true left vectors of that
    base: Triplets
    tuned: Triplets
    truth: Array  # (VECTORS,): max cosine
    place: str


def singular_values(size: int, computed: int, place: str, rng: np.random.Generator) -> tuple[Array, range]:
    """Descending values with the largest 1, and the places of the plateau."""
    count = int(rng.integers(2, 25))
    if place == "least":
        return least_values(size, computed, min(count, size - computed - 1), rng)
    first = {
        "beyond": computed,
        "across": max(0, computed - int(rng.integers(1, count))),
        "among": max(0, computed - count),
    }[place]
    count = min(count, computed if place == "among" else size - first - 1)
    level = rng.uniform(0.2, 0.9) if first > 0 else 1.0
    head = np.linspace(1.0, level, first + 1)[:-1]
    if place == "beyond" and rng.random() < 0.5:
        head = np.sort(level + (1 - level) * rng.uniform(0.01, 1.0, first))[::-1]
    plateau = level - np.concatenate([[0.0], np.cumsum(10.0 ** rng.uniform(-5, -2, count - 1))])
    plateau = np.maximum(plateau, 0.5 * level)
    below, left = plateau[-1] * rng.uniform(0.3, 0.98), size - first - count
    tails = [
        np.full(left, below),
        np.linspace(below, 0.3 * below, left),
        below * (1.0 + np.arange(left)) ** -rng.uniform(0.1, 1.2),
        np.where(np.arange(left) < left // 2, below, rng.uniform(0.01, 0.9) * below),
    ]
    values = np.concatenate([head, plateau, tails[int(rng.integers(len(tails)))]])
    return values / values[0], range(first, first + count)


def least_values(size: int, computed: int, count: int, rng: np.random.Generator) -> tuple[Array, range]:
    """Descending values that end in a plateau of small ones, after a gap or after having fallen to them."""
    level = 10.0 ** rng.uniform(-7, -0.5)
    between = size - computed - count
    head = np.linspace(1.0, 0.7, computed)
    middle = np.geomspace(0.6, level, between) if rng.random() < 0.5 else np.linspace(0.6, 0.4, between)
    plateau = level * np.cumprod(1 - 10.0 ** rng.uniform(-5, -0.5, count))
    return np.concatenate([head, middle, plateau]), range(size - count, size)


def leaning(
    matrix: Array, left: Array, values: Array, computed: int, plateau: range, rng: np.random.Generator
) -> Triplets:
    """The leading vectors, turned by up to 0.02 and mostly into the plateau, with honest angles."""
    true = left[:, :computed]
    into = left[:, list(plateau)] if rng.random() < 0.7 else left[:, computed:]
    toward = into @ rng.standard_normal((into.shape[1], computed))
    toward /= np.linalg.norm(toward, axis=0)
    u, _, vt = np.linalg.svd(true + 10.0 ** rng.uniform(-4, -1.7) * toward, full_matrices=False)
    moved = u @ vt
    angles = np.linalg.norm(moved - true * (moved * true).sum(0), axis=0) * 1.001 + 1e-6
    return triplets(matrix, moved, values[:computed], angles)


def triplets(matrix: Array, left: Array, values: Array, angles: Array) -> Triplets:
    """A batch of one matrix's triplets from columns of left vectors; the right ones are those that it takes to them."""
    right = np.linalg.pinv(matrix) @ left
    parts = (values, left.T, (right / np.linalg.norm(right, axis=0)).T, 0 * values, angles)
    return Triplets(*(torch.from_numpy(np.ascontiguousarray(part)).float().unsqueeze(0) for part in parts))


def tuned_vectors(
    left: Array, computed: int, plateau: range, outside: float, rng: np.random.Generator
) -> Array:
    """Columns that resemble one vector of the plateau, or several alike, over others in and out of it.

    Of these others a share ``outside`` of the mass is outside the column space.
    """
    m, p = left.shape
    columns = []
    for _ in range(VECTORS):
        alike = min(int(rng.choice([1, 1, 1, 2, 3])), len(plateau))
        chosen = rng.choice(list(plateau), alike, replace=False)
        resembled = left[:, chosen] @ rng.choice([-1.0, 1.0], alike) * rng.uniform(0.3, 0.75) / alike**0.5
        weights = rng.standard_normal(p) * rng.choice([0.0, 1.0, 3.0], p, p=[0.5, 0.4, 0.1])
        weights[list(plateau)] *= rng.choice([0.0, 1.0, 4.0])
        weights[:computed] *= rng.choice([0.0, 0.3, 2.0])
        weights[chosen] = 0.0
        others = left @ weights + rng.choice([0.0, 0.2]) * rng.standard_normal(m)
        if outside > 0:
            beyond = rng.standard_normal(m)
            beyond -= left @ (left.T @ beyond)
            size = (outside / (1 - outside)) ** 0.5 * np.linalg.norm(others)
            others += size * beyond / np.linalg.norm(beyond)
        others -= left[:, chosen] @ (left[:, chosen].T @ others)
        norm = np.linalg.norm(others)
        rest = (1 - resembled @ resembled) ** 0.5
        columns.append(resembled + rest * others / norm if norm > 0 else resembled)
    y = np.array(columns).T
    return np.asarray(y / np.linalg.norm(y, axis=0))


def make_case(seed: int) -> Case:
    rng = np.random.default_rng(seed)
    place = PLACES[int(rng.integers(len(PLACES)))]
    short, computed = int(rng.integers(40, 90)), int(rng.integers(2, 15))
    stretch = SHAPES[1 if place == "least" else int(rng.integers(len(SHAPES)))]
    m, n = (round(side * short) for side in stretch)
    values, plateau = singular_values(short, computed, place, rng)
    made = (orthonormal_columns(m, short, rng) * values) @ orthonormal_columns(n, short, rng).T
    matrix = np.asarray(torch.from_numpy(made).float().double())
    left, values, _ = np.linalg.svd(matrix, full_matrices=False)
    outside = rng.uniform(0.2, 0.95) if place == "least" else 0.0
    y = np.asarray(torch.from_numpy(tuned_vectors(left, computed, plateau, outside, rng)).float().double())
    base = leaning(matrix, left, values, computed, plateau, rng)
    # Tuned values far apart: every tuned vector is its own.
    tuned = triplets(matrix, y, 3.0 - 0.2 * np.arange(VECTORS), np.zeros(VECTORS))
    return Case(matrix, left, base, tuned, max_cosines(left, values, y), place)


def max_cosines(left: Array, values: Array, y: Array) -> Array:
    """Of unit columns ``y`` with the left vectors, or with the spaces of those whose values count as one.

    Left vectors of a tall matrix whose values count as zero can be any beyond the column space.
    """
    cosines = np.abs(left.T @ y)
    cluster = np.concatenate([[0], np.cumsum(-np.diff(values) > CLUSTER_TOLERANCE * values[0])])
    sums = np.zeros((int(cluster[-1]) + 1, y.shape[1]))
    np.add.at(sums, cluster, cosines**2)
    if len(left) > len(values) and values[-1] <= CLUSTER_TOLERANCE * values[0]:
        sums[-1] += (y**2).sum(0) - (cosines**2).sum(0)
    return np.asarray(np.sqrt(sums.max(0)) / np.linalg.norm(y, axis=0))


def shortfalls(case: Case) -> Array:
    """``(VECTORS,)``: by how much the upper bound is below the true max cosine, after as many steps as there are."""
    single = torch.from_numpy(case.matrix).float().unsqueeze(0)
    undecided = torch.ones(1, VECTORS, dtype=torch.bool)
    none = torch.zeros(1, dtype=torch.float64)
    bounds, _ = bound_by_moments(
        Dense(single), case.base, case.tuned, undecided, float(case.truth.max()), none
    )
    return np.asarray(case.truth - bounds.upper[0].numpy())


def search(seeds: range, seconds: float = float("inf")) -> Counter[str]:
    """Vectors tried by place of the plateau, and those decided wrongly, with the largest shortfall printed."""
    found: Counter[str] = Counter()
    started = time.monotonic()
    for seed in seeds:
        if time.monotonic() - started > seconds:
            break
        case = make_case(seed)
        short = shortfalls(case)
        wrong = int((short > _MARGIN).sum())
        found[case.place] += VECTORS
        found["closest"] += int((np.abs(short) <= CLOSE).sum())
        if wrong:
            found["wrong"] += wrong
            print(f"wrong: seed {seed}, plateau {case.place}, too low by {short.max():.1e}")
    return found


def main() -> None:
    """Searches for some minutes, and prints how many vectors were tried and how many were decided wrongly."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = arguments.seed * 100_000_000
    found = search(range(start, start + 100_000_000), arguments.seconds)
    tried = sum(found[place] for place in PLACES)
    print(
        f"{tried} vectors tried ({', '.join(f'{found[place]} with the plateau {place}' for place in PLACES)} the "
        f"computed base vectors), {found['closest']} bounded to {CLOSE} of the truth, {found['wrong']} decided wrongly"
    )


if __name__ == "__main__":
    main()
