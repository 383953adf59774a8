"""Truncation is the best approximation of its rank (Eckart and Young)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from intruders.audits.audit import audited_whole
from intruders.audits.audit_settings import AS_USUAL
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.mitigation.remedies.truncate import Truncate
from intruders.mitigation.tuned_matrices import read_cases
from intruders.system.progress import silent
from tests.mitigation.remedies.conftest import NO_CACHE, Tuned


@pytest.mark.parametrize("kind", ["by_adapter", "in_full"])
@pytest.mark.parametrize("energy", [0.6, 0.9])
def test_the_fewest_leading_directions_that_hold_the_energy(
    tmp_path: Path, kind: str, energy: float, request: pytest.FixtureRequest
) -> None:
    tuned: Tuned = request.getfixturevalue(kind)
    found = tuned.after(Truncate(energy), tmp_path / "out")
    ranks = set()
    for name in tuned.matrices:
        u, d, v = torch.linalg.svd(tuned.update(name), full_matrices=False)
        shares = d.square().cumsum(0) / d.square().sum()
        kept = next(count for count in range(1, len(d) + 1) if shares[count - 1] >= energy - 1e-6)
        wanted = tuned.base[name] + (u[:, :kept] * d[:kept]) @ v[:kept]
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-5)
        error = float((found[name] - tuned.tuned[name]).norm())
        assert error == pytest.approx(float(d[kept:].square().sum().sqrt()), rel=1e-3, abs=1e-5)
        ranks.add(kept)
    assert max(ranks) > 1


def test_all_of_the_energy_changes_nothing(tmp_path: Path, by_adapter: Tuned) -> None:
    assert Truncate(1).changes_nothing
    found = by_adapter.after(Truncate(1), tmp_path / "out")
    for name in by_adapter.matrices:
        torch.testing.assert_close(found[name], by_adapter.tuned[name], rtol=1e-5, atol=1e-6)


def test_updates_of_which_every_term_stays_are_not_changed(by_adapter: Tuned) -> None:
    """As the single term of rank-one updates does at any energy; a comparison then says that the remedy is idle."""
    base, tuned = open_sides(by_adapter.folder / "base", by_adapter.folder / "tuned")
    pairing, audit, _ = audited_whole(base, tuned, AS_USUAL, NO_CACHE, silent)
    nearly_all = Truncate(1 - 1e-9)
    cases = list(read_cases(pairing.pairs, audit, [nearly_all], base.names(), torch.device("cpu")))
    assert len(cases) == len(by_adapter.matrices)
    assert all(nearly_all.change(case).keeps_all for case in cases)
    assert not any(Truncate(0.1).change(case).keeps_all for case in cases)
