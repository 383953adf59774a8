"""Heads that return to the base, against the attention of models put together by hand."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from intruders.mitigation.remedies.heads import Heads
from tests.checkpoints.models import moved, saved, tiny_bert
from tests.mitigation.remedies.conftest import Tuned

GROUPS = 2  # of keys and values; hidden size 16, four query heads of size 4


@pytest.mark.parametrize("quota", [0.25, 0.5, 1.0])
def test_the_least_changed_heads_return(tmp_path: Path, quota: float, of_each: Tuned) -> None:
    found = of_each.after(Heads(quota), tmp_path / "out")

    def cut(weights: dict[str, Tensor], layer: int, group: int) -> list[Tensor]:
        """Views of what belongs to two query heads with their key and value."""
        q, k, v, o = (weights[f"model.layers.{layer}.self_attn.{kind}_proj.weight"] for kind in "qkvo")
        pair, one = slice(8 * group, 8 * group + 8), slice(4 * group, 4 * group + 4)
        return [q[pair], k[one], v[one], o[:, pair]]

    def size(weights: dict[str, Tensor], head: tuple[int, int]) -> float:
        return float(torch.cat([part.flatten() for part in cut(weights, *head)]).norm())

    updates = {name: of_each.update(name) for name in of_each.base}
    heads = [(layer, group) for layer in range(4) for group in range(GROUPS)]
    heads.sort(key=lambda head: size(updates, head) / size(of_each.base, head))
    by_hand = {name: weight.clone() for name, weight in of_each.tuned.items()}
    for head in heads[: int(quota * 8)]:
        for part, base in zip(cut(by_hand, *head), cut(of_each.base, *head), strict=True):
            part.copy_(base)
    for name, wanted in by_hand.items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5)


def test_the_names_of_bert_are_known(tmp_path: Path) -> None:
    base = tiny_bert()
    saved(base, tmp_path / "base")
    tuned = moved(copy.deepcopy(base), 0.05, 2)
    saved(tuned, tmp_path / "tuned")
    before, after = base.state_dict(), tuned.state_dict()
    wide = [{name: tensor.double() for name, tensor in state.items()} for state in (before, after)]
    found = Tuned(tmp_path, base, *wide).after(Heads(1), tmp_path / "out")
    for name, weight in found.items():
        is_of_attention = ".attention." in name and weight.dim() == 2
        torch.testing.assert_close(weight.float(), before[name] if is_of_attention else after[name])
