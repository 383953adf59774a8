"""Which vectors are computed more closely until a decision is safe: cases by hand, with angles in degrees."""

import math

import pytest
import torch
from torch import Tensor

from intruders.engine.certificates import needed_more_closely, with_neighbours
from intruders.linalg.ritz import Triplets

EPSILON = 0.5  # 60 degrees


def triplets(left: Tensor, errors: list[float]) -> Triplets:
    """Vectors whose distances from the true ones are known, as angles in degrees."""
    rows = left.float().unsqueeze(0)
    angles = torch.tensor([[math.sin(math.radians(error)) for error in errors]])
    values = torch.arange(len(errors), 0, -1).float().unsqueeze(0)
    return Triplets(values, rows, rows, torch.zeros_like(angles), angles)


def at(degrees: float) -> list[float]:
    """A unit vector in the plane of the first two coordinates, at this angle from the first."""
    return [math.cos(math.radians(degrees)), math.sin(math.radians(degrees)), 0.0]


def needed(
    degrees: float, base_error: float, tuned_error: float, is_complete: bool, is_open: bool = True
) -> tuple[bool, bool]:
    """Whether a base vector, and a tuned vector at that angle from it, are wanted more closely."""
    base = triplets(torch.tensor([at(0)]), [base_error])
    tuned = triplets(torch.tensor([at(degrees)]), [tuned_error])
    of_base, of_tuned = needed_more_closely(base, tuned, torch.tensor([[is_open]]), EPSILON, is_complete)
    return bool(of_base.item()), bool(of_tuned.item())


@pytest.mark.parametrize(
    ("degrees", "base_error", "tuned_error", "is_complete", "wanted"),
    [
        # 30 degrees lie 30 from epsilon: each of the two may be off by the half of it.
        (30, 14, 14, False, (False, False)),
        (30, 16, 14, False, (True, False)),
        (30, 14, 16, False, (False, True)),
        # At 59 degrees half a degree is left to each.
        (59, 0.4, 0.6, False, (False, True)),
        (59, 0.6, 0.4, False, (True, False)),
        # Near epsilon more than a sine of 0.001 is never asked for.
        (60, 0.05, 0.05, False, (False, False)),
        (60, 0.06, 0.06, False, (True, True)),
        # A vector near none may be an intruder: it is computed to a sine of 0.02 (1.15 degrees) however far it is.
        (85, 30, 1.1, False, (True, False)),
        (85, 30, 1.2, False, (True, True)),
        (85, 1.1, 1.1, False, (False, False)),
        # Of a base that is known whole no vector is left over that a bound would have to cover: the distance counts.
        (85, 12, 12, True, (False, False)),
        (85, 12, 13, True, (False, True)),
    ],
)
def test_the_nearer_a_cosine_is_to_epsilon_the_more_closely_both_are_wanted(
    degrees: float, base_error: float, tuned_error: float, is_complete: bool, wanted: tuple[bool, bool]
) -> None:
    assert needed(degrees, base_error, tuned_error, is_complete) == wanted
    assert needed(degrees, base_error, tuned_error, is_complete, is_open=False) == (False, False)


def test_base_vectors_with_a_component_that_counts_are_wanted_and_others_are_not() -> None:
    """A possible intruder with cosines 0.4, 0.16 and 0.14: below 0.15, three tenths of epsilon, none matters."""
    base = triplets(torch.eye(4)[:3], [5.0, 5.0, 5.0])
    rest = math.sqrt(1 - 0.4**2 - 0.16**2 - 0.14**2)
    tuned = triplets(torch.tensor([[0.4, 0.16, 0.14, rest]]), [0.5])
    of_base, of_tuned = needed_more_closely(base, tuned, torch.tensor([[True]]), EPSILON, False)
    assert of_base.tolist() == [[True, True, False]]
    assert of_tuned.tolist() == [[False]]


def test_loose_vectors_before_a_wanted_one_are_wanted_too() -> None:
    wanted = torch.tensor([[False, False, True, False], [False, False, False, False]])
    angles = torch.tensor([[0.9, 0.001, 0.5, 0.9], [0.9, 0.9, 0.9, 0.9]])
    assert with_neighbours(wanted, angles).tolist() == [[True, False, True, False], [False] * 4]
