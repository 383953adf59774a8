"""The projection in a base's coordinates: when it holds all of an update, and that it is finite."""

import numpy as np
import torch

from intruders.engine.certificates import coordinates_of
from intruders.engine.coordinate_scales import project_in_coordinates
from intruders.engine.projection import Projection
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair
from intruders.linalg.whole_base import WholeBase
from tests.matrices import SPECTRA, spiked, with_values


def projected(batch: Pair) -> Projection:
    whole = WholeBase.of(batch.base)
    coordinates = coordinates_of(batch, whole, 5)
    assert coordinates is not None
    (projection,), _ = project_in_coordinates(coordinates, whole, 5, 0.5)
    return projection


def test_an_update_of_more_directions_than_are_followed_is_not_complete() -> None:
    rng = np.random.default_rng(5)
    base = with_values(256, 256, SPECTRA["power law"](256, rng), rng)
    assert not projected(spiked(base, np.linspace(1, 0.5, 30), rng).batch()).is_complete
    assert projected(spiked(base, np.linspace(1, 0.5, 12), rng).batch()).is_complete


def test_a_base_of_equal_values_and_one_of_zeros_have_finite_projections() -> None:
    left, right = torch.randn(1, 150, 2), torch.randn(1, 2, 150)
    for base in (torch.eye(150)[None], torch.zeros(1, 150, 150)):
        projection = projected(Pair(base, LowRank(left, right)))
        for part in (projection.base, projection.cross, projection.update):
            assert part.isfinite().all()
