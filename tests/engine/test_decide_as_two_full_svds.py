"""Decisions against numpy's dense decompositions, and the default path against the exact one.

Sizes are such that the default takes the Krylov path where that is the point (``BIG``): otherwise it would
compare the dense path with itself.
"""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intruders.audits.result.records import CERTIFICATES
from intruders.engine.decide import DENSE_BELOW, decide
from intruders.engine.decisions import Decisions, measure_update
from intruders.engine.known_base import COMPLETE_BELOW
from intruders.linalg.pair import Pair
from tests.matrices import (
    SHAPES,
    SPECTRA,
    UPDATES,
    Array,
    PlantedPair,
    Truth,
    batch_of,
    orthonormal_columns,
    planted_mixes,
    spiked,
    truth_of,
    with_values,
)

BIG = [(256, 256), (280, 260), (260, 280), (272, 272), (340, 256), (256, 340)]
# All vectors of these bases are computed, and the leading ones of the tuned matrices.
MIDDLE = [(128, 128), (200, 140), (140, 200), (255, 130), (192, 192), (128, 300)]
# Certificates rest on single-precision products, with this margin to the threshold; dense decompositions are double.
COSINE, EXACT_COSINE = 1e-4, 1e-6
# A vector is computed to a sine of 0.2 at the loosest, and then its singular value to 0.2^2 / 2 of the distance to
# the next: what is reported is right to this share of the largest.
VALUE = 5e-3


def require_truth(found: Decisions, at: int, truth: Truth, cosine: float = COSINE) -> None:
    """Of one matrix the bounds of every vector that it defines, and the values, are right."""
    told, scale = truth.defined, truth.values[0] or 1.0
    assert (found.lower[at].double().numpy() <= truth.most + cosine)[told].all(), found
    assert (found.upper[at].double().numpy() >= truth.least - cosine)[told].all(), found
    np.testing.assert_allclose(found.values[at].double() / scale, truth.values / scale, atol=VALUE)


def check(pair: PlantedPair, k: int, epsilon: float, truth: Truth | None = None) -> Decisions:
    """The default path gives the exact path's decisions, and both hold the truth; returns the default's."""
    truth = truth_of(pair, k) if truth is None else truth
    exact = decide(pair.batch(), k, epsilon, exact=True)
    found = decide(pair.batch(), k, epsilon)
    assert found.intruder.tolist() == exact.intruder.tolist(), (found, exact)
    for detection, cosine in ((found, COSINE), (exact, EXACT_COSINE)):
        require_truth(detection, 0, truth, cosine)
        assert (detection.lower <= detection.upper).all()
        sure = truth.defined & (np.abs(truth.least - epsilon) > COSINE)
        sure &= np.abs(truth.most - epsilon) > COSINE
        sure &= truth.most - truth.least < 1e-6  # no cluster has a say
        assert (detection.intruder[0].numpy() == (truth.least < epsilon))[sure].all()
        assert {name for row in detection.certificate for name in row} <= set(CERTIFICATES)
    scale = truth.values[0] or 1.0
    np.testing.assert_allclose(exact.values[0].numpy() / scale, truth.values / scale, atol=1e-6)
    return found


