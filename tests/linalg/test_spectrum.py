"""Numbers about a spectrum: by formula, by hand, and the estimate against the decomposition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from matrices import SPECTRA, Array, orthonormal_columns, with_values

from intruders.linalg.krylov import Triplets
from intruders.linalg.operators import Dense
from intruders.linalg.spectrum import effective_rank, estimate_effective_rank, stable_rank


def entropy_rank(values: Array) -> float:
    """Roy and Vetterli's definition, written out."""
    shares = [v / sum(values) for v in values if v > 0]
    return math.exp(-sum(p * math.log(p) for p in shares))


@pytest.mark.parametrize("name", SPECTRA)
def test_effective_rank_is_the_entropy_of_the_values(name: str) -> None:
    values = SPECTRA[name](40, np.random.default_rng(0))
    assert effective_rank(torch.from_numpy(values.copy())).item() == pytest.approx(entropy_rank(values))


def test_effective_rank_by_hand() -> None:
    values = torch.tensor(
        [[2.0, 2, 2, 2], [3, 0, 0, 0], [0, 0, 0, 0], [1e-30, 1e-30, 0, 0], [1e30, 0, 0, 1e30]]
    )
    torch.testing.assert_close(effective_rank(values), torch.tensor([4.0, 1, 0, 2, 2], dtype=torch.float64))


def test_stable_rank_by_hand() -> None:
    frobenius = torch.tensor([5.0, 2.0, 0.0, 1e-30, 1e30], dtype=torch.float64)
    spectral = torch.tensor([4.0, 1.0, 0.0, 1e-30, 1e30], dtype=torch.float64)
    expected = torch.tensor([25 / 16, 4.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(stable_rank(frobenius, spectral), expected)


@pytest.mark.parametrize("shape", [(160, 160), (240, 160), (160, 240)], ids=str)
@pytest.mark.parametrize("name", [*SPECTRA, "gaussian"])
def test_estimate_agrees_with_the_decomposition(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(5)
    m, n = shape
    values = (
        np.linalg.svd(rng.standard_normal(shape), compute_uv=False)
        if name == "gaussian"
        else SPECTRA[name](min(shape), rng)
    )
    matrix = torch.from_numpy(with_values(m, n, values, rng)).float().unsqueeze(0)
    norm = torch.linalg.matrix_norm(matrix).double()
    rank, error = estimate_effective_rank(Dense(matrix), norm)
    # Five standard errors of the probes (8 of them, so tails are heavier than normal), and 1 % for the quadrature.
    assert abs(rank.item() - entropy_rank(values)) <= 5 * error.item() + 0.01 * entropy_rank(values)
    # An error bar that says nothing is no estimate. Under one dominant value, which the probes catch or miss, it is
    # wide, and says so.
    assert error.item() <= (0.6 if name == "one giant" else 0.25) * rank.item()


def test_error_bars_are_neither_too_small_nor_too_wide() -> None:
    """Over 60 seeds the estimate's spread is what it says, to a factor of two (chi-squared with 7 degrees)."""
    rng = np.random.default_rng(0)
    values = SPECTRA["power law"](96, rng)
    matrix = torch.from_numpy(with_values(96, 96, values, rng)).float().unsqueeze(0)
    norm = torch.linalg.matrix_norm(matrix)
    found = [estimate_effective_rank(Dense(matrix), norm, seed=seed) for seed in range(60)]
    ranks = np.array([rank.item() for rank, _ in found])
    errors = np.array([error.item() for _, error in found])
    spread = np.sqrt(np.mean((ranks - entropy_rank(values)) ** 2))
    assert 0.5 < np.sqrt(np.mean(errors**2)) / spread < 2.0


def test_estimate_does_not_depend_on_the_scale() -> None:
    matrix = torch.randn(1, 40, 30, generator=torch.Generator().manual_seed(0))
    norm = torch.linalg.matrix_norm(matrix)
    rank, error = estimate_effective_rank(Dense(matrix), norm)
    for scale in (2.0**-40, 2.0**40):
        again, error_again = estimate_effective_rank(Dense(scale * matrix), scale * norm)
        torch.testing.assert_close((again, error_again), (rank, error), rtol=1e-5, atol=0)


def test_estimate_of_matrices_that_exhaust_the_steps() -> None:
    """Fewer distinct values than steps: the quadrature is exact, whatever rounding adds to it."""
    rng = np.random.default_rng(2)
    rotation = orthonormal_columns(20, 20, rng)
    for matrix, expected in [
        (np.zeros((20, 20)), 0.0),
        (np.eye(20), 20.0),
        (3 * rotation, 20.0),
        (np.ones((1, 1)), 1.0),
        (np.ones((1, 7)), 1.0),
        (np.ones((7, 1)), 1.0),
    ]:
        stack = torch.from_numpy(matrix).float().unsqueeze(0)
        rank, error = estimate_effective_rank(Dense(stack), torch.linalg.matrix_norm(stack))
        assert rank.item() == pytest.approx(expected, rel=1e-4)
        assert error.item() == pytest.approx(0.0, abs=1e-3)


def test_a_stack_is_its_matrices_one_by_one() -> None:
    stack = torch.randn(3, 30, 40, generator=torch.Generator().manual_seed(1))
    norms = torch.linalg.matrix_norm(stack)
    together = estimate_effective_rank(Dense(stack), norms)
    for i in range(3):
        alone = estimate_effective_rank(Dense(stack[i : i + 1]), norms[i : i + 1])
        torch.testing.assert_close(together[0][i : i + 1], alone[0], rtol=1e-5, atol=0)


def test_leading_values_taken_out_leave_their_noise_out_too() -> None:
    """One dominant value: the probes alone are off by tens of per cent; with it counted exactly, by few."""
    rng = np.random.default_rng(3)
    values = SPECTRA["one giant"](96, rng)
    matrix = torch.from_numpy(with_values(96, 120, values, rng)).float().unsqueeze(0)
    norm = torch.linalg.matrix_norm(matrix).double()
    left, s, right = torch.linalg.svd(matrix, full_matrices=False)
    exact = torch.zeros(1, 4)
    leading = Triplets(s[:, :4], left.mT[:, :4], right[:, :4], exact, exact)
    _, alone = estimate_effective_rank(Dense(matrix), norm)
    rank, error = estimate_effective_rank(Dense(matrix), norm, leading)
    assert error.item() < 0.25 * alone.item()
    assert abs(rank.item() - entropy_rank(values)) <= 5 * error.item() + 0.01 * entropy_rank(values)
