"""Generators of random numbers go on as if the block between had drawn nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from intruders.system.random_state import random_state_kept


def _drawn() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("on_all_devices", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_a_block_that_draws_and_seeds_changes_no_later_draw(on_all_devices: bool, fails: bool) -> None:
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    expected = [_drawn(), _drawn()]
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(7)
    first = _drawn()
    try:
        with random_state_kept(on_all_devices=on_all_devices):
            _drawn()
            torch.manual_seed(0)
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert [first, _drawn()] == expected
