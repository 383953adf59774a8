"""Intervals of the max cosine, from triplets whose errors are known because they were put there.

The claim: if every computed vector is within its angle of the true one, the max cosine lies in the interval.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intruders.linalg.overlap import MomentIntervals, overlap_intervals, remainders
from intruders.linalg.ritz import Triplets
from tests.matrices import Array, orthonormal_columns

SIZE, COMPUTED, COUNT = 24, 8, 4


def triplets(left: Array, values: Array, angles: Array) -> Triplets:
    """Vectors as columns of ``left`` into a batch of one matrix."""
    rows = torch.from_numpy(left.T.copy()).unsqueeze(0)
    return Triplets(
        torch.from_numpy(values.copy()).unsqueeze(0),
        rows,
        rows,
        torch.zeros(1, len(values), dtype=torch.float64),
        torch.from_numpy(np.asarray(angles, dtype=np.float64)).unsqueeze(0),
    )


AXES = np.eye(20)


def axes(*values: float, errors: Array | float = 0.0) -> Triplets:
    """Vectors of these values that are the first axes."""
    return triplets(AXES[:, : len(values)], np.array(values), np.zeros(len(values)) + errors)


def one(y: Array) -> Triplets:
    """A tuned vector without an error."""
    return triplets(y[:, None], np.array([3.0]), np.zeros(1))


def turned(true: Array, size: float, rng: np.random.Generator) -> tuple[Array, Array]:
    """Orthonormal columns a little away from given ones, and the sines of the angles between."""
    moved, _ = np.linalg.qr(true + size * rng.standard_normal(true.shape) / len(true) ** 0.5)
    moved = moved * np.sign((moved * true).sum(0))
    return moved, np.linalg.norm(moved - true * (moved * true).sum(0), axis=0) + 1e-12


@st.composite
def situations(draw: st.DrawFn) -> tuple[Triplets, Triplets, Array]:
    """Computed base and tuned triplets with honest angles, and the true max cosines of the tuned vectors."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = orthonormal_columns(SIZE, SIZE, rng)
    concentration = draw(st.floats(0.0, 3.0))  # how much of y the computed base vectors hold
    weights = rng.standard_normal((SIZE, COUNT))
    weights[:COMPUTED] *= 10**concentration * rng.uniform(0, 1, (COMPUTED, 1))
    y, _ = np.linalg.qr(x @ weights)
    size = draw(st.sampled_from([0.0, 1e-4, 1e-2, 0.05, 0.3]))
    computed_x, base_angles = turned(x[:, :COMPUTED], size, rng)
    computed_y, tuned_angles = turned(y, draw(st.sampled_from([0.0, 1e-3, 1e-2, 0.1])), rng)
    base = triplets(computed_x, np.linspace(2.0, 1.0, COMPUTED), base_angles)
    tuned = triplets(computed_y, np.linspace(3.0, 2.0, COUNT), tuned_angles)
    return base, tuned, np.abs(x.T @ y).max(0)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-3, 0.05]))
