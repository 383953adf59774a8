"""The values that random directions give, against draws of them."""

import math

import pytest
import torch

from intruders.linalg.chance import chance_angle, chance_max_cosine, chance_share


@pytest.mark.parametrize(("d", "count"), [(384, 384), (576, 576), (1024, 1024), (1536, 576)])
def test_the_max_cosine_of_random_vectors(d: int, count: int) -> None:
    generator = torch.Generator().manual_seed(d)
    vectors = torch.nn.functional.normalize(torch.randn(1500, d, generator=generator), dim=-1)
    # Of a uniformly random vector any orthonormal directions will do: here the unit vectors.
    drawn = float(vectors[:, :count].abs().amax(-1).mean())
    assert chance_max_cosine(d, count) == pytest.approx(drawn, rel=0.015)


def test_the_angles_between_random_spaces() -> None:
    generator = torch.Generator().manual_seed(0)
    spaces = torch.linalg.qr(torch.randn(300, 384, 10, generator=generator)).Q
    cosines = torch.linalg.svdvals(spaces[:, :10])  # with the first ten unit vectors
    assert chance_share(10, 384) == pytest.approx(float(cosines.square().mean()), rel=0.02)
    angle = chance_angle(10, 384)
    assert angle == pytest.approx(math.degrees(math.acos(float(cosines[:, -1].median()))), abs=0.1)


def test_small_dimensions_have_a_value_too() -> None:
    assert chance_max_cosine(1, 1) == 1.0
    assert 0 < chance_max_cosine(3, 2) <= 1
    assert math.isnan(chance_angle(10, 20))
