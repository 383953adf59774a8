"""Interpolation is arithmetic on the two state dicts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from intruders.mitigation.remedies.interpolate import Interpolate
from tests.mitigation.remedies.conftest import RANK, Tuned


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_every_weight_of_a_full_fine_tuning_is_interpolated(
    tmp_path: Path, in_full: Tuned, alpha: float
) -> None:
    """Embeddings and norms among them."""
    found = in_full.after(Interpolate(alpha), tmp_path / "out")
    assert found.keys() == in_full.base.keys()
    for name, base in in_full.base.items():
        wanted = ((1 - alpha) * base + alpha * in_full.tuned[name]).float()
        torch.testing.assert_close(found[name].float(), wanted, rtol=1e-7, atol=1e-9)
        if alpha in (0, 1):
            assert torch.equal(found[name], base if alpha == 0 else in_full.tuned[name])  # bit for bit


def test_an_adapter_stays_one_of_its_rank(tmp_path: Path, by_adapter: Tuned) -> None:
    found = by_adapter.after(Interpolate(0.3), tmp_path / "out")
    for name in by_adapter.matrices:
        wanted = by_adapter.base[name] + 0.3 * by_adapter.update(name)
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)
        assert torch.linalg.matrix_rank(found[name] - by_adapter.base[name], rtol=1e-4) == RANK


def test_without_its_update_an_adapter_gives_the_base_to_the_bit(tmp_path: Path, by_adapter: Tuned) -> None:
    found = by_adapter.after(Interpolate(0), tmp_path / "out")
    merged = by_adapter.after(Interpolate(0), tmp_path / "merged", form="checkpoint")
    for name, base in by_adapter.base.items():
        assert torch.equal(found[name], base)
        assert torch.equal(merged[name], base)


def test_excluded_weights_stay_as_tuned(tmp_path: Path, in_full: Tuned) -> None:
    from intruders.audits.audit_settings import AuditSettings

    settings = AuditSettings(exclude=("*norm*", "*.0.*"))
    found = in_full.after(Interpolate(0), tmp_path / "out", audit=settings)
    for name, base in in_full.base.items():
        is_excluded = "norm" in name or ".0." in name
        assert torch.equal(found[name], in_full.tuned[name] if is_excluded else base), name
