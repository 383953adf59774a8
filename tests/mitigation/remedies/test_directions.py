"""Rewound directions are those of two dense decompositions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from intruders.mitigation.remedies.directions import Directions
from tests.mitigation.remedies.conftest import Tuned


@pytest.mark.parametrize("kind", ["by_adapter", "in_full"])
@pytest.mark.parametrize("k", [3, 12, 100])
def test_leading_directions_are_the_bases_at_the_tuned_values(
    tmp_path: Path, kind: str, k: int, request: pytest.FixtureRequest
) -> None:
    """k above the size of a matrix takes all of them: what comes out is sum_i s_i x_i z_i^T."""
    tuned: Tuned = request.getfixturevalue(kind)
    found = tuned.after(Directions(k), tmp_path / "out")
    for name in tuned.matrices:
        x, _, z = torch.linalg.svd(tuned.base[name], full_matrices=False)
        y, s, v = torch.linalg.svd(tuned.tuned[name], full_matrices=False)
        if k < len(s):
            rewound = (x[:, :k] * s[:k]) @ z[:k] - (y[:, :k] * s[:k]) @ v[:k]
            wanted = tuned.tuned[name] + rewound
        else:
            wanted = (x * s) @ z
        torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-3 * float(s[0]))