@pytest.mark.parametrize(("spectrum", "update"), list(itertools.product(SPECTRA, UPDATES)))
def test_every_spectrum_under_every_update(spectrum: str, update: str) -> None:
    """In sizes of either kind by turns, so that every spectrum and every update have both."""
    seed = list(itertools.product(SPECTRA, UPDATES)).index((spectrum, update))
    rng = np.random.default_rng(seed)
    sizes = (BIG, MIDDLE)[seed % 2]
    m, n = sizes[seed // 2 % len(sizes)]
    base = with_values(m, n, SPECTRA[spectrum](min(m, n), rng), rng)
    pair = UPDATES[update](base, rng)
    if seed % 3 == 0:  # with other settings
        check(pair, int(rng.integers(1, 17)), float(rng.choice([0.1, 0.3, 0.5, 0.7, 0.9])))
    else:
        check(pair, 10, 0.5)


@given(
    shape=st.sampled_from(SHAPES),
    k=st.integers(1, 12),
    epsilon=st.sampled_from([1e-6, 0.3, 0.5, 0.8, 1.0]),
    lowrank=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_small_matrices(shape: tuple[int, int], k: int, epsilon: float, lowrank: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.standard_normal(shape)
    pair = (UPDATES["low-rank"] if lowrank else UPDATES["dense"])(base, rng)
    found = check(pair, k, epsilon)
    assert found.intruder.shape == (1, min(k, *shape))


def test_these_sizes_take_the_krylov_path() -> None:
    assert all(min(shape) >= COMPLETE_BELOW for shape in BIG)
    assert all(DENSE_BELOW <= min(shape) < COMPLETE_BELOW for shape in MIDDLE)
    rng = np.random.default_rng(0)
    base = with_values(256, 256, SPECTRA["outliers over a bulk"](256, rng), rng)
    found = check(UPDATES["scaled"](base, rng), 5, 0.5)
    assert found.certificate == [["overlap"] * 5]


def summed(pair: PlantedPair) -> PlantedPair:
    return PlantedPair(pair.base, torch.from_numpy(pair.tuned_double()).float())


def with_a_small_tail(size: int, rng: np.random.Generator) -> Array:
    """A base that leaves vectors as they are planted."""
    values = np.concatenate([np.linspace(1.0, 0.6, 20), np.linspace(0.01, 0.001, size - 20)])
    return with_values(size, size, values, rng)


@pytest.mark.parametrize("dense", [False, True], ids=["low-rank", "dense"])
@pytest.mark.parametrize("size", [60, 256])
def test_mixes_of_three_are_no_intruders_at_one_half_and_mixes_of_five_are(size: int, dense: bool) -> None:
    rng = np.random.default_rng(1)
    base = with_a_small_tail(size, rng)
    spreads = [3, 5, 3, 5, 5, 3]
    pair = planted_mixes(base, spreads, rng)
    found = check(summed(pair) if dense else pair, 10, 0.5)
    assert found.intruder[0].tolist() == [spread == 5 for spread in spreads] + [False] * 4
    for j, spread in enumerate(spreads):
        lower, upper = float(found.lower[0, j]), float(found.upper[0, j])
        assert lower - COSINE <= truth_of(pair, 10).least[j] <= upper + COSINE
        if upper - lower < 1e-6:
            assert lower == pytest.approx(spread**-0.5, abs=0.01)


@pytest.mark.parametrize("size", [60, 256])
def test_mixes_of_four_lie_on_the_threshold_of_one_half(size: int) -> None:
    """Of four cosines whose squares sum to one, the largest is at least 1/2, so that an exact mix is no intruder.

    Rounded weights put the cosines some 1e-3 to either side. No certificate claims to tell: the dense decomposition
    decides, and so both paths say the same.
    """
    rng = np.random.default_rng(2)
    found = check(planted_mixes(with_a_small_tail(size, rng), [4], rng), 1, 0.5)
    assert found.certificate == [["exact"]]
    assert found.lower.item() == pytest.approx(0.5, abs=5e-3)


@pytest.mark.parametrize("seed", range(3))
def test_directions_that_nothing_leads_to_are_found(seed: int) -> None:
    """A dense update of eight directions that resemble base vectors, and eight weaker ones that resemble none.

    Nothing couples the weaker ones to the rest: a search that starts from the base's vectors and the update's eight
    leading directions has no residual that would lead to them.
    """
    rng = np.random.default_rng(seed)
    values = np.concatenate([np.linspace(1, 0.5, 24), 1e-3 * np.linspace(1, 0.5, 256 - 24)])
    base = with_values(256, 256, values, rng)
    u, _, vt = np.linalg.svd(base)
    leading = 0.8 * u[:, 10:18] + 0.6 * u[:, -8:]
    weaker, weaker_right = (side[30:110].reshape(8, 10, 256).sum(1) / 10**0.5 for side in (u.T, vt))
    update = (leading * np.linspace(50, 40, 8)) @ vt[-8:] + (weaker.T * np.linspace(30, 20, 8)) @ weaker_right
    found = check(PlantedPair.dense(base, update), 10, 0.5)
    assert found.intruder[0].tolist() == [False] * 8 + [True] * 2


@pytest.mark.parametrize("level", [0.1, 0.01, 0.001])
def test_a_base_plateau_counts_through_its_space(level: float) -> None:
    """y lies 0.8 in the space of many equal singular values: some choice of base vectors resembles it."""
    rng = np.random.default_rng(3)
    base = with_values(256, 256, np.concatenate([np.linspace(1, 0.2, 40), np.full(216, level)]), rng)
    u = np.linalg.svd(base)[0]
    inside = u[:, 40:] @ rng.standard_normal(216)
    y = 0.8 * inside / np.linalg.norm(inside) + 0.6 * orthonormal_columns(256, 1, rng)[:, 0]
    check(PlantedPair.lowrank(base, 3 * y[:, None], orthonormal_columns(256, 1, rng).T), 10, 0.5)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_an_update_that_cancels_the_bases_leading_part(size: float) -> None:
    """What is left is small beside both: rounding of the products is relative to these, not to it."""
    rng = np.random.default_rng(4)
    base = with_values(256, 256, np.concatenate([[size], np.linspace(1, 0.01, 255)]), rng)
    u, s, vt = np.linalg.svd(base)
    new = 1.5 * orthonormal_columns(256, 1, rng)
    left = np.column_stack([-s[0] * u[:, 0], new])
    pair = PlantedPair.lowrank(base, left, np.vstack([vt[0], orthonormal_columns(256, 1, rng)[:, 0]]))
    exact, found = decide(pair.batch(), 10, 0.5, exact=True), decide(pair.batch(), 10, 0.5)
    assert found.intruder.tolist() == exact.intruder.tolist()


@pytest.mark.parametrize("beyond", [-1e-2, -1e-3, -3e-4, 3e-4, 1e-3, 1e-2])
def test_a_cosine_near_epsilon_is_computed_as_closely_as_it_asks(beyond: float) -> None:
    """The leading tuned vector has a cosine of 0.5 + ``beyond`` with one base vector, and below 0.1 with others."""
    rng = np.random.default_rng(6)
    base = with_values(320, 320, 8 * np.arange(1, 321) ** -0.5, rng)
    u, s, vt = np.linalg.svd(base)
    cosine = 0.5 + beyond
    mix = u[:, 100:] @ rng.choice([-1.0, 1.0], 220) / 220**0.5
    leading = 50 * s[0] * (cosine * u[:, 0] + (1 - cosine**2) ** 0.5 * mix)
    pair = PlantedPair.lowrank(base, (leading - s[0] * u[:, 0])[:, None], vt[:1])
    found = check(pair, 10, 0.5)
    assert found.intruder[0].tolist() == [beyond < 0] + [False] * 9
    assert found.certificate[0][0] == ("moment" if beyond < 0 else "overlap")


@pytest.mark.parametrize(("size", "outlier"), [(300, 3000.0), (400, 1500.0)])
def test_a_spectrum_under_an_outlier_is_no_cluster(size: int, outlier: float) -> None:
    """Its values are closer than the tolerance, which is relative to the largest, and far apart at its ends."""
    rng = np.random.default_rng(3)
    values = np.r_[outlier, np.linspace(6, 2, 40), np.linspace(1, 0.2, size - 41)]
    base = with_values(size, size, values, rng)
    pair = spiked(base, [8.0], rng)
    found = check(pair, 3, 0.5)
    assert found.intruder[0].tolist() == (truth_of(pair, 3).least < 0.5).tolist() == [False, True, False]


@pytest.mark.parametrize("shape", [(300, 300), (400, 300), (300, 400)], ids=str)
@pytest.mark.parametrize("outlier", [30.0, 300.0, 3000.0])
def test_under_an_outlier_no_dense_decomposition_is_needed(outlier: float, shape: tuple[int, int]) -> None:
    """Products hold the outlier's square: what it brings into others by rounding must not pass for their residual."""
    rng = np.random.default_rng(12)
    values = np.r_[outlier, 2 * np.arange(1, 31) ** -0.3, np.linspace(0.5, 0.01, 300 - 31)]
    base = with_values(*shape, values, rng)
    found = check(spiked(base, [0.04] * 8, rng), 10, 0.5)
    assert found.certificate == [["overlap"] * 10]
    assert float((found.upper - found.lower).max()) < 0.2


@pytest.mark.parametrize("seed", range(3))
def test_a_cluster_of_which_a_part_is_computed_counts_whole(seed: int) -> None:
    """Equal base values at places 22 to 24 of 24 computed ones, and y 0.42 on the first and on the last of them."""
    rng = np.random.default_rng(seed)
    values = np.r_[np.linspace(3, 1.5, 30), np.linspace(1, 0.05, 290)]
    values[22:25] = values[22:25].mean()
    base = with_values(320, 320, values, rng)
    u, _, vt = np.linalg.svd(base)
    rest = u[:, 100:300] @ rng.standard_normal(200)
    y = 0.42 * (u[:, 22] + u[:, 24]) + (1 - 2 * 0.42**2) ** 0.5 * rest / np.linalg.norm(rest)
    pair = PlantedPair.lowrank(base, 20 * y[:, None], vt[200:201])
    found = check(pair, 10, 0.5)
    assert not found.intruder[0, 0]


FALLING = np.diag(np.linspace(1, 0.01, 256))
ODD_PAIRS = {
    "zero base, low-rank": lambda r: spiked(np.zeros((256, 256)), np.ones(12), r),
    "zero base, dense": lambda r: PlantedPair.dense(np.zeros((256, 256)), r.standard_normal((256, 256))),
    "everything unlearnt": lambda r: PlantedPair(
        torch.from_numpy(r.standard_normal((256, 256))).float(), torch.zeros(256, 256)
    ),
    "equal rows": lambda r: PlantedPair.dense(np.ones((300, 256)), r.standard_normal((300, 256))),
    "identity, low-rank": lambda r: spiked(np.eye(256), np.linspace(2, 1, 12), r),
    "zero rows": lambda r: spiked(
        r.standard_normal((256, 256)) * (np.arange(256) % 3 > 0)[:, None], np.full(12, 60.0), r
    ),
    "zero columns": lambda r: PlantedPair.dense(
        r.standard_normal((256, 256)) * (np.arange(256) % 3 > 0), 0.3 * r.standard_normal((256, 256))
    ),
    "sparse diagonal": lambda r: PlantedPair.dense(
        np.diag(np.where(np.arange(256) % 4 == 0, np.linspace(2, 1, 256), 0)),
        0.02 * r.standard_normal((256, 256)),
    ),
    "rows permuted": lambda r: PlantedPair.dense(FALLING, FALLING[r.permutation(256)] - FALLING),
    "bf16 weights": lambda r: _rounded(r.standard_normal((256, 300)), r.standard_normal((256, 300))),
    "one entry": lambda r: PlantedPair.dense(
        r.standard_normal((256, 256)), 100.0 * np.outer(np.arange(256) == 3, np.arange(256) == 5)
    ),
    "update of rank zero": lambda r: PlantedPair.lowrank(
        r.standard_normal((256, 256)), np.zeros((256, 3)), r.standard_normal((3, 256))
    ),
    "entries beyond single precision": lambda r: PlantedPair.lowrank(
        r.standard_normal((260, 260)),
        1e22 * orthonormal_columns(260, 2, r),
        1e22 * orthonormal_columns(260, 2, r).T,
    ),
    "rank above the side": lambda r: PlantedPair.lowrank(
        r.standard_normal((256, 256)), r.standard_normal((256, 300)) / 40, r.standard_normal((300, 256)) / 40
    ),
}


def _rounded(base: Array, noise: Array) -> PlantedPair:
    before = torch.from_numpy(base).bfloat16()
    return PlantedPair(before.float(), (before.double() + torch.from_numpy(0.1 * noise)).bfloat16().float())


@pytest.mark.parametrize("name", ODD_PAIRS)
def test_odd_pairs(name: str) -> None:
    pair = ODD_PAIRS[name](np.random.default_rng(5))
    exact, found = decide(pair.batch(), 10, 0.5, exact=True), decide(pair.batch(), 10, 0.5)
    assert found.intruder.tolist() == exact.intruder.tolist()
    assert found.lower.isfinite().all()
    assert found.upper.isfinite().all()
    scale = float(exact.values.max()) or 1.0
    np.testing.assert_allclose(found.values.double() / scale, exact.values / scale, atol=VALUE)
    assert found.similarity.isfinite().all()


@pytest.mark.parametrize("k", [1, 30, 60, 400])  # 60: the largest with room for a chain
def test_any_k(k: int) -> None:
    rng = np.random.default_rng(6)
    base = with_values(256, 270, SPECTRA["power law"](256, rng), rng)
    assert check(UPDATES["hot"](base, rng), k, 0.5).intruder.shape == (1, min(k, 256))


SHARED_SPECTRA = ["power law", "flat", "many equal", "rank-deficient"]
SHARED_SHAPES = [(60, 50), (140, 200), (200, 140), (260, 300), (300, 260)]


@pytest.mark.parametrize(
    ("spectrum", "shape", "dense"),
    [
        (spectrum, shape, (i // 2 + j) % 2 == 1)
        for i, spectrum in enumerate(SHARED_SPECTRA)
        for j, shape in enumerate(SHARED_SHAPES)
        if (i + j) % 2 == 0
    ],
)
def test_updates_of_one_base_are_judged_as_alone(spectrum: str, shape: tuple[int, int], dense: bool) -> None:
    """A base that several updates share is one matrix in memory, of which everything is computed once.

    Every spectrum has shapes of either size, and dense updates and such of low rank go with each of both.
    """
    m, n = shape
    rng = np.random.default_rng(14)
    base = with_values(m, n, SPECTRA[spectrum](min(m, n), rng), rng)
    sizes = (0.01, 0.2, 0.5, 2.0)
    pairs = [spiked(base, [size, size / 3], rng) for size in sizes]
    if dense:
        pairs = [summed(pair) for pair in pairs]
    shared = Pair(pairs[0].base.expand(4, m, n), batch_of(pairs).tuned)
    found = decide(shared, 10, 0.5)
    known = found.known
    assert known is not None
    again = decide(shared, 10, 0.5, known=known)
    one = known.select(torch.tensor([0]))
    once_more = decide(shared.select(torch.tensor([3, 1, 0])), 10, 0.5, known=one.repeated(3))
    for i, (pair, size) in enumerate(zip(pairs, sizes, strict=True)):
        truth = truth_of(pair, 10)
        alone = check(pair, 10, 0.5, truth)
        others = [(once_more, at) for at, lane in enumerate((3, 1, 0)) if lane == i]
        for detection, at in [(found, i), (again, i), *others]:
            assert detection.intruder[at].tolist() == alone.intruder[0].tolist()
            require_truth(detection, at, truth)
            np.testing.assert_allclose(detection.update.frobenius[at], np.hypot(size, size / 3), rtol=1e-4)
            np.testing.assert_allclose(detection.update.spectral[at], size, rtol=1e-4)


def test_a_floor_proved_with_a_known_base_is_new_knowledge() -> None:
    """It is told, for the next audit, and not written into what the caller holds."""
    rng = np.random.default_rng(13)
    base = with_values(500, 256, np.linspace(3, 1, 256), rng)
    known = decide(spiked(base, [1e-3], rng).batch(), 10, 0.5).known
    assert known is not None
    assert known.floor.tolist() == [0.0]
    again = decide(spiked(base, [20.0], rng).batch(), 10, 0.5, known=known)
    assert "moment" in again.certificate[0]
    assert known.floor.tolist() == [0.0]
    assert again.known is not None
    assert 0 < again.known.floor.item() <= 1.0


def test_results_do_not_depend_on_the_run() -> None:
    rng = np.random.default_rng(10)
    pair = UPDATES["dense"](with_values(256, 256, SPECTRA["power law"](256, rng), rng), rng)
    torch.manual_seed(1)
    first = decide(pair.batch(), 10, 0.5)
    torch.manual_seed(2)
    again = decide(pair.batch(), 10, 0.5)
    for field in ("values", "lower", "upper", "intruder", "similarity"):
        assert torch.equal(getattr(first, field), getattr(again, field))
    assert first.update.effective_rank == again.update.effective_rank


@pytest.mark.parametrize("dense", [False, True], ids=["low-rank", "dense"])
@pytest.mark.parametrize("shape", [(50, 40), (260, 300)], ids=str)
@pytest.mark.parametrize("spectrum", SPECTRA)
def test_sizes_of_the_update(spectrum: str, shape: tuple[int, int], dense: bool) -> None:
    rng = np.random.default_rng(11)
    base = rng.standard_normal(shape)
    pair = spiked(base, SPECTRA[spectrum](12, rng), rng)
    if dense:
        pair = PlantedPair.dense(base, with_values(*shape, SPECTRA[spectrum](min(shape), rng), rng))
    update = pair.tuned_double() - np.asarray(pair.base.double())
    values = np.linalg.svd(update, compute_uv=False)
    shares = values[values > 0] / values.sum()
    rank = np.exp(-(shares * np.log(shares)).sum())
    found, exact = (measure_update(pair.batch(), 10, exact=exact) for exact in (False, True))
    for measured in (found, exact):
        assert measured.frobenius.item() == pytest.approx(np.linalg.norm(update), rel=1e-5)
        assert measured.spectral.item() == pytest.approx(values[0], rel=1e-4)
        stable = (np.linalg.norm(update) / values[0]) ** 2
        assert measured.stable_rank.item() == pytest.approx(stable, rel=1e-3)
    # The float32 difference of two matrices has rounding of its own, of full rank.
    assert exact.effective_rank.item() == pytest.approx(rank, rel=1e-3)
    assert exact.effective_rank_error.item() == 0
    error = found.effective_rank_error.item()
    assert abs(found.effective_rank.item() - rank) <= 4 * error + 0.01 * rank
    # An error bar that says nothing is no estimate. A giant alone has converged: by chance it would be much more.
    assert error <= (0.05 if spectrum == "one giant" else 0.12) * rank
    if not dense:
        assert error == 0
