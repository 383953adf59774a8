"""A dose for every direction of an update, by a dense decomposition; doses of another update are refused."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from intruders.errors import SettingError
from intruders.mitigation.mitigate import mitigate
from intruders.mitigation.remedies.doses import Doses
from tests.checkpoints.models import merged_weights, saved, tiny_llama
from tests.mitigation.hot import hot_llama, merged_from

NAME = "model.layers.{}.self_attn.q_proj.weight"


def both(folder: Path) -> tuple[Path, Path]:
    """Updates of rank 2 in the queries of two layers."""
    saved(tiny_llama(), folder / "base")
    saved(hot_llama(target_modules=["q_proj"]), folder / "tuned")
    return folder / "base", folder / "tuned"


def test_every_direction_has_its_dose(tmp_path: Path) -> None:
    """``W0 + sum_i a_i d_i p_i q_i^T`` with d, p and q of D = W - W0."""
    base, tuned = both(tmp_path)
    remedy = Doses(doses={NAME.format(layer): [0.25, -0.5] for layer in (0, 1)})
    mitigate(base, tuned, remedy=remedy, out=tmp_path / "out", check=False)
    plain = tiny_llama()
    before, after = plain.state_dict(), merged_weights(hot_llama(target_modules=["q_proj"]))
    now = merged_from(tmp_path / "out", copy.deepcopy(plain))
    for name in remedy.doses or {}:
        left, values, right = torch.linalg.svd((after[name] - before[name]).double())
        wanted = before[name].double() + left[:, :2] * values[:2] * torch.tensor([0.25, -0.5]) @ right[:2]
        torch.testing.assert_close(now[name].double(), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [3, 4])
def test_another_number_of_doses_than_of_directions_is_refused(count: int, tmp_path: Path) -> None:
    base, tuned = both(tmp_path)
    remedy = Doses(doses={NAME.format(layer): [1.0] * count for layer in (0, 1)})
    with pytest.raises(SettingError, match=rf"has {count} doses of '.*', whose update has 2 directions"):
        mitigate(base, tuned, remedy=remedy, out=tmp_path / "out", check=False)
    assert not (tmp_path / "out").exists()
