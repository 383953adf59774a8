"""Tuned matrices in their base's coordinates, compared with numpy's dense decompositions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from intruders.linalg.coordinates import Coordinates, SecularProblem
from intruders.linalg.low_rank import LowRank
from intruders.linalg.secular import leading_vectors
from intruders.linalg.whole_base import WholeBase, columns_times, times_columns
from tests.matrices import SPECTRA, Array, ugly, with_values

SHAPES = [(40, 40), (60, 40), (40, 60)]
Problem = tuple[Array, Array, Array]  # a base, and the two factors of its update


def in_coordinates(base: Array, left: Array, right: Array) -> Coordinates:
    """Of one matrix, everything in double precision."""
    update = LowRank(torch.from_numpy(left).unsqueeze(0), torch.from_numpy(right).unsqueeze(0))
    return Coordinates.of(WholeBase.of(torch.from_numpy(base).unsqueeze(0)), update.svd)


def planted(shape: tuple[int, int], spectrum: str, rank: int, seed: int) -> Problem:
    (m, n), rng = shape, np.random.default_rng(seed)
    base = with_values(m, n, SPECTRA[spectrum](min(shape), rng), rng)
    return base, rng.standard_normal((m, rank)), rng.standard_normal((rank, n)) * 10.0 ** rng.uniform(-3, 1)


SEEDS = st.integers(0, 2**32 - 1)
PROBLEMS = st.builds(planted, st.sampled_from(SHAPES), st.sampled_from([*SPECTRA]), st.integers(1, 5), SEEDS)


@given(PROBLEMS)
def test_the_matrix_in_coordinates_has_the_singular_values_of_the_tuned_one(made: Problem) -> None:
    base, left, right = made
    coordinates, count = in_coordinates(base, left, right), min(base.shape)
    size, update = coordinates.size, coordinates.update().dense()[0]
    diagonal = torch.zeros_like(update)
    diagonal[:count, :count] = coordinates.values[0].diag()
    values = np.linalg.svd(base + left @ right, compute_uv=False)
    found = torch.linalg.svdvals(diagonal + update)[:count]
    np.testing.assert_allclose(found, values, atol=1e-7 * values[0])
    problem = coordinates.problem()
    whole = problem.apply(torch.eye(size, dtype=torch.float64).unsqueeze(0))[0]
    squares = np.linalg.eigvalsh(whole)[::-1][:count]
    np.testing.assert_allclose(squares, values**2, atol=1e-10 * values[0] ** 2)


@given(PROBLEMS)
def test_counts_that_are_sure_are_right(made: Problem) -> None:
    """At shifts anywhere, near eigenvalues, and at poles."""
    base, left, right = made
    problem = in_coordinates(base, left, right).problem()
    squares = np.linalg.svd(base + left @ right, compute_uv=False) ** 2
    rng = np.random.default_rng(0)
    near, poles = squares[:10] * (1 + 1e-9), problem.poles[0, :10].numpy()
    shifts = np.concatenate([squares[0] * rng.random(10), near, poles, poles * (1 + 1e-12)])
    counts, sure = problem.counts(torch.from_numpy(shifts).unsqueeze(0))
    for shift, count, is_sure in zip(shifts, counts[0].tolist(), sure[0].tolist(), strict=True):
        clear = np.abs(squares - shift).min() > 1e-11 * squares[0]
        if is_sure and clear:
            assert count == (squares > shift).sum()


@pytest.mark.parametrize("side", [140, 170])
@pytest.mark.parametrize("rank", [1, 4, 8])
@pytest.mark.parametrize("norm", [1.0, 1e4, 1e12])
@pytest.mark.parametrize("scale", [1.0, 1e-3, 50.0])
def test_a_base_of_zeros_has_finite_counts(side: int, rank: int, norm: float, scale: float) -> None:
    """At a shift of 0 too, which is at every pole, and the counts elsewhere are those of numpy's values."""
    rng = np.random.default_rng(rank)
    left, right = rng.standard_normal((side, rank)), rng.standard_normal((rank, side))
    left *= norm / np.linalg.norm(left @ right)
    coordinates = in_coordinates(np.zeros((side, side)), left, right)
    problem = coordinates.problem().at(torch.tensor([scale], dtype=torch.float64))
    squares = np.linalg.svd(scale * left @ right, compute_uv=False) ** 2
    between = [squares[0] * 2, *(np.sqrt(squares[: rank - 1] * squares[1:rank])), squares[rank - 1] / 2]
    counts, sure = problem.counts(torch.tensor([[*between, 0.0]], dtype=torch.float64))
    assert sure[0, :-1].all()
    assert counts[0, :-1].tolist() == list(range(rank + 1))
    found = leading_vectors(problem, 10)
    np.testing.assert_allclose(found.values[0, :rank], np.sqrt(squares[:rank]), rtol=1e-9)