def test_with_all_base_vectors_there_is_no_rest(seed: int, size: float) -> None:
    """Half of the space belongs to no base vector, as for a tall matrix; what y has there is none's."""
    rng = np.random.default_rng(seed)
    x = orthonormal_columns(SIZE, SIZE, rng)
    y = orthonormal_columns(SIZE, COUNT, rng)
    computed_y, tuned_angles = turned(y, size, rng)
    base = triplets(x[:, : SIZE // 2], np.linspace(2.0, 1.0, SIZE // 2), np.zeros(SIZE // 2))
    tuned = triplets(computed_y, np.linspace(3.0, 2.0, COUNT), tuned_angles)
    truth = np.abs(x[:, : SIZE // 2].T @ y).max(0)
    found = overlap_intervals(base, tuned, COUNT, is_complete=True)
    lower, upper = found.lower[0].numpy(), found.upper[0].numpy()
    assert (lower <= truth + 1e-9).all()
    assert (upper >= truth - 1e-9).all()
    if size == 0:
        np.testing.assert_allclose(upper, truth, atol=1e-5)


@given(situations())
def test_the_max_cosine_lies_in_the_interval(situation: tuple[Triplets, Triplets, Array]) -> None:
    """Also with the heaviest atom of the rest: its mass along any base vector is what the moment certificate bounds."""
    base, tuned, truth = situation
    # Along any unit vector there is no more than all of it.
    atom = remainders(base, tuned, COUNT).square().sum(-1)
    for found in (overlap_intervals(base, tuned, COUNT), MomentIntervals.of(base, tuned, COUNT).given(atom)):
        assert (found.lower[0].numpy() <= truth + 1e-9).all()
        assert (found.upper[0].numpy() >= truth - 1e-9).all()


def test_errors_that_all_point_at_one_vector_add_up() -> None:
    """Every computed base vector leans a little towards the same one that was not computed, and y along all."""
    count, lean = 16, 0.02
    x = np.eye(40)
    leaning = x[:, :count] + lean * x[:, [count]]
    # Orthonormal vectors as near to these as there are: they lean nearly as much, all of them.
    u, _, vt = np.linalg.svd(leaning, full_matrices=False)
    computed = u @ vt
    angles = np.linalg.norm(computed - x[:, :count] * np.diagonal(computed), axis=0) + 1e-12
    y = (computed.sum(1) * 0.2)[:, None] + 0.6 * x[:, [-1]]
    y /= np.linalg.norm(y)
    base = triplets(computed, np.linspace(2, 1, count), angles)
    tuned = one(y[:, 0])
    missed = abs(y[count, 0])  # cosine with the vector that was not computed
    left_there = remainders(base, tuned, 1)[..., count].abs()
    assert missed - left_there.item() > 0.04
    assert MomentIntervals.of(base, tuned, 1).given(left_there.square()).upper.item() >= missed - 1e-9


@pytest.mark.parametrize("spread", [2, 3, 4, 5, 8])
def test_certificates_by_hand(spread: int) -> None:
    """y an equal mix of computed base vectors, without errors: both ends are 1 / sqrt(spread)."""
    found = overlap_intervals(axes(*np.linspace(2, 1, 8)), one(AXES[:, :spread].sum(1) / spread**0.5), 1)
    assert found.lower.item() == pytest.approx(spread**-0.5, abs=1e-7)
    assert found.upper.item() == pytest.approx(spread**-0.5, abs=1e-7)


def test_what_was_not_computed_may_hold_the_rest() -> None:
    base, tuned = axes(*np.linspace(2, 1, 4)), one(0.6 * AXES[:, 0] + 0.8 * AXES[:, 9])
    found = overlap_intervals(base, tuned, 1)
    assert (found.lower.item(), found.upper.item()) == (pytest.approx(0.6), pytest.approx(0.8))
    small = torch.full((1, 1), 0.01, dtype=torch.float64)
    closed = MomentIntervals.of(base, tuned, 1).given(small)
    assert (closed.lower.item(), closed.upper.item()) == (pytest.approx(0.6), pytest.approx(0.6))


def test_a_base_cluster_counts_through_its_space() -> None:
    """Two base vectors of one value: the max cosine is 1 or 1 / sqrt(2), as they are chosen."""
    found = overlap_intervals(axes(2.0, 1.0, 1.0, 0.5), one((AXES[:, 1] + AXES[:, 2]) / 2**0.5), 1)
    assert (found.lower.item(), found.upper.item()) == (pytest.approx(0.5**0.5), pytest.approx(1.0))


def test_errors_of_a_clusters_vectors_in_one_direction_add_up() -> None:
    """Both computed vectors lean the same way out of span(e1, e2), so their space leans by root two of each angle."""
    lean, away = math.radians(1.6), math.radians(59.7)
    unit = np.eye(8)
    both, between = (unit[0] + unit[1]) / 2**0.5, (unit[0] - unit[1]) / 2**0.5
    moved = math.cos(lean) * both + math.sin(lean) * unit[2]
    base = np.stack([(moved + between) / 2**0.5, (moved - between) / 2**0.5], 1)
    sine = math.sin(lean) / 2**0.5
    tuned = math.cos(away) * both - math.sin(away) * unit[2]
    found = MomentIntervals.of(triplets(base, np.ones(2), np.array([sine, sine])), one(tuned), 1)
    truth = np.linalg.norm(tuned[:2])  # with the true space
    assert truth == pytest.approx(math.cos(away))
    assert float(found.upper) >= truth - 1e-9


def test_a_cluster_known_in_part_says_nothing() -> None:
    """One of the two is computed badly: what y has there cannot be told from what it has elsewhere."""
    base = axes(2.0, 1.0, 1.0, 0.5, errors=np.array([0.0, 0.0, 0.5, 0.0]))
    y = 0.4 * AXES[:, 1] + 0.4 * AXES[:, 2] + 0.68**0.5 * AXES[:, 9]
    found = overlap_intervals(base, one(y), 1)
    assert found.lower.item() == pytest.approx(0.0)
    assert found.upper.item() >= 0.68**0.5


def test_a_tuned_cluster_is_bounded_for_every_choice() -> None:
    """Two tuned vectors of one value, each an axis: turned by 45 degrees their max cosine is 1 / sqrt(2)."""
    found = overlap_intervals(axes(2.0, 1.5, 1.0, 0.5), axes(3.0, 3.0), 2)
    assert (found.lower <= 0.5**0.5).all()
    torch.testing.assert_close(found.upper, torch.ones(1, 2, dtype=torch.float64))
