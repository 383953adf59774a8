"""What vectors at one scale say of those nearby, compared with decompositions there."""

from __future__ import annotations

import pytest
import torch

from intruders.engine.projection import Projection
from intruders.engine.scale_points import Between, FromBase, Look, are_as_base, are_clear, points_at


def projection(rank: int, seed: int) -> Projection:
    """W0 with evenly falling values and a term that brings in ``rank`` directions, on 30 rows."""
    generator = torch.Generator().manual_seed(seed)
    values = (
        torch.linspace(6, 1, 30, dtype=torch.float64) + 0.1 * torch.rand(30, generator=generator).double()
    )
    values = values.sort(descending=True).values
    left, right = (
        torch.linalg.qr(torch.randn(30, rank, generator=generator, dtype=torch.float64)).Q for _ in range(2)
    )
    change = left @ right.mT
    cross = torch.diag(values) @ change.mT
    return Projection(
        torch.diag(values.square()), cross + cross.mT, change @ change.mT, 24, 10, 0.5, 4.0, True, 4.0
    )


@pytest.mark.parametrize("rank", [1, 4])
def test_what_is_clear_has_no_vector_that_turns_away(rank: int) -> None:
    said = []
    for seed in range(8):
        one = projection(rank, seed)
        for parts, ratio in ((3, 2 ** (1 / 24)), (12, 2 ** (1 / 6))):
            for step in range(24):
                low = 0.5 * 2 ** (step / 6)
                ends = points_at([one], [Look([low, low * ratio], False)])[0]
                between = Between(*ends, parts)
                (is_clear,) = are_clear([one], [between])
                least = min(point.cosine for point in points_at([one], [Look(between.scales(), False)])[0])
                assert not is_clear or least >= one.epsilon
                said.append((is_clear, least >= one.epsilon))
    assert sum(clear for clear, _ in said) > 0.5 * sum(right for _, right in said)


@pytest.mark.parametrize("rank", [1, 4])
def test_what_is_as_at_the_base_leans_nowhere(rank: int) -> None:
    scales = [0.02 * 2 ** (step / 2) for step in range(20)]
    said = 0
    for seed in range(8):
        one = projection(rank, seed)
        (plain,) = are_as_base([one], [FromBase(scales)])
        for is_plain, point in zip(plain, points_at([one], [Look(scales, False)])[0], strict=True):
            assert not is_plain or point.cosine > 0.9
            said += is_plain
    assert said > 20


@pytest.mark.parametrize("k", [3, 12])
def test_equal_values_say_nothing(k: int) -> None:
    eye, none = torch.eye(12, dtype=torch.float64), torch.zeros(12, 12, dtype=torch.float64)
    one = Projection(eye, none, eye, 8, k, 0.5, 1.0, True, 1.0)
    assert are_as_base([one], [FromBase([0.1, 1.0])]) == [[False, False]]
    low, high = points_at([one], [Look([1.0, 1.02], False)])[0]
    assert are_clear([one], [Between(low, high, 3)]) == [False]
