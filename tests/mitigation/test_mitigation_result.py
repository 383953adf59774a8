"""The share of the norm that is left, against the norm of all changed updates in one."""

from __future__ import annotations

import numpy as np
import pytest

from intruders.mitigation.mitigation_result import norm_left


def test_the_norm_is_that_of_all_matrices_together() -> None:
    rng = np.random.default_rng(0)
    before, after = (
        [rng.standard_normal((4, 3)) for _ in range(2)],
        [rng.standard_normal((4, 3)), np.zeros((4, 3))],
    )
    wanted = np.linalg.norm(np.stack(after)) / np.linalg.norm(np.stack(before))
    got = norm_left(map(np.linalg.norm, before), map(np.linalg.norm, after))
    assert got == pytest.approx(wanted, rel=1e-12)


def test_nothing_of_no_update_is_all_of_it() -> None:
    assert norm_left([], []) == norm_left([0.0], [0.0]) == 1.0
