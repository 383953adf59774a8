"""What is kept of a base matrix, against its dense decomposition in double precision."""

import pytest
import torch

from intruders.engine.known_base import BaseVectors, KnownBase
from intruders.linalg.operators import Dense


# Of the first all left vectors are kept.
@pytest.mark.parametrize("shape", [(200, 200), (300, 420), (420, 300)])
def test_the_value_of_a_kept_base(shape: tuple[int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(2, *shape, generator=generator) * torch.arange(1, shape[1] + 1) ** -0.5
    values = torch.linalg.svdvals(matrix.double())
    for known in (BaseVectors.of(Dense(matrix), 5, 14, None).known(14), KnownBase.decomposed(matrix)):
        for k in (1, 5):
            assert known.value(k).double() == pytest.approx(values[:, k - 1], rel=1e-4)
        assert known.value(max(shape) + 1).tolist() == [0.0, 0.0]
