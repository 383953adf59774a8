"""The side of a weight that a ``dora_scale`` is for, by the shapes that LyCORIS and PEFT give it."""

from __future__ import annotations

import pytest
import torch

from intruders.checkpoints.adapters.kohya import dora_is_per_input
from intruders.checkpoints.formats.memory import state_dict_checkpoint
from intruders.checkpoints.stored.checkpoint import StoredTensor

Shape = tuple[int, ...]
LINEAR, KERNEL = ((2, 4), (6, 2)), ((2, 4, 3, 3), (6, 2, 1, 1))
SQUARE_KERNEL = ((2, 8, 3, 3), (8, 2, 1, 1))


def module(factors: tuple[Shape, Shape], scale: Shape) -> dict[str, StoredTensor]:
    shapes = {"down": factors[0], "up": factors[1], "dora_scale": scale}
    return dict(state_dict_checkpoint({part: torch.ones(shape) for part, shape in shapes.items()}).tensors)


@pytest.mark.parametrize(
    ("modules", "expected"),
    [
        ([(LINEAR, (1, 4))], True),
        ([(KERNEL, (1, 4, 1, 1))], True),
        ([(KERNEL, (1, 6, 1, 1))], False),
        ([(LINEAR, (6,))], False),
        ([(SQUARE_KERNEL, (1, 8, 1, 1))], None),
        ([(SQUARE_KERNEL, (1, 8, 1, 1)), (LINEAR, (1, 4))], True),
        ([(LINEAR, (6,)), (LINEAR, (1, 4))], None),
        ([(LINEAR, (6, 1))], None),
        ([(LINEAR, ())], None),
    ],
)
def test_what_the_modules_of_a_file_tell(
    modules: list[tuple[tuple[Shape, Shape], Shape]], expected: bool | None
) -> None:
    assert dora_is_per_input([module(factors, scale) for factors, scale in modules]) is expected
