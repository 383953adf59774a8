"""Operators against dense products in double precision."""

import pytest
import torch
from torch import Tensor

from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense, Operator, Sum
from tests.matrices import ugly


def every_kind(matrix: Tensor) -> list[tuple[Operator, Tensor]]:
    """The matrix as it is, an update of rank 2, and the sum of the two; each with what it stands for."""
    m, n = matrix.shape
    generator = torch.Generator().manual_seed(0)
    left = torch.randn(m, 2, generator=generator, dtype=matrix.dtype)
    right = torch.randn(2, n, generator=generator, dtype=matrix.dtype)
    update = LowRank(left, right)
    return [
        (Dense(matrix), matrix),
        (update, left @ right),
        (Sum(Dense(matrix), update), matrix + left @ right),
    ]


def test_products_are_those_of_the_dense_matrix() -> None:
    generator = torch.Generator().manual_seed(1)
    for operator, dense in (pair for matrix in ugly().values() for pair in every_kind(matrix)):
        m, n = dense.shape
        scale = float(dense.abs().max()) or 1.0
        rows = torch.randn(3, n, generator=generator, dtype=dense.dtype)
        columns = torch.randn(3, m, generator=generator, dtype=dense.dtype)
        assert operator.shape == (m, n)
        torch.testing.assert_close(operator.apply(rows) / scale, rows @ dense.mT / scale)
        torch.testing.assert_close(operator.apply_transpose(columns) / scale, columns @ dense / scale)
        torch.testing.assert_close(operator.dense() / scale, dense / scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(6, 5), (500, 400)], ids=["small", "large"])
def test_some_matrices_of_a_stack_are_those_in_that_order(shape: tuple[int, int], dtype: torch.dtype) -> None:
    m, n = shape
    generator = torch.Generator().manual_seed(3)
    batch = torch.randn(5, m, n, generator=generator, dtype=dtype)
    for places, of_these in [([3, 1, 4], [2, 0]), ([0, 1, 2, 3, 4], [1]), ([2], [0])]:
        chosen = Dense(batch).select(torch.tensor(places)).select(torch.tensor(of_these))
        wanted = batch[places][of_these]
        rows = torch.randn(len(of_these), 3, n, generator=generator, dtype=dtype)
        columns = torch.randn(len(of_these), 3, m, generator=generator, dtype=dtype)
        assert chosen.shape == wanted.shape
        assert torch.equal(chosen.dense(), wanted)
        assert torch.equal(chosen.double().dense(), wanted.double())
        torch.testing.assert_close(chosen.apply(rows), rows @ wanted.mT, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(chosen.apply_transpose(columns), columns @ wanted, atol=1e-4, rtol=1e-4)
