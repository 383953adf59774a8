"""Decisions in the coordinates of bases that are known whole, compared with dense double-precision decompositions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from intruders.engine.certificates import NAME
from intruders.engine.decide import decide
from intruders.engine.decisions import Decisions
from intruders.engine.known_base import KnownBase
from tests.engine.wrong_coordinates import search
from tests.matrices import (
    SPECTRA,
    UPDATES,
    PlantedPair,
    orthonormal_columns,
    spiked,
    truth_of,
    with_values,
)


def decided(pair: PlantedPair, epsilon: float = 0.5) -> tuple[Decisions, Decisions]:
    """With the base known whole, and by the exact path, which decides alike."""
    batch = pair.batch()
    detection = decide(batch, 10, epsilon, known=KnownBase.decomposed(batch.base))
    exact = decide(batch, 10, epsilon, exact=True)
    assert detection.intruder.tolist() == exact.intruder.tolist()
    return detection, exact


@given(seed=st.integers(0, 2**31))
@settings(max_examples=20)
def test_no_bound_is_wrong(seed: int) -> None:
    """Families made to be ugly; `engine.wrong_coordinates` tries 100,000 vectors of them."""
    counts = search(range(seed, seed + 1))
    assert counts["wrong"] == 0
    assert counts["tried"] == 40


@given(
    spectrum=st.sampled_from(list(SPECTRA)),
    update=st.sampled_from(list(UPDATES)),
    shape=st.sampled_from([(300, 300), (300, 260), (260, 300)]),
    epsilon=st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=15)
def test_a_base_known_whole_is_judged_as_by_the_exact_path(
    spectrum: str, update: str, shape: tuple[int, int], epsilon: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    base = with_values(*shape, SPECTRA[spectrum](min(shape), rng), rng)
    detection, exact = decided(UPDATES[update](base, rng), epsilon)
    assert "moment" not in detection.certificate[0]
    by_coordinates = torch.tensor([name == NAME for name in detection.certificate[0]])
    for name in ("lower", "upper"):
        bound = getattr(detection, name)[0][by_coordinates]
        np.testing.assert_allclose(bound, exact.upper[0][by_coordinates], atol=0.02)
    assert not detection.ambiguous[0][by_coordinates].any()
    assert torch.equal(detection.lower[0][by_coordinates], detection.upper[0][by_coordinates])


@pytest.mark.parametrize("shape", [(300, 300), (400, 300), (300, 400)], ids=str)
@pytest.mark.parametrize("size", [0.02, 0.5, 3.0])
def test_values_and_everything_said_of_leading_vectors(shape: tuple[int, int], size: float) -> None:
    rng = np.random.default_rng(1)
    base = with_values(*shape, SPECTRA["power law"](300, rng), rng)
    pair = spiked(base, size * np.linspace(1.0, 0.2, 6), rng)
    detection, exact = decided(pair)
    assert detection.certificate == [[NAME] * 10]
    np.testing.assert_allclose(detection.values, exact.values, rtol=1e-6)
    np.testing.assert_allclose(detection.lower[0], truth_of(pair, 10).most, atol=1e-4)
    np.testing.assert_allclose(detection.similarity, exact.similarity, atol=1e-4)
    np.testing.assert_allclose(detection.base_values, exact.base_values, rtol=1e-6)
    for name in detection.change.tensors():
        mine, theirs = getattr(detection.change, name), getattr(exact.change, name)
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("beyond", [-1e-3, -1e-5, 1e-5, 1e-3])
def test_a_cosine_within_the_error_of_epsilon_is_left_to_others(beyond: float) -> None:
    rng = np.random.default_rng(3)
    base = with_values(256, 256, SPECTRA["power law"](256, rng), rng)
    pair = spiked(base, [3.0], rng)
    cosine = float(truth_of(pair, 1).most[0])
    detection, _ = decided(pair, cosine + beyond)
    assert bool(detection.intruder[0, 0]) == (beyond > 0)
    at_it, _ = decided(pair, cosine)
    assert at_it.certificate[0][0] == "exact"


def test_clusters_are_ambiguous_as_they_are_to_the_exact_path() -> None:
    """Eight equal values of the base, which the update leaves, and a vector half in their space."""
    rng = np.random.default_rng(4)
    values = np.r_[np.ones(8), np.linspace(0.5, 0.1, 252)]
    base = with_values(260, 260, values, rng)
    u = np.linalg.svd(base)[0]
    y = u[:, :8].sum(1) / 8**0.5 * 0.6 + u[:, 100:116].sum(1) / 4 * 0.8
    pair = PlantedPair.lowrank(base, 30 * y[:, None], orthonormal_columns(260, 1, rng).T)
    detection, exact = decided(pair)
    assert detection.ambiguous.tolist() == exact.ambiguous.tolist()
    assert bool(detection.ambiguous[0, 0])


def test_a_dense_update_of_a_base_known_whole_needs_no_moment_certificate() -> None:
    rng = np.random.default_rng(5)
    base = with_values(300, 300, SPECTRA["power law"](300, rng), rng)
    hot = with_values(300, 300, np.r_[np.linspace(4, 2, 5), np.zeros(295)], rng)
    detection, _ = decided(PlantedPair.dense(base, hot + 0.001 * rng.standard_normal((300, 300))))
    assert detection.intruder.sum() >= 5
    assert set(detection.certificate[0]) <= {"overlap", "mass"}
    assert float((detection.upper - detection.lower).max()) < 0.2


@pytest.mark.parametrize("rank", [65, 128, 300])
def test_updates_of_a_large_rank(rank: int) -> None:
    rng = np.random.default_rng(6)
    base = with_values(300, 300, SPECTRA["power law"](300, rng), rng)
    left, right = rng.standard_normal((300, rank)) / 17, rng.standard_normal((rank, 300)) / 60
    decided(PlantedPair.lowrank(base, left, right))


def test_an_update_of_zeros() -> None:
    rng = np.random.default_rng(7)
    base = with_values(256, 256, SPECTRA["power law"](256, rng), rng)
    detection, _ = decided(PlantedPair.lowrank(base, np.zeros((256, 3)), rng.standard_normal((3, 256))))
    assert detection.certificate == [[NAME] * 10]
    np.testing.assert_allclose(detection.lower, 1.0, atol=1e-9)
