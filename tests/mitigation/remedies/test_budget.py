"""The budget holds updates below the spiked threshold, which is where intruders begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from intruders.linalg.spiked_threshold import Spectrum, spiked_threshold
from intruders.mitigation.remedies.budget import Budget
from tests.mitigation.hot import places_of_intruders
from tests.mitigation.remedies.conftest import Tuned


@pytest.mark.parametrize(("kind", "kappa"), [("by_adapter", 0.5), ("by_adapter", 1.0), ("in_full", 1.0)])
def test_updates_are_scaled_to_their_thresholds(
    tmp_path: Path, kind: str, kappa: float, request: pytest.FixtureRequest
) -> None:
    tuned: Tuned = request.getfixturevalue(kind)
    found = tuned.after(Budget(kappa), tmp_path / "out")
    cut = 0
    for name in tuned.matrices:
        base, before = tuned.base[name], tuned.update(name)
        values = torch.linalg.svdvals(base)
        theta = spiked_threshold(Spectrum.of_values(values, (base.shape[0], base.shape[1]), 16), 10, 0.5)
        size = float(torch.linalg.matrix_norm(before, 2))
        after = found[name] - base
        assert float(torch.linalg.matrix_norm(after, 2)) <= kappa * theta * (1 + 1e-3) + 1e-6
        torch.testing.assert_close(after, min(1.0, kappa * theta / size) * before, rtol=1e-3, atol=1e-5)
        cut += kappa * theta < size
    assert cut > 0


def test_intruders_begin_about_there() -> None:
    """By dense decompositions: random rank-one updates well under the threshold bring none, well over it all do."""
    m, n = 120, 160
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(m, n, dtype=torch.float64, generator=generator)
    theta = spiked_threshold(Spectrum.of_values(torch.linalg.svdvals(base), (m, n), 24), 10, 0.5)
    counts = {0.8: 0, 1.3: 0}
    for _ in range(6):
        u = torch.nn.functional.normalize(torch.randn(m, 1, dtype=torch.float64, generator=generator), dim=0)
        v = torch.nn.functional.normalize(torch.randn(1, n, dtype=torch.float64, generator=generator), dim=1)
        for factor in counts:
            counts[factor] += len(places_of_intruders(base, base + factor * theta * u @ v)) > 0
    assert counts[0.8] <= 1
    assert counts[1.3] >= 5
