"""The dense path against numpy, and by hand where the matrix leaves a choice of vectors."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from intruders.linalg.exact import exact_cosines
from intruders.linalg.svd import Components, dense_svd, gram_svd, leading_svd
from tests.matrices import SPECTRA, orthonormal_columns, ugly, with_values

Decompose = Callable[[Tensor], Components]
PATHS: list[Decompose] = [dense_svd, gram_svd]


@pytest.mark.parametrize("decompose", PATHS)
def test_a_matrix_against_itself_has_no_intruders(decompose: Decompose) -> None:
    for name, matrix in ugly().items():
        found = exact_cosines(matrix, matrix, min(matrix.shape), 0.5, decompose)
        np.testing.assert_allclose(found.max_cosines, 1.0, atol=1e-6, err_msg=name)


def unit(*places: int, of: int = 4) -> Tensor:
    vector = torch.zeros(of, dtype=torch.float64)
    vector[list(places)] = len(places) ** -0.5
    return vector


def rank_one(left: Tensor, size: int = 4) -> Tensor:
    return torch.outer(left, unit(0, of=size))


def test_ambiguous_where_a_tuned_cluster_holds_both_kinds() -> None:
    base = torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64))
    tuned = rank_one(unit(0)) + torch.outer(unit(1, 2, 3), unit(1))
    found = exact_cosines(base, tuned, 2, 0.9)
    assert found.ambiguous.tolist() == [True, True]
    tuned = rank_one(unit(0)) + torch.outer(unit(1), unit(1))
    assert exact_cosines(base, tuned, 2, 0.5).ambiguous.tolist() == [False, False]


IDENTITY, ALL = torch.eye(4, dtype=torch.float64), unit(0, 1, 2, 3)
TWO_EQUAL = torch.diag(torch.tensor([3.0, 2.0, 2.0, 1.0], dtype=torch.float64))
# Its second left vector is any direction orthogonal to the first.
OF_RANK_ONE = torch.outer(unit(0), unit(0, of=2))


@pytest.mark.parametrize(
    ("base", "left", "epsilon", "cosine", "is_ambiguous"),
    [
        # Every vector is a singular vector of the identity; as one of the axes, or as any other.
        (IDENTITY, ALL, 0.6, 1.0, True),
        # Of four orthonormal vectors one has a cosine of at least 1/2 with it, however they are chosen.
        (IDENTITY, ALL, 0.4, 1.0, False),
        (TWO_EQUAL, unit(0), 0.9, 1.0, False),
        (TWO_EQUAL, unit(1, 2), 0.9, 1.0, True),
        (TWO_EQUAL, ALL, 0.9, 0.5**0.5, False),  # an intruder however it is turned
        (OF_RANK_ONE, unit(0), 0.5, 1.0, False),
        (OF_RANK_ONE, unit(2), 0.5, 1.0, True),
        # Outside the columns of a tall base of full rank nothing resembles.
        (IDENTITY[:, :2] * torch.tensor([2.0, 1.0]), unit(3), 0.5, 0.0, False),
    ],
)
def test_ambiguous_where_a_base_cluster_can_be_turned_to_it_and_from_it(
    base: Tensor, left: Tensor, epsilon: float, cosine: float, is_ambiguous: bool
) -> None:
    found = exact_cosines(base, rank_one(left, base.shape[1]), 1, epsilon)
    assert (found.max_cosines.item(), found.ambiguous.item()) == (pytest.approx(cosine), is_ambiguous)


@pytest.mark.parametrize("shape", [(4, 4), (6, 4), (4, 6)], ids=str)
def test_a_zero_base_resembles_whatever_one_likes(shape: tuple[int, int]) -> None:
    tuned = torch.from_numpy(np.random.default_rng(0).standard_normal(shape))
    found = exact_cosines(torch.zeros(shape), tuned, 2, 0.9)
    assert found.ambiguous.all()


@pytest.mark.parametrize("shape", [(30, 30), (45, 30), (30, 45)], ids=str)
@pytest.mark.parametrize("name", SPECTRA)
def test_decompositions_by_the_gram_matrix(name: str, shape: tuple[int, int]) -> None:
    """It is one; and the quickest one has right triplets as far as they are wanted."""
    rng = np.random.default_rng(0)
    matrix = torch.from_numpy(with_values(*shape, SPECTRA[name](30, rng), rng))
    values = np.linalg.svd(matrix.numpy(), compute_uv=False)
    found, told = gram_svd(matrix), torch.from_numpy(values > 1e-5)
    np.testing.assert_allclose(found.values, values, atol=1e-7)
    for vectors in (found.left[told], found.right[told]):
        np.testing.assert_allclose(vectors @ vectors.mT, np.eye(len(vectors)), atol=1e-9)
    np.testing.assert_allclose((found.left.mT * found.values) @ found.right, matrix, atol=1e-7)
    for count in (1, 7, 30):
        found = leading_svd(matrix, count)
        np.testing.assert_allclose(found.values[:count], values[:count], atol=1e-9)
        for one, other, product in ((found.left, found.right, matrix), (found.right, found.left, matrix.mT)):
            np.testing.assert_allclose(one[:count] @ one[:count].mT, np.eye(count), atol=1e-8)
            wanted = found.values[:count, None] * other[:count]
            np.testing.assert_allclose(one[:count] @ product, wanted, atol=1e-9)


def test_equal_base_values_under_an_outlier_are_ambiguous() -> None:
    """y leans on two equal base vectors by 0.62 each: turned, one of them holds 0.88 of it. Any frame says the same."""
    values = torch.cat([torch.tensor([1e5, 10.0, 10.0]), torch.linspace(9.9, 5.0, 37)]).double()
    y = torch.zeros(40, dtype=torch.float64)
    y[1] = y[2] = math.cos(0.5) / 2**0.5
    y[20] = math.sin(0.5)
    base, aside = torch.diag(values), torch.zeros(40, dtype=torch.float64)
    aside[30] = 40.0
    rng = np.random.default_rng(0)
    for decompose in PATHS:
        frame = torch.from_numpy(orthonormal_columns(40, 40, rng))
        turned = (frame @ base @ frame.mT, frame @ (base + torch.outer(y, aside)) @ frame.mT)
        found = exact_cosines(*turned, 2, 0.8, decompose)
        assert found.ambiguous.tolist() == [False, True]
        assert found.max_cosines[1] == pytest.approx(0.8732, abs=1e-4)


def test_a_cosine_next_to_epsilon_is_computed_without_shortcut() -> None:
    """Vectors of small values that are close turn in the Gram matrix, by more than what separates two decisions."""
    rng = np.random.default_rng(1)
    values = np.concatenate([np.linspace(1, 0.3, 38), [2.1e-6, 0.0]])
    base = torch.from_numpy(with_values(40, 40, values, rng)).float().double()
    left, right = (torch.from_numpy(orthonormal_columns(40, 2, rng)) for _ in range(2))
    lowest = torch.linalg.svd(base).U[:, -2:].sum(-1) / 2**0.5
    left = torch.stack([lowest, left[:, 1]], 1)
    tuned = base + (left * torch.tensor([3.0, 2.0])) @ right.mT
    truth = exact_cosines(base, tuned, 2, 0.5)
    for cosine in truth.max_cosines.tolist():
        for epsilon in (cosine - 1e-9, cosine + 1e-9):
            found = exact_cosines(base, tuned, 2, epsilon, gram_svd)
            expected = truth.max_cosines < epsilon
            assert (found.max_cosines < epsilon).tolist() == expected.tolist()