@given(PROBLEMS)
def test_proved_vectors_are_the_leading_ones(made: Problem) -> None:
    base, left, right = made
    found = leading_vectors(in_coordinates(base, left, right).problem(), 5)
    values = np.linalg.svd(base + left @ right, compute_uv=False)
    if bool(found.is_proved):
        np.testing.assert_allclose(found.values[0], values[:5], atol=1e-9 * values[0])
        assert values[5] <= float(found.floor) <= values[4]


def test_directions_that_nothing_leads_to_are_counted_as_missing() -> None:
    """The update's strongest direction has to do with base vectors far down only."""
    base = np.diag(np.linspace(1.0, 0.1, 60))
    left, right = np.zeros((60, 2)), np.zeros((2, 60))
    left[[50, 55], [0, 1]] = 3.0, 2.0
    right[[0, 1], [50, 55]] = 1.0, 1.0
    found = leading_vectors(in_coordinates(base, left, right).problem(), 5)
    assert bool(found.is_proved)
    expected = np.linalg.svd(base + left @ right, compute_uv=False)[:5]
    np.testing.assert_allclose(found.values[0], expected, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_whole_base_is_as_near_as_it_says(dtype: torch.dtype) -> None:
    for name, made in ugly().items():
        matrix = (made / made.abs().max().clamp_min(1e-300)).to(dtype)
        whole = WholeBase.of(matrix.unsqueeze(0))
        wide, left, right = matrix.double(), whole.left[0].double(), whole.right[0].double()
        slack = float(whole.off + whole.rounded * max(1.0, float(whole.values[0, 0])))
        again = (left * whole.values[0].unsqueeze(-1)).mT @ right
        assert float(torch.linalg.matrix_norm(again - wide, 2)) <= 2 * slack + 1e-12, name
        assert slack < 1e-6, name
        for rows in (left, right):
            nearest = torch.linalg.svd(rows, full_matrices=False)
            away = torch.linalg.matrix_norm(nearest.U @ nearest.Vh - rows, 2)
            assert float(away) <= float(whole.rounded) + 1e-12, name
        values = np.linalg.svd(wide, compute_uv=False)
        np.testing.assert_allclose(whole.values[0], values, atol=1e-12, err_msg=name)


# Rows of which the numbers at once, their least number, and the most numbers decide how many are a part.
@pytest.mark.parametrize(("p", "m"), [(600, 700), (200, 4000), (100, 30_000)])
def test_products_in_parts_are_those_in_one(p: int, m: int) -> None:
    rng = np.random.default_rng(2)
    rows = torch.from_numpy(rng.standard_normal((2, p, m))).float()
    columns = torch.from_numpy(rng.standard_normal((2, m, 3)))
    coordinates = torch.from_numpy(rng.standard_normal((2, p, 3)))
    for left in (rows, rows[:1].expand(2, -1, -1)):
        wide = left.double()
        np.testing.assert_allclose(times_columns(left, columns), wide @ columns, atol=1e-10)
        np.testing.assert_allclose(columns_times(left, coordinates), wide.mT @ coordinates, atol=1e-10)


def test_a_problem_without_a_finite_solve_gives_the_row_back() -> None:
    none = torch.zeros(1, 2, 4, dtype=torch.float64)
    problem = SecularProblem.of(none[:, 0], none)
    rows = torch.ones(1, 1, 4, dtype=torch.float64)
    assert problem.solve(torch.zeros(1, 1, dtype=torch.float64), rows).isfinite().all()
