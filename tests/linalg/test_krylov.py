"""Leading triplets from a Krylov space, against dense decompositions in double precision.

Tested through what the engine uses: a space from a random block, and ``converge``. Its ``angles`` are a claim
about the true vectors, and the certificates rest on it; that it is honest is what matters most here.
"""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from intruders.linalg.krylov import BLOCK, KrylovSpace, converge
from intruders.linalg.operators import Dense, Operator
from intruders.linalg.orthonormal import orthonormalize
from intruders.linalg.ritz import Triplets
from tests.matrices import SPECTRA, Array, with_values

SHAPES = [(180, 180), (250, 170), (170, 250)]
COUNT, TRACKED, STEPS = 10, 14, 20
# Of a value that more vectors share than a block has rows, a Krylov space sees as many copies as the block has.
HIDES_COPIES = {"many equal", "two plateaus", "all equal", "rank-deficient", "low rank"}


def leading(operator: Operator, tolerance: float = 0.02) -> Triplets:
    space = KrylovSpace.from_random_block(operator, BLOCK, STEPS)
    return converge(space, COUNT, TRACKED, tolerance, 12)


def sine_to_true_space(row: Array, value: float, x: Array, s: Array) -> float:
    """Sine of the angle between a computed left vector and the space of the singular value it has found."""
    nearest = s[np.argmin(np.abs(s - value))]
    if nearest <= 5e-6 * s[0]:
        # Of value zero is everything outside the column space; the thin decomposition shows some of it.
        others = x[:, s > 5e-6 * s[0]]
        return float(np.linalg.norm(others.T @ row) / np.linalg.norm(row))
    space = x[:, np.abs(s - nearest) <= 5e-6 * s[0]]
    return float(np.linalg.norm(row - space @ (space.T @ row)) / np.linalg.norm(row))


def check_against_truth(found: Triplets, matrix: Array, at: int = 0) -> None:
    x, s, _ = np.linalg.svd(matrix, full_matrices=False)
    left, right = found.left[at].double().numpy(), found.right[at].double().numpy()
    values = found.values[at].double().numpy()
    for i, claimed in enumerate(found.angles[at].tolist()):
        if claimed < 1:  # otherwise nothing is claimed, and a vector of a value that is zero may be zero
            assert sine_to_true_space(left[i], values[i], x, s) <= claimed + 1e-5
            np.testing.assert_allclose(np.linalg.norm(left[i]), 1, atol=1e-5)
    # Residuals are taken from stored products: they have to be those of the vectors.
    two_sided = np.hypot(
        np.linalg.norm(left @ matrix - values[:, None] * right, axis=1),
        np.linalg.norm(right @ matrix.T - values[:, None] * left, axis=1),
    )
    np.testing.assert_allclose(found.residuals[at], two_sided, atol=1e-5 * s[0], rtol=1e-2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_claimed_angles_are_honest_and_leading_values_all_found(name: str, shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    values = SPECTRA[name](min(shape), rng)
    matrix = torch.from_numpy(with_values(*shape, values, rng)).float()
    found = leading(Dense(matrix.unsqueeze(0)))
    check_against_truth(found, matrix.double().numpy())
    if name not in HIDES_COPIES:
        np.testing.assert_allclose(found.values[0, :COUNT], values[:COUNT], atol=5e-4)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_spaces_of_some_matrices_go_on_as_theirs(shape: tuple[int, int]) -> None:
    """Chosen out of a batch, grown, and put back beside the others: each is still the space of its own matrix."""
    rng = np.random.default_rng(8)
    values = SPECTRA["power law"](min(shape), rng)
    matrices = [torch.from_numpy(with_values(*shape, values, rng)).float() for _ in range(3)]
    whole = KrylovSpace.from_random_block(Dense(torch.stack(matrices)), BLOCK, 4)
    kept, index = whole.compressed(TRACKED), torch.tensor([2, 0])
    some = whole.select(index)
    some.grow_chain(BLOCK, 12)
    together = kept.with_rows(index, some.compressed(TRACKED)).ritz(TRACKED - 1)[0]
    for i, matrix in enumerate(matrices):
        double = matrix.double().numpy()
        check_against_truth(together, double, i)
        if i != 1:
            s = np.linalg.svd(double, compute_uv=False)
            np.testing.assert_allclose(together.values[i, :COUNT], s[:COUNT], atol=5e-4)


# What is made of rows and of an orthonormal basis that they are to be orthogonal to.
BLOCKS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "plain": lambda rows, basis: rows,
    "inside the basis": lambda rows, basis: rows[:, :6] @ basis,
    "equal": lambda rows, basis: rows[:1].expand(4, 30),
    "zero": lambda rows, basis: torch.zeros(4, 30),
    "zero, beside unit vectors": lambda rows, basis: torch.zeros(4, 30),
    "one zero": lambda rows, basis: rows * torch.tensor([[1.0], [1.0], [0.0], [1.0]]),
    "of very different size": lambda rows, basis: rows * torch.tensor([[1e9], [1.0], [1e-5], [1e-9]]),
    "nearly dependent": lambda rows, basis: rows[:1] + 1e-6 * rows,
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_orthonormalize(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(30, 6, generator=generator))[0].mT
    basis = torch.eye(30)[:6] if "unit vectors" in kind else basis
    rows = BLOCKS[kind](torch.randn(4, 30, generator=generator), basis)
    found = orthonormalize(rows.unsqueeze(0), basis.unsqueeze(0))[0]
    together = torch.cat([basis, found])
    torch.testing.assert_close(together @ together.mT, torch.eye(10), atol=2e-6, rtol=0)
    if kind in {"plain", "of very different size"}:
        units = torch.nn.functional.normalize(rows, dim=-1)
        inside = (units @ together.mT) @ together
        torch.testing.assert_close(inside, units, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_an_unconverged_neighbour_spoils_the_claim(seed: int, shape: tuple[int, int], count: int) -> None:
    """Few steps, a loose tolerance, and true values between the Ritz values: these lie below the true ones."""
    rng = np.random.default_rng(seed)
    m, n = shape
    close = np.sort(np.concatenate([1 - 0.02 * rng.random(12), 0.9 * rng.random(min(shape) - 12)]))[::-1]
    matrix = torch.from_numpy(with_values(m, n, close, rng)).float()
    x, s, _ = np.linalg.svd(matrix.double().numpy(), full_matrices=False)
    for steps in (4, 8, 12):
        space = KrylovSpace.from_random_block(Dense(matrix.unsqueeze(0)), BLOCK, steps)
        found = converge(space, count, count + BLOCK, 0.3, 2)
        for i in range(count):
            row, value = found.left[0, i].double().numpy(), float(found.values[0, i])
            assert sine_to_true_space(row, value, x, s) <= float(found.angles[0, i]) + 1e-5
