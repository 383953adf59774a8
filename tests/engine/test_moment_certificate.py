"""The moment certificate of tuned vectors beside computed base vectors that are not exact."""

import numpy as np
import pytest
import torch

from intruders.engine.moment_certificate import bound_by_moments
from intruders.linalg.operators import Dense
from tests.matrices import orthonormal_columns

from .wrong_decisions import PLACES, search, triplets

SIZE, COMPUTED = 48, 4
HADAMARD = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2


@pytest.mark.parametrize("apart", [1e-5, 3e-5, 1e-4])
@pytest.mark.parametrize("shape", [(SIZE, SIZE), (80, SIZE), (SIZE, 80)], ids=str)
def test_errors_of_computed_vectors_do_not_hide_a_neighbour(shape: tuple[int, int], apart: float) -> None:
    """y has a cosine of 0.55 with one of four base vectors just beyond the computed ones, which lean into all four.

    With the computed vectors projected out at every step the recursion would see mixes of the four in their place, and
    y has a cosine of 0.275 with each of them.
    """
    rng = np.random.default_rng(0)
    leading, plateau, tail = np.split(np.arange(SIZE), [COMPUTED, 2 * COMPUTED])
    values = np.empty(SIZE)
    values[leading], values[plateau] = [1.0, 0.9, 0.75, 0.55], 0.3 - apart * np.arange(COMPUTED)
    values[tail] = np.linspace(0.25, 0.05, len(tail))
    x, v = (orthonormal_columns(side, SIZE, rng) for side in shape)
    matrix = (x * values) @ v.T
    leaning = x[:, leading] + 0.0195 * x[:, plateau] @ HADAMARD
    leaning /= np.linalg.norm(leaning, axis=0)
    base = triplets(matrix, leaning, values[leading], np.full(COMPUTED, 0.0196))
    y = 0.55 * x[:, plateau[1]] + ((1 - 0.55**2) / len(tail)) ** 0.5 * x[:, tail].sum(1)
    tuned = triplets(matrix, y[:, None], np.array([2.0]), np.zeros(1))
    operator, undecided = Dense(torch.from_numpy(matrix).float().unsqueeze(0)), torch.ones(1, 1).bool()
    bounds, _ = bound_by_moments(operator, base, tuned, undecided, 0.5, torch.zeros(1).double())
    assert bounds.upper.item() >= 0.55 - 1e-4


def test_no_wrong_decision_among_plateaus() -> None:
    """``python -m tests.engine.wrong_decisions`` searches on."""
    found = search(range(32))
    assert found["wrong"] == 0
    assert min(found[place] for place in PLACES) > 0
    # It is a search only where bounds come near the truth.
    assert found["closest"] > 15
