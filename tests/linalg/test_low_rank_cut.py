"""Low-rank sums in new factors, against dense decompositions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense


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
def test_with_a_rank_the_best_approximation_and_its_error(
    m: int, n: int, q: int, rank: int, seed: int
) -> None:
    given_one = product_of(m, n, q, seed)
    dense = given_one.left @ given_one.right
    result, error = given_one.cut(rank)
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


def test_both_factors_carry_the_same_size() -> None:
    result, _ = product_of(8, 6, 3, 1, 10.0).cut()
    torch.testing.assert_close(result.left.norm(dim=0), result.right.norm(dim=1))


@given(m=sizes, n=sizes, q=sizes, r=sizes, seed=st.integers(0, 10**6))
def test_inner_product(m: int, n: int, q: int, r: int, seed: int) -> None:
    first, second = product_of(m, n, q, seed), product_of(m, n, r, seed + 1)
    dense = first.left @ first.right
    product = float((dense * (second.left @ second.right)).sum())
    assert first.inner(second) == pytest.approx(product, abs=1e-9)
    assert Dense(dense).inner(second) == pytest.approx(product, abs=1e-9)
