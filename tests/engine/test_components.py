"""Singular triplets of ugly matrices against dense decompositions in double precision."""

import numpy as np
import pytest
import torch

from intruders.engine.components import find_components
from intruders.linalg.exact import exact_cosines
from intruders.linalg.pair import Pair
from tests.matrices import SPECTRA, PlantedPair, orthonormal_columns, spiked, with_values

SHAPES = [(140, 140), (150, 110), (110, 150), (30, 40)]


def check(pair: PlantedPair, wanted: list[int], from_update: bool) -> None:
    values = np.linalg.svd(pair.tuned_double(), compute_uv=False)[:10].tolist()
    found = find_components(pair.batch().select(0), wanted, values, from_update)
    tuned = torch.from_numpy(pair.tuned_double())
    u, s, v = torch.linalg.svd(tuned, full_matrices=False)
    truth = (u[:, wanted] * s[wanted]) @ v[wanted]
    left, right = found.factors(1.0)
    assert float((left @ right - truth).abs().max() / tuned.abs().max()) < 1e-3
    torch.testing.assert_close(found.values.sort().values, s[wanted].sort().values, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("form", ["factors", "dense"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["power law", "flat", "outliers over a bulk", "one giant", "exponential"])
def test_vectors_of_the_update_and_of_the_base(name: str, shape: tuple[int, int], form: str) -> None:
    rng = np.random.default_rng(5)
    m, n = shape
    base = with_values(m, n, SPECTRA[name](min(shape), rng), rng)
    pair = spiked(base, [1.7, 1.1], rng)
    if form == "dense":
        pair = PlantedPair.dense(base, pair.tuned_double() - base)
    check(pair, [0], from_update=True)
    check(pair, [0, 1], from_update=True)
    check(pair, [1, 4], from_update=False)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-6])
def test_intruders_of_like_values_and_beside_a_base_vector(gap: float) -> None:
    """Three intruders of nearly one value, and a base vector nearly at theirs."""
    rng = np.random.default_rng(6)
    x, z = orthonormal_columns(140, 140, rng), orthonormal_columns(140, 140, rng)
    values = np.concatenate([[1.0], np.linspace(0.5, 0.01, 130), np.zeros(9)])
    base = (x * values) @ z.T
    spikes = 1 + gap * np.array([1.0, 2.0, 3.0])
    check(PlantedPair.lowrank(base, x[:, -3:] * spikes, z[:, -3:].T), [0, 1, 2], from_update=True)


def test_equal_values_are_chosen_as_the_audit_chooses_them() -> None:
    rng = np.random.default_rng(7)
    x, z = orthonormal_columns(120, 120, rng), orthonormal_columns(120, 120, rng)
    values = np.concatenate([[1.0, 0.9], np.linspace(0.5, 0.01, 118)])
    # A spread direction at exactly the value of the second base vector: which vectors stand for the two is open.
    spread = np.outer(x[:, -8:].sum(1) / 8**0.5, z[:, -8:].sum(1) / 8**0.5)
    base = torch.from_numpy((x * values) @ z.T)
    tuned = torch.from_numpy((x[:, :-8] * values[:-8]) @ z[:, :-8].T + 0.9 * spread)
    chosen = exact_cosines(base, tuned, 10, 0.5)
    wanted = (chosen.max_cosines < 0.5).nonzero().flatten().tolist()
    assert len(wanted) == 1
    found = find_components(Pair(base, tuned), wanted, chosen.values.tolist(), True)
    y = chosen.left[wanted]
    left_factor, right_factor = found.factors(1.0)
    torch.testing.assert_close(left_factor @ right_factor, y.mT @ (y @ tuned), rtol=0, atol=1e-9)
