"""The first scale with an intruder on a projection, compared with a walk in small steps."""

from dataclasses import replace

import pytest
import torch

from intruders.engine.projection import Projection
from intruders.engine.scale_search import first_starts, first_window


def projection(rank: int, seed: int) -> Projection:
    """All of a matrix of side 30 whose values fall evenly, and an update of ``rank`` directions as large."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.linspace(6, 1, 30, dtype=torch.float64)
    left, right = torch.linalg.qr(torch.randn(2, 30, rank, generator=generator, dtype=torch.float64)).Q
    change = left @ right.mT
    cross = torch.diag(values) @ change.mT
    return Projection(
        base=torch.diag(values.square()),
        cross=cross + cross.mT,
        update=change @ change.mT,
        shown=30,
        others=None,
        k=10,
        epsilon=0.5,
        predicted=4.0,
        is_complete=True,
        centre=4.0,
    )


def is_there(of: Projection, scale: float) -> bool:
    """Whether a dense decomposition of ``W W^T`` has an intruder."""
    matrix = of.base + scale * of.cross + scale**2 * of.update
    vectors = torch.linalg.eigh(matrix).eigenvectors[:, -of.k :]
    return bool(vectors.abs().amax(0).amin() < of.epsilon)


@pytest.mark.parametrize("octaves", [6, 13])
def test_a_window_far_below_the_centre_is_the_first_one(octaves: int) -> None:
    of = projection(4, 0)
    truth = next(scale for scale in (0.125 * 1.002**step for step in range(4000)) if is_there(of, scale))
    (start,) = first_starts([replace(of, centre=truth * 2**octaves)])
    assert start == pytest.approx(truth, rel=0.003)


def test_a_window_is_sought_from_a_scale_on() -> None:
    one = projection(2, 0)
    first = first_window(one)
    assert first is not None
    later = first_window(one, begin=3 * first.start)
    assert later is not None
    assert later.start >= 3 * first.start
    assert is_there(one, later.inside)
