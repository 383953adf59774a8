"""A dose for every direction of an update, by a dense decomposition; doses of another update are refused."""

from pathlib import Path

import pytest
import torch

from intruders.errors import SettingError
from intruders.mitigation.remedies.doses import Doses
from tests.checkpoints.models import tiny_llama
from tests.mitigation.hot import hot_sides, merged_from, mitigated

NAME = "model.layers.{}.self_attn.q_proj.weight"


def test_every_direction_has_its_dose_and_needs_one(tmp_path: Path) -> None:
    """``W0 + sum_i a_i d_i p_i q_i^T`` with d, p and q of D = W - W0, of rank 2 in the queries of two layers."""
    before, after = hot_sides(tmp_path, target_modules=["q_proj"])
    remedy = Doses(doses={NAME.format(layer): [0.25, -0.5] for layer in (0, 1)})
    mitigated(tmp_path, remedy=remedy, check=False)
    now = merged_from(tmp_path / "out", tiny_llama())
    for name in remedy.doses or {}:
        left, values, right = torch.linalg.svd((after[name] - before[name]).double())
        wanted = before[name].double() + left[:, :2] * values[:2] * torch.tensor([0.25, -0.5]) @ right[:2]
        torch.testing.assert_close(now[name].double(), wanted, atol=1e-5, rtol=1e-5)

    more = Doses(doses={NAME.format(layer): [1.0] * 3 for layer in (0, 1)})
    with pytest.raises(SettingError, match=r"has 3 doses of '.*', whose update has 2 directions"):
        mitigated(tmp_path, remedy=more, out=tmp_path / "none", check=False)
    assert not (tmp_path / "none").exists()
