"""A randomized search for critical scales that are not what dense decompositions say.

Bases of sides for which a base is always known whole, with spectra of separate values; low-rank updates at random, as
mixes of base vectors, and half in the base's own vectors. The truth is numpy's decompositions in double precision: just
beyond a critical scale the matrix has an intruder, just before it has none, and none in steps of half a per cent from
0.7 of it on and of two from a fifth of it on, where earlier windows are counted. Run as a program, it prints how many
scales were tried::

    python -m tests.audits.scales.wrong_scales 500 --seed 1
"""

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

from intruders import AuditSettings, Compute, critical_scales
from intruders.audits.scales import critical_scales as searching
from intruders.linalg.low_rank import LowRank
from tests.matrices import SPECTRA, Array, leading_left, orthonormal_columns, with_values
from tests.tiny import lora

SHAPES = ((1.0, 1.0), (1.4, 1.0), (1.0, 1.4))  # shares of the side
SEPARATE = ("power law", "exponential", "outliers over a bulk", "one giant")
TOGETHER = 20
# Of the updates: more than a projection follows.
RANK = 12
K = 10
# Steps from a critical scale to either side: of a root, and of the start of a window that an audit confirmed.
NEAR, WITHIN_A_STEP = 1e-5, 0.01
# What double precision and the decomposition in single precision leave unknown of a cosine.
UNSURE = 1e-5


def planted(m: int, n: int, rng: np.random.Generator) -> tuple[Tensor, LowRank]:
    """A base, and an update of rank 1 to RANK with zeros up to it."""
    values = SPECTRA[str(rng.choice(SEPARATE))](min(m, n), rng)
    base = with_values(m, n, values, rng)
    rank = int(rng.integers(1, RANK + 1))
    u, s, vt = np.linalg.svd(base, full_matrices=False)
    left, right = orthonormal_columns(m, rank, rng), orthonormal_columns(n, rank, rng)
    chosen = rng.choice(len(s), rank, replace=False)
    kind = rng.choice(["random", "mixes", "partly own"])
    if kind == "mixes":
        turned = np.linalg.qr(rng.standard_normal((len(s), rank)) * (np.arange(len(s)) < 30)[:, None])[0]
        left, right = u @ turned, vt.T @ turned
    if kind == "partly own":
        left, right = (left + u[:, chosen]) / 2**0.5, (right + vt[chosen].T) / 2**0.5
    strengths = s[0] * 10.0 ** rng.uniform(-1, 0.5) * np.sort(rng.uniform(0.2, 1, rank))[::-1]
    parts = base, left * strengths, right.T
    single = [torch.from_numpy(np.ascontiguousarray(part)).float() for part in parts]
    return single[0], LowRank(single[1], single[2]).padded(RANK)


def least_cosine(x: Array, tuned: Array) -> float:
    """The least of the K leading vectors' max cosines with all base vectors."""
    return float(np.abs(x.T @ leading_left(tuned, K)).max(0).min())


def verdicts(base: Array, update: Array, measured: float, searched: float, epsilon: float) -> Iterator[str]:
    """Say in which ways a critical scale is not what the decompositions say."""
    x = np.linalg.svd(base, full_matrices=False)[0]

    def has_intruder(scale: float) -> bool:
        return least_cosine(x, base + scale * update) < epsilon

    if math.isinf(measured):
        if any(has_intruder(scale) for scale in searched / 1.05 ** np.arange(60)):
            yield "missed"
        return
    after, before = (least_cosine(x, base + measured * (1 + share) * update) for share in (NEAR, -NEAR))
    if after < epsilon + UNSURE and before >= epsilon - UNSURE:
        yield "root"
    elif after < epsilon and any(
        not has_intruder(measured * (1 - share)) for share in np.linspace(NEAR, WITHIN_A_STEP, 8)
    ):
        yield "within a step"
    elif after < epsilon:
        yield "begins earlier"
    elif any(has_intruder(measured * (1 + share)) for share in np.linspace(NEAR, WITHIN_A_STEP, 8)):
        yield "just before"
    else:
        yield "wrong"
    if any(
        has_intruder(measured * share) for share in (*np.arange(0.2, 0.7, 0.02), *np.arange(0.7, 0.99, 0.005))
    ):
        yield "earlier window"


def search(seeds: range, on_projections: bool, epsilon: float = 0.5) -> Counter[str]:
    """Count the critical scales that are a root, within a step of one, or wrong, and the earlier windows missed.

    On projections, bases have the least side that is not always known whole, and are not decomposed.
    """
    found: Counter[str] = Counter()
    side, settings = 170 if on_projections else 144, AuditSettings(k=K, epsilon=epsilon)
    for seed in seeds:
        rng = np.random.default_rng(seed)
        m, n = (round(share * side) for share in SHAPES[int(rng.integers(len(SHAPES)))])
        made = {f"layers.{number}": planted(m, n, rng) for number in range(TOGETHER)}
        weights = {f"{name}.weight": base for name, (base, _) in made.items()}
        adapter = lora({name: (update.left, update.right) for name, (_, update) in made.items()})
        with patch.object(searching, "_WHOLE_UP_TO", 0 if on_projections else 640):
            result = critical_scales(weights, adapter, compute=Compute("cpu", 1, cache=False), audit=settings)
        for scale in result.matrices:
            found["tried"] += 1
            sides = made[scale.name.removesuffix(".weight")]
            base, update = (np.asarray(side.double()) for side in (sides[0], sides[1].double().dense()))
            for verdict in verdicts(base, update, scale.measured, scale.searched, settings.epsilon):
                found[verdict] += 1
                if verdict not in ("root", "within a step"):
                    print(
                        f"{verdict}: seed {seed}, {m} x {n}, {scale.name}: {scale.measured:.6g}", flush=True
                    )
    return found


def main() -> None:
    """Try that many matrices, and print how many critical scales are what dense decompositions say."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("matrices", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--on-projections", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = arguments.seed * 1_000_000
    print(dict(search(range(start, start + -(-arguments.matrices // TOGETHER)), arguments.on_projections)))


if __name__ == "__main__":
    main()
