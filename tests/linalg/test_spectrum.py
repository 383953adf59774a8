"""Numbers about a spectrum: by formula, by hand, and the estimate against the decomposition."""

import math

import numpy as np
import pytest
import torch

from intruders.linalg.krylov import KrylovSpace
from intruders.linalg.operators import Dense
from intruders.linalg.random_directions import own_generator
from intruders.linalg.spectrum import effective_rank, estimate_effective_rank, stable_rank
from tests.matrices import SPECTRA, Array, orthonormal_columns, with_values

PROBES = 4
STEPS = 20
TRACKED = 20


def entropy_rank(values: Array) -> float:
    """Roy and Vetterli's definition, written out."""
    shares = [v / sum(values) for v in values if v > 0]
    return math.exp(-sum(p * math.log(p) for p in shares))


def test_effective_rank_by_hand() -> None:
    values = torch.tensor([[2.0, 2, 2, 2], [3, 0, 0, 0], [0] * 4, [1e-30, 1e-30, 0, 0], [1e30, 0, 0, 1e30]])
    torch.testing.assert_close(effective_rank(values), torch.tensor([4.0, 1, 0, 2, 2], dtype=torch.float64))


def test_stable_rank_by_hand() -> None:
    frobenius = torch.tensor([5.0, 2.0, 0.0, 1e-30, 1e30], dtype=torch.float64)
    spectral = torch.tensor([4.0, 1.0, 0.0, 1e-30, 1e30], dtype=torch.float64)
    expected = torch.tensor([25 / 16, 4.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(stable_rank(frobenius, spectral), expected)


def estimated(matrix: Array, seed: int = 0, steps: int = STEPS) -> tuple[float, float]:
    """Effective rank and error from a space of ``steps`` steps of 4 rows, as audits take them."""
    batch = torch.from_numpy(matrix).float().unsqueeze(0)
    block = torch.randn(PROBES, min(matrix.shape), generator=own_generator(seed))
    space = KrylovSpace.empty(Dense(batch))
    space.grow(block.unsqueeze(0))
    space.grow_chain(PROBES, steps - 1)
    rank, error = estimate_effective_rank(space, PROBES, TRACKED, torch.linalg.matrix_norm(batch))
    return rank.item(), error.item()


@pytest.mark.parametrize("shape", [(320, 320), (480, 320)], ids=str)
@pytest.mark.parametrize("name", [*SPECTRA, "gaussian"])
def test_estimate_agrees_with_the_decomposition(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    m, n = shape
    if name == "gaussian":
        values = np.linalg.svd(rng.standard_normal(shape), compute_uv=False)
    else:
        values = SPECTRA[name](min(shape), rng)
    rank, error = estimated(with_values(m, n, values, rng))
    # Products are in single precision: 1e-3 for spectra whose noise of rounding counts.
    assert abs(rank - entropy_rank(values)) <= 4 * error + 1e-3 * entropy_rank(values)
    # An error bar that says nothing is no estimate. A giant alone has converged: by chance it would be much more.
    assert error <= (0.05 if name == "one giant" else 0.12) * rank


def test_error_bars_are_neither_too_small_nor_too_wide() -> None:
    """Over 60 seeds the estimate's spread is what it says, to a factor of two."""
    rng = np.random.default_rng(0)
    values = SPECTRA["power law"](320, rng)
    matrix = with_values(320, 320, values, rng)
    ranks, errors = np.array([estimated(matrix, seed) for seed in range(60)]).T
    spread = np.sqrt(np.mean((ranks - entropy_rank(values)) ** 2))
    assert 0.5 < np.sqrt(np.mean(errors**2)) / spread < 2.0


def test_too_few_steps_show_in_the_error() -> None:
    """A square Gaussian matrix has a singular density at zero, where quadratures converge slowly."""
    matrix = np.random.default_rng(1).standard_normal((640, 640))
    exact = entropy_rank(np.linalg.svd(matrix, compute_uv=False))
    errors = []
    for steps in (3, 6, 20):
        rank, error = estimated(matrix, steps=steps)
        assert abs(rank - exact) <= 3 * error
        errors.append(error)
    assert errors[0] > 2 * errors[2]


def test_estimate_does_not_depend_on_the_scale() -> None:
    matrix = np.random.default_rng(0).standard_normal((400, 300))
    for scale in (2.0**-40, 2.0**40):
        assert estimated(scale * matrix) == pytest.approx(estimated(matrix), rel=1e-5)


def test_estimate_of_matrices_that_exhaust_the_steps() -> None:
    """Fewer distinct values than steps: the quadrature is exact, whatever rounding adds to it."""
    rng = np.random.default_rng(2)
    rotation = orthonormal_columns(100, 100, rng)
    few = np.linspace(2.0, 1.0, 16)
    for matrix, expected in [
        (np.zeros((100, 100)), 0.0),
        (np.eye(100), 100.0),
        (3 * rotation, 100.0),
        (np.ones((100, 100)), 1.0),
        (with_values(120, 100, np.r_[few, np.zeros(84)], rng), entropy_rank(few)),
    ]:
        rank, error = estimated(matrix)
        assert rank == pytest.approx(expected, rel=1e-3)
        assert error == pytest.approx(0.0, abs=0.02)


def test_a_stack_is_its_matrices_one_by_one() -> None:
    batch = torch.randn(3, 140, 100, generator=torch.Generator().manual_seed(1))
    space = KrylovSpace.from_random_block(Dense(batch), PROBES, STEPS)
    together, errors = estimate_effective_rank(space, PROBES, TRACKED, torch.linalg.matrix_norm(batch))
    for i in range(3):
        alone = estimated(batch[i].double().numpy())
        assert (together[i].item(), errors[i].item()) == pytest.approx(alone, rel=1e-4)


REPEATED = {
    "one value and its copies": np.r_[3.0, np.ones(299)],
    "a hundred within 1e-5": np.r_[2.0, 1 + 1e-5 * np.linspace(1, 0, 100)],
    "one giant over copies": np.r_[100.0, np.full(299, 0.1)],
    "slow decay": np.arange(1.0, 301) ** -0.25,
}


@pytest.mark.parametrize("name", REPEATED)
def test_errors_hold_over_seeds_where_values_repeat_or_hardly_fall(name: str) -> None:
    """Copies that a block cannot see are not counted once, and what the counted ones hold of a probe adds no noise."""
    values = REPEATED[name]
    rng = np.random.default_rng(7)
    matrix = with_values(340, 300, np.r_[values, np.zeros(300 - len(values))], rng)
    ranks, errors = np.array([estimated(matrix, seed) for seed in range(20)]).T
    exact = entropy_rank(values)
    assert np.abs(ranks.mean() - exact) <= 0.03 * exact
    # Over 20 seeds; 1e-3 for products in single precision.
    assert np.sqrt(np.mean(((ranks - exact) / (errors + 1e-3 * exact)) ** 2)) < 1.8


@pytest.mark.parametrize("shape", [(256, 256), (300, 256), (320, 512)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_estimate_holds_for_noise_drawn_with_a_small_seed(shape: tuple[int, int], seed: int) -> None:
    """The numbers of ``torch.manual_seed(0)`` must not be those of the random vectors, too."""
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double().numpy()
    rank, error = estimated(noise)
    wanted = entropy_rank(np.linalg.svd(noise, compute_uv=False))
    assert abs(rank - wanted) <= 4 * error
    assert error <= 0.03 * wanted
