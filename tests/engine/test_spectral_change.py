"""How leading subspaces move, against numpy's dense decompositions in double precision."""

import numpy as np
import pytest
import torch

from intruders.engine.decide import decide
from intruders.engine.spectral_change import ANGLE_ERROR, SHARE_ERROR, SpectralChange
from tests.matrices import SPECTRA, UPDATES, Array, PlantedPair, batch_of, with_values

K = 10
# The Krylov path, all vectors of the base by a dense one, and two dense decompositions.
SHAPES = [(300, 260), (140, 200), (60, 40)]


def squared_sines(first: Array, second: Array) -> Array:
    """Of the principal angles between two spaces, given by orthonormal columns."""
    return np.linalg.svd(second - first @ (first.T @ second), compute_uv=False).clip(0, 1) ** 2


def truth(pair: PlantedPair) -> dict[str, float]:
    base, tuned = np.asarray(pair.base.double()), pair.tuned_double()
    update = tuned - base
    x, before, zt = np.linalg.svd(base, full_matrices=False)
    y, after, vt = np.linalg.svd(tuned, full_matrices=False)
    x, z, y, v = x[:, :K], zt[:K].T, y[:, :K], vt[:K].T
    left, right = squared_sines(x, y), squared_sines(z, v)
    outside = update - x @ (x.T @ update)
    outside = outside - (outside @ z) @ z.T
    total = np.linalg.norm(update) ** 2
    return {
        "rotation_left_angle": np.degrees(np.arcsin(np.sqrt(left.max()))),
        "rotation_left_sine2": left.mean(),
        "rotation_right_angle": np.degrees(np.arcsin(np.sqrt(right.max()))),
        "rotation_right_sine2": right.mean(),
        "spectral_drift": np.linalg.norm(after[:K] - before[:K]) / np.linalg.norm(before[:K]),
        "rho_k": np.linalg.norm(x.T @ update) ** 2 / total,
        "off_principal": np.linalg.norm(outside) ** 2 / total,
    }


def check(pair: PlantedPair, found: SpectralChange, index: int = 0) -> int:
    """Whatever is said is right to its tolerance; gives how many numbers are said."""
    said = 0
    for name, value in truth(pair).items():
        told = float(getattr(found, name)[index])
        if np.isnan(told):
            continue
        said += 1
        most = np.degrees(np.arcsin(ANGLE_ERROR)) if name.endswith("angle") else SHARE_ERROR
        assert told == pytest.approx(value, abs=0.1 * value + 1e-3 if name == "spectral_drift" else most), (
            name
        )
    return said


@pytest.mark.parametrize("spectrum", SPECTRA)
def test_what_is_said_is_true_of_every_spectrum(spectrum: str) -> None:
    place = list(SPECTRA).index(spectrum)
    # Two of the five updates each, on the Krylov path and on one of the dense ones.
    for turn, (m, n) in enumerate((SHAPES[0], SHAPES[1 + place % 2])):
        update = list(UPDATES)[(place + 2 * turn) % len(UPDATES)]
        rng = np.random.default_rng(100 * place + turn)
        base = with_values(m, n, SPECTRA[spectrum](min(m, n), rng), rng)
        pair = UPDATES[update](base, rng)
        check(pair, decide(pair.batch(), K, 0.5).change)


@pytest.mark.parametrize("shape", [*SHAPES, (260, 300)])
def test_all_is_said_where_the_leading_values_stand_apart(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([np.linspace(5, 2, K), np.linspace(1, 0.01, min(shape) - K)])
    made = [UPDATES["low-rank"](with_values(*shape, values, rng), rng) for _ in range(2)]
    pairs = [PlantedPair(one.base, torch.from_numpy(one.tuned_double()).float()) for one in made]
    found = decide(batch_of(pairs), K, 0.5).change
    assert [check(pair, found, index) for index, pair in enumerate(pairs)] == [7, 7]


def test_a_space_that_the_matrix_leaves_open_is_not_said() -> None:
    rng = np.random.default_rng(0)
    base = with_values(300, 260, SPECTRA["all equal"](260, rng), rng)
    found = decide(UPDATES["hot"](base, rng).batch(), K, 0.5).change
    for name in (
        "rotation_left_angle",
        "rotation_left_sine2",
        "rotation_right_sine2",
        "rho_k",
        "off_principal",
    ):
        assert np.isnan(float(getattr(found, name)[0])), name
