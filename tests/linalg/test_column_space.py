"""Projections on column spaces against dense double-precision decompositions."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intruders.linalg.column_space import ColumnSpace, project_each, solve, solve_transposed
from intruders.linalg.svd import CLUSTER_TOLERANCE
from tests.matrices import Array, orthonormal_columns, with_values

Make = Callable[[int, int, np.random.Generator], Array]


def one_tiny(m: int, n: int, rng: np.random.Generator) -> Array:
    return with_values(m, n, np.r_[np.linspace(1, 0.1, n - 1), 10.0 ** rng.uniform(-9, -1)], rng)


def two_columns_alike(m: int, n: int, rng: np.random.Generator) -> Array:
    matrix = rng.standard_normal((m, n))
    matrix[:, -1] = matrix[:, 0] + 10.0 ** rng.uniform(-8, 0) * matrix[:, -1]
    return matrix


UGLY: dict[str, Make] = {
    "power law": lambda m, n, rng: with_values(m, n, (1.0 + np.arange(n)) ** -rng.uniform(0.2, 1.5), rng),
    "one tiny": one_tiny,
    "many tiny": lambda m, n, rng: with_values(m, n, np.geomspace(1, 10.0 ** rng.uniform(-8, -2), n), rng),
    "rank-deficient": lambda m, n, rng: with_values(
        m, n, np.where(np.arange(n) < max(1, n // 2), 1.0, 0.0), rng
    ),
    # Without these it may be wide.
    "zero rows": lambda m, n, rng: (
        rng.standard_normal((m, n)) * (rng.random(m) < rng.uniform(0.3, 1.0))[:, None]
    ),
    "one column zero": lambda m, n, rng: rng.standard_normal((m, n)) * (np.arange(n) != n // 2),
    "columns of all sizes": lambda m, n, rng: (
        rng.standard_normal((m, n)) * 10.0 ** -np.linspace(0, rng.uniform(0, 8), n)
    ),
    "two columns alike": two_columns_alike,
    "bf16": lambda m, n, rng: np.asarray(torch.from_numpy(one_tiny(m, n, rng)).bfloat16().double()),
    "giant": lambda m, n, rng: with_values(
        m, n, np.r_[10.0 ** rng.uniform(1, 5), np.linspace(1, 0.1, n - 1)], rng
    ),
}


@given(
    kind=st.sampled_from(list(UGLY)),
    n=st.integers(1, 60),
    more=st.integers(1, 80),
    outside=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_vector_exceeds_the_bound(kind: str, n: int, more: int, outside: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    m = n + more
    matrix = torch.from_numpy(UGLY[kind](m, n, rng)).float()
    wide = matrix.double().numpy()
    left, values, _ = np.linalg.svd(wide, full_matrices=False)
    space = ColumnSpace.of_each([matrix], [values[0]])[0]
    if space is None:
        assert values[-1] <= 10 * CLUSTER_TOLERANCE * values[0]
        return
    assert 0 < space.floor <= values[-1] ** 2 * (1 + 1e-6)
    factor = space.factor.double().numpy().astype(np.float64)
    least = np.linalg.eigvalsh(wide.T @ wide - space.share * factor @ factor.T)[0]
    assert least >= -1e-13 * values[0] ** 2
    inside = left @ rng.standard_normal((n, 3))
    beyond = orthonormal_columns(m, 3, rng) if m >= 3 else rng.standard_normal((m, 3))
    rows = (1 - outside) ** 0.5 * inside / np.linalg.norm(inside, axis=0) + outside**0.5 * beyond
    rows_single = torch.from_numpy(np.ascontiguousarray(rows.T)).float()
    projected, errors = project_each([space], [rows_single], 1e-3)[0]
    seen = np.abs((rows_single.double() - projected.double()).numpy() @ left)
    lost = np.linalg.norm(seen, axis=1)
    assert (lost <= errors.numpy() * (1 + 1e-6) + 1e-11).all()  # the bound itself is computed with rounding
    assert float(errors.max()) < 2e-3
    # What is outside the column space is gone, as far as single precision tells.
    assert float((projected.double().numpy() - projected.double().numpy() @ left @ left.T).max()) < 1e-5


@pytest.mark.parametrize("least", [0.1, 0.027, 0.003, 1e-4, 1e-5])
def test_small_singular_values_are_told_from_none(least: float) -> None:
    rng = np.random.default_rng(0)
    values = np.r_[np.linspace(3, 1, 20), np.geomspace(1, 3 * least, 180)]
    space = ColumnSpace.of_each([torch.from_numpy(with_values(500, 200, values, rng)).float()], [3.0])[0]
    assert space is not None
    assert (space.factor.dtype == torch.float32) == (least >= 0.003)
    # The floor is loose by the number of probes and columns, to the power of an eighth.
    assert (3 * least) ** 2 / 3 < space.floor < (3 * least) ** 2 * 1.001


@pytest.mark.parametrize("size", [1, 5, 256, 257, 600])
def test_triangular_systems(size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    factor = torch.randn(size, size, generator=generator).tril() / size**0.5 + 2 * torch.eye(size)
    rows = torch.randn(3, size, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(solve(factor, rows) @ factor.double().mT, rows)
    torch.testing.assert_close(solve_transposed(factor, rows) @ factor.double(), rows)
    single = solve(factor, rows.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), solve(factor, rows), rtol=1e-3, atol=1e-4)
