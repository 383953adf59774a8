"""Directions of the base that are rewound to, or that updates are taken off, by dense decompositions."""

from pathlib import Path

import pytest
import torch

from intruders.engine.components import leading_components
from intruders.linalg.operators import Dense
from intruders.mitigation.remedies.base_directions import Directions, Project
from tests.mitigation.remedies.conftest import Tuned


@pytest.mark.parametrize("k", [3, 12, 100])
def test_leading_directions_are_the_bases_at_the_tuned_values(tmp_path: Path, k: int, of_each: Tuned) -> None:
    """k above the size of a matrix takes all of them: what comes out is sum_i s_i x_i z_i^T."""
    found = of_each.after(Directions(k), tmp_path / "out")
    for name in of_each.matrices:
        x, _, z = torch.linalg.svd(of_each.base[name], full_matrices=False)
        y, s, v = torch.linalg.svd(of_each.tuned[name], full_matrices=False)
        if k < len(s):
            rewound = (x[:, :k] * s[:k]) @ z[:k] - (y[:, :k] * s[:k]) @ v[:k]
            wanted = of_each.tuned[name] + rewound
        else:
            wanted = (x * s) @ z
        torch.testing.assert_close(found[name], wanted, rtol=1e-3, atol=1e-3 * float(s[0]))


K = 5


def test_leading_triplets_of_the_base_stay(tmp_path: Path, of_each: Tuned) -> None:
    found = of_each.after(Project(K), tmp_path / "out")
    for name in of_each.matrices:
        x, values, z = torch.linalg.svd(of_each.base[name], full_matrices=False)
        x, values, z = x[:, :K], values[:K], z[:K]
        # The written weights are of single precision.
        limit = 1e-5 * float(values[0])
        assert float((found[name] @ z.mT - x * values).abs().max()) < limit
        assert float((found[name].mT @ x - z.mT * values).abs().max()) < limit
        left, right = torch.eye(len(x)).double() - x @ x.mT, torch.eye(z.shape[1]).double() - z.mT @ z
        wanted = of_each.base[name] + left @ of_each.update(name) @ right
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)
        assert float((wanted - of_each.tuned[name]).norm()) > 1e-2  # there was something to take off


def test_vectors_of_large_matrices_are_found_as_closely() -> None:
    """Large enough for the Krylov method: as triplets, not only as a space."""
    generator = torch.Generator().manual_seed(4)
    u, v = (
        torch.linalg.qr(torch.randn(side, 260, generator=generator, dtype=torch.float64))[0]
        for side in (260, 300)
    )
    values = 10.0 / (1 + torch.arange(260, dtype=torch.float64))
    matrix = (u * values) @ v.mT
    part = leading_components(Dense(matrix), 16, 1e-9)
    torch.testing.assert_close(part.values, values[:16], rtol=1e-9, atol=0)
    assert float((matrix @ part.right.mT - part.left.mT * part.values).abs().max()) < 1e-8
    assert float((matrix.mT @ part.left.mT - part.right.mT * part.values).abs().max()) < 1e-8
