"""The projection in a base's coordinates, compared with dense decompositions by numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from intruders.engine.certificates import coordinates_of
from intruders.engine.coordinate_scales import project_in_coordinates
from intruders.engine.projection import Projection
from intruders.engine.scale_search import first_window
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair
from intruders.linalg.whole_base import WholeBase
from tests.matrices import SPECTRA, PlantedPair, orthonormal_columns, with_values


def planted(shape: tuple[int, int], rank: int, seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    base = with_values(*shape, SPECTRA["power law"](min(shape), rng), rng)
    left, right = orthonormal_columns(shape[0], rank, rng), orthonormal_columns(shape[1], rank, rng).T
    return PlantedPair.lowrank(base, left * np.linspace(1, 0.5, rank), right).batch()


def projected(batch: Pair) -> Projection:
    whole = WholeBase.of(batch.base)
    coordinates = coordinates_of(batch, whole, 5)
    assert coordinates is not None
    (projection,), _ = project_in_coordinates(coordinates, whole, 5, 0.5)
    return projection


def least_cosine(batch: Pair, scale: float, k: int) -> float:
    assert isinstance(batch.tuned, LowRank)
    base = np.asarray(batch.base[0].double())
    tuned = base + scale * np.asarray(batch.tuned.double().dense()[0])
    x, y = (np.linalg.svd(matrix, full_matrices=False)[0] for matrix in (base, tuned))
    return float(np.abs(x.T @ y[:, :k]).max(0).min())


@pytest.mark.parametrize("rank", [1, 3, 12])
@pytest.mark.parametrize("shape", [(150, 150), (200, 150), (150, 200)], ids=str)
def test_its_window_is_where_dense_decompositions_have_the_first_intruder(
    shape: tuple[int, int], rank: int
) -> None:
    batch = planted(shape, rank, seed=4)
    projection = projected(batch)
    assert projection.is_complete
    window = first_window(projection)
    assert window is not None
    scales = np.geomspace(0.05, 20, 600)  # steps of 1 %
    first = next(scale for scale in scales if least_cosine(batch, scale, 5) < 0.5)
    assert window.start == pytest.approx(first, rel=0.03)
    assert projection.predicted == pytest.approx(first, rel=1.0)


def test_an_update_of_more_directions_than_are_followed_is_not_complete() -> None:
    assert not projected(planted((256, 256), 30, seed=5)).is_complete


def test_a_base_of_equal_values_and_one_of_zeros_have_finite_projections() -> None:
    left, right = torch.randn(1, 150, 2), torch.randn(1, 2, 150)
    for base in (torch.eye(150)[None], torch.zeros(1, 150, 150)):
        projection = projected(Pair(base, LowRank(left, right)))
        for part in (projection.base, projection.cross, projection.update):
            assert part.isfinite().all()
