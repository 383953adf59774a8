"""Where a vector's largest coordinate passes a number, compared with dense decompositions there."""

import math

import pytest
import torch
from torch import Tensor

from intruders.linalg.coordinates import SecularProblem
from intruders.linalg.secular import Passages, passages

EPSILON = 0.5


def planted(seed: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values of a base of side 40 and the factors of an update ``P Q^T``; Q is orthonormal."""
    source = torch.Generator().manual_seed(seed)
    values = torch.linspace(6, 1, 40, dtype=torch.float64)
    p, q = torch.linalg.qr(torch.randn(2, 40, rank, generator=source, dtype=torch.float64)).Q
    return values, p, q


def problem_of(values: Tensor, p: Tensor, q: Tensor) -> SecularProblem:
    across = torch.cat([(values.unsqueeze(-1) * q).mT, p.mT])
    return SecularProblem.of(values.square().unsqueeze(0), across.unsqueeze(0))


def leading(values: Tensor, p: Tensor, q: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Squared singular values of ``diag(values) + scale P Q^T``, and its left vectors as rows."""
    u, s, _ = torch.linalg.svd(torch.diag(values) + scale * p @ q.mT)
    return s.square(), u.mT


def passage(values: Tensor, p: Tensor, q: Tensor, scale: float, squares: Tensor, rows: Tensor) -> Passages:
    at = torch.tensor([scale], dtype=torch.float64)
    return passages(problem_of(values, p, q), at, squares, rows, 40, EPSILON)


def largest(rows: Tensor) -> Tensor:
    return rows.abs().amax(-1)


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("seed", range(6))
def test_it_is_where_a_dense_decomposition_has_the_number(seed: int, rank: int) -> None:
    values, p, q = planted(seed, rank)
    scales = (0.5 * 1.004**step for step in range(1000))
    scale = next(s for s in scales if largest(leading(values, p, q, s)[1][:10]).min() < EPSILON)
    squares, rows = leading(values, p, q, scale)
    index = int(largest(rows[:10]).argmin())
    some = slice(index, index + 1)
    root = passage(values, p, q, scale, squares[some], rows[some])
    found = float(root.scales)
    assert found == pytest.approx(scale, rel=0.01)
    vectors = leading(values, p, q, found)[1]
    (vector,) = vectors[(vectors @ root.rows[0]).abs() > 1 - 1e-9]
    assert float(largest(vector)) == pytest.approx(EPSILON, abs=1e-8)

    def beside(share: float) -> float:
        rows = leading(values, p, q, found * (1 + share))[1]
        return float(largest(rows[(rows @ vector).abs().argmax()]))

    assert bool(root.falls) == (beside(1e-5) < beside(-1e-5))


def test_where_no_coordinate_passes_there_is_none() -> None:
    """An update along base vectors changes their values alone."""
    values = torch.linspace(6, 1, 40, dtype=torch.float64)
    axis = torch.eye(40, dtype=torch.float64)[:, 5:6]
    squares, rows = leading(values, axis, axis, 3.0)
    root = passage(values, axis, axis, 3.0, squares[:1], rows[:1])
    assert math.isnan(float(root.scales))
