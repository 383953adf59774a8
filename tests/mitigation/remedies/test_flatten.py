"""Flattening makes singular values equal and keeps a norm and the directions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from intruders.errors import SettingError
from intruders.mitigation.remedies.flatten import Flatten
from tests.mitigation.remedies.conftest import RANK, Tuned


@pytest.mark.parametrize("norm", ["nuclear", "frobenius"])
@pytest.mark.parametrize("factor", [1.0, 0.5])
def test_singular_values_become_equal_at_the_same_norm(
    tmp_path: Path, by_adapter: Tuned, norm: str, factor: float
) -> None:
    found = by_adapter.after(Flatten(factor, norm), tmp_path / "out")
    for name in by_adapter.matrices:
        before = by_adapter.update(name)
        u, d, v = torch.linalg.svd(before, full_matrices=False)
        after = found[name] - by_adapter.base[name]
        kind = "nuc" if norm == "nuclear" else "fro"
        wanted = factor * float(torch.linalg.matrix_norm(before, kind))
        assert float(torch.linalg.matrix_norm(after, kind)) == pytest.approx(wanted, rel=1e-5)
        level = wanted / (RANK if norm == "nuclear" else RANK**0.5)
        torch.testing.assert_close(after, level * u[:, :RANK] @ v[:RANK], rtol=1e-4, atol=1e-5)
        assert d[0] > 1.05 * d[RANK - 1]  # it was not flat before


def test_a_dense_update_is_refused(tmp_path: Path, in_full: Tuned) -> None:
    with pytest.raises(SettingError, match=r"remedy 'flatten' cannot change 'model.layers.0.*low rank"):
        in_full.after(Flatten(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
