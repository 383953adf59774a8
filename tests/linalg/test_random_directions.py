"""Sketches of matrices by random directions, against sums."""

import torch

from intruders.linalg.low_rank import LowRank
from intruders.linalg.operators import Dense
from intruders.linalg.random_directions import SIZE, SketchDirections, normalized


def test_factors_and_the_matrix_that_they_make_have_one_sketch() -> None:
    torch.manual_seed(0)
    factors = LowRank(torch.randn(3, 40, 2), torch.randn(3, 2, 70))
    directions = SketchDirections.of(40, 70, 1, factors.left)
    of_factors, of_matrices = directions.sketch(factors), directions.sketch(Dense(factors.dense()))
    torch.testing.assert_close(of_factors, of_matrices, rtol=1e-4, atol=1e-2)
    by_hand = torch.einsum("im,bmn,in->bi", directions.left, factors.dense(), directions.right)
    torch.testing.assert_close(of_factors, by_hand.double(), rtol=1e-4, atol=1e-2)


def test_a_model_without_updates_is_like_no_other() -> None:
    rows = normalized([torch.zeros(SIZE, dtype=torch.float64), torch.ones(SIZE, dtype=torch.float64)])
    assert (rows @ rows.mT).tolist() == [[0, 0], [0, torch.tensor(1.0, dtype=torch.float64)]]


def test_numbers_whose_products_single_precision_cannot_hold() -> None:
    """Factors of 1e25 have an update of 1e50."""
    generator = torch.Generator().manual_seed(2)
    small = LowRank(*(torch.randn(shape, generator=generator) for shape in ((40, 2), (2, 70))))
    large = LowRank(small.left * 1e25, small.right * 1e25)
    directions = SketchDirections.of(40, 70, 1, small.left)
    parts = (directions.left, small.dense(), directions.right)
    wanted = torch.einsum("im,mn,in->i", *(part.double() for part in parts))
    torch.testing.assert_close(directions.sketch(large) / 1e50, wanted, rtol=1e-3, atol=1e-3)
