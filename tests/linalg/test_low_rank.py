"""Low-rank products through their factors, against numpy's decomposition of the product."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense
from tests.matrices import Array

RNG = np.random.default_rng(0)
FACTORS: dict[str, tuple[Array, Array]] = {
    f"{m}x{r}x{n}": (RNG.standard_normal((m, r)), RNG.standard_normal((r, n)))
    for m, r, n in [(1, 1, 1), (6, 1, 9), (9, 3, 6), (7, 7, 7), (4, 6, 9), (9, 6, 4), (3, 8, 2), (1, 4, 5)]
}
LEFT, RIGHT = FACTORS["9x3x6"]
FACTORS["zero"] = (0 * LEFT, RIGHT)
FACTORS["a zero column"] = (LEFT * [1.0, 0, 1], RIGHT)
FACTORS["dependent columns"] = (LEFT[:, [0, 0, 1]], RIGHT)
FACTORS["columns that cancel"] = (LEFT[:, [0, 0, 1]], np.stack([RIGHT[0], -RIGHT[0], RIGHT[1]]))
FACTORS["huge and tiny"] = (1e100 * LEFT, 1e-100 * RIGHT)
FACTORS["very unequal"] = (LEFT * [1.0, 1e-6, 1e-12], RIGHT)


@pytest.mark.parametrize("name", FACTORS)
def test_against_the_product(name: str) -> None:
    left, right = FACTORS[name]
    product = left @ right
    found = LowRank(torch.from_numpy(left), torch.from_numpy(right)).svd
    expected = np.linalg.svd(product, compute_uv=False)
    count = min(left.shape[1], *product.shape)
    assert found.values.shape == (count,)
    scale = np.linalg.norm(left, 2) * np.linalg.norm(right, 2) or 1.0  # rounding is relative to the factors
    np.testing.assert_allclose(found.values / scale, expected[:count] / scale, atol=1e-13)
    rebuilt = (found.left.mT * found.values) @ found.right
    np.testing.assert_allclose(rebuilt / scale, product / scale, atol=1e-13)
    for vectors in (found.left, found.right):
        np.testing.assert_allclose(vectors @ vectors.mT, np.eye(count), atol=1e-13)


def test_small_values_of_factors_keep_their_digits() -> None:
    """Each value comes out to rounding of the largest, in double precision though the factors are single."""
    left, right = (torch.from_numpy(RNG.standard_normal(shape)).float() for shape in ((50, 2), (2, 40)))
    left[:, 1] *= 1e-5
    expected = np.linalg.svd((left.double() @ right.double()).numpy(), compute_uv=False)[:2]
    np.testing.assert_allclose(LowRank(left, right).svd.values, expected, rtol=1e-9)


def product_of(m: int, n: int, q: int, seed: int, spread: float = 1.0) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(m, q, generator=generator, dtype=torch.float64) * spread ** -torch.arange(q)
    return LowRank(left, torch.randn(q, n, generator=generator, dtype=torch.float64))


sizes = st.integers(1, 12)


@given(m=sizes, n=sizes, q=sizes, seed=st.integers(0, 10**6), spread=st.sampled_from([1.0, 10.0]))
def test_exact_without_a_rank(m: int, n: int, q: int, seed: int, spread: float) -> None:
    given_one = product_of(m, n, q, seed, spread)
    dense = given_one.left @ given_one.right
    result, error = given_one.cut()
    assert result.left.shape[1] == result.right.shape[0] <= min(m, n, q)
    torch.testing.assert_close(result.left @ result.right, dense, rtol=1e-10, atol=1e-10)
    assert error == 0
    assert given_one.norm() == pytest.approx(float(dense.norm()))


@given(m=sizes, n=sizes, q=sizes, rank=sizes, seed=st.integers(0, 10**6))
def test_with_a_rank_the_nearest_and_its_error(m: int, n: int, q: int, rank: int, seed: int) -> None:
    given_one = product_of(m, n, q, seed)
    dense = given_one.left @ given_one.right
    result, error = given_one.cut(rank)
    torch.testing.assert_close(result.left.norm(dim=0), result.right.norm(dim=1))  # neither is much larger
    assert result.left.shape == (m, rank)
    assert result.right.shape == (rank, n)
    values = torch.linalg.svdvals(dense)
    found = dense - result.left @ result.right
    assert float(found.norm()) == pytest.approx(float(values[rank:].norm()), abs=1e-9 * float(values[0]))
    assert error == pytest.approx(float(found.norm() / dense.norm()), abs=1e-8)


def test_dependent_columns_are_not_kept() -> None:
    once = product_of(9, 7, 3, 0)
    doubled = once.plus(LowRank(once.left, -0.5 * once.right))
    assert doubled.rank == 6
    result, _ = doubled.cut()
    assert result.rank == 3
    torch.testing.assert_close(result.left @ result.right, 0.5 * once.left @ once.right)


def test_zero_has_one_column_of_zeros() -> None:
    result, error = LowRank(torch.zeros(4, 2), torch.ones(2, 5)).cut()
    assert result.left.shape == (4, 1)
    assert not (result.left @ result.right).any()
    assert error == 0


@given(m=sizes, n=sizes, q=sizes, r=sizes, seed=st.integers(0, 10**6))
def test_inner_product(m: int, n: int, q: int, r: int, seed: int) -> None:
    first, second = product_of(m, n, q, seed), product_of(m, n, r, seed + 1)
    dense = first.left @ first.right
    product = float((dense * (second.left @ second.right)).sum())
    assert first.inner(second) == pytest.approx(product, abs=1e-9)
    assert Dense(dense).inner(second) == pytest.approx(product, abs=1e-9)
