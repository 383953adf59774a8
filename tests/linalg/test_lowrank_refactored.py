"""Low-rank sums in new factors, against dense decompositions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from intruders.linalg.low_rank import lowrank_inner, refactored


def factors(m: int, n: int, q: int, seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(m, q, generator=generator, dtype=torch.float64) * spread ** -torch.arange(q)
    return left, torch.randn(q, n, generator=generator, dtype=torch.float64)


sizes = st.integers(1, 12)


@given(m=sizes, n=sizes, q=sizes, seed=st.integers(0, 10**6), spread=st.sampled_from([1.0, 10.0]))
def test_exact_without_a_rank(m: int, n: int, q: int, seed: int, spread: float) -> None:
    left, right = factors(m, n, q, seed, spread)
    result = refactored(left, right)
    assert result.left.shape[1] == result.right.shape[0] <= min(m, n, q)
    torch.testing.assert_close(result.left @ result.right, left @ right, rtol=1e-10, atol=1e-10)
    assert result.relative_error == 0
    assert result.frobenius == pytest.approx(float((left @ right).norm()))


@given(m=sizes, n=sizes, q=sizes, rank=sizes, seed=st.integers(0, 10**6))
def test_with_a_rank_the_best_approximation_and_its_error(
    m: int, n: int, q: int, rank: int, seed: int
) -> None:
    left, right = factors(m, n, q, seed)
    result = refactored(left, right, rank)
    assert result.left.shape == (m, rank)
    assert result.right.shape == (rank, n)
    values = torch.linalg.svdvals(left @ right)
    found = left @ right - result.left @ result.right
    assert float(found.norm()) == pytest.approx(float(values[rank:].norm()), abs=1e-9 * float(values[0]))
    assert result.relative_error == pytest.approx(float(found.norm() / (left @ right).norm()), abs=1e-8)


def test_dependent_columns_are_not_kept() -> None:
    left, right = factors(9, 7, 3, 0)
    doubled = refactored(torch.cat([left, left], 1), torch.cat([right, -0.5 * right], 0))
    assert doubled.left.shape[1] == 3
    torch.testing.assert_close(doubled.left @ doubled.right, 0.5 * left @ right)


def test_zero_has_one_column_of_zeros() -> None:
    result = refactored(torch.zeros(4, 2), torch.ones(2, 5))
    assert result.left.shape == (4, 1)
    assert not (result.left @ result.right).any()
    assert result.relative_error == 0


def test_both_factors_carry_the_same_size() -> None:
    result = refactored(*factors(8, 6, 3, 1, 10.0))
    torch.testing.assert_close(result.left.norm(dim=0), result.right.norm(dim=1))


@given(m=sizes, n=sizes, q=sizes, r=sizes, seed=st.integers(0, 10**6))
def test_inner_product(m: int, n: int, q: int, r: int, seed: int) -> None:
    first, second = factors(m, n, q, seed), factors(m, n, r, seed + 1)
    dense = ((first[0] @ first[1]) * (second[0] @ second[1])).sum()
    assert float(lowrank_inner(first, second)) == pytest.approx(float(dense), abs=1e-9)
