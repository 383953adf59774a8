"""Low-rank products through their factors, against numpy's decomposition of the product."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from intruders.linalg.low_rank import LowRank
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
    found = LowRank(torch.from_numpy(left), torch.from_numpy(right)).svd()
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
    left, right = (
        torch.from_numpy(RNG.standard_normal((50, 2))).float(),
        torch.from_numpy(RNG.standard_normal((2, 40))).float(),
    )
    left[:, 1] *= 1e-5
    expected = np.linalg.svd((left.double() @ right.double()).numpy(), compute_uv=False)[:2]
    np.testing.assert_allclose(LowRank(left, right).svd().values, expected, rtol=1e-9)


def test_a_stack_is_its_matrices_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    left: Tensor = torch.randn(3, 6, 2, generator=generator)
    right: Tensor = torch.randn(3, 2, 5, generator=generator)
    found = LowRank(left, right).svd()
    for i in range(3):
        torch.testing.assert_close(found.values[i], LowRank(left[i], right[i]).svd().values)
