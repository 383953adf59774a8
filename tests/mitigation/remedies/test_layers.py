"""The first layers are the base's, bit for bit, and the others the tuned model's."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from intruders.mitigation.remedies.layers import Layers
from intruders.mitigation.remedies.remedy import Position, positions_of
from tests.mitigation.remedies.conftest import Tuned


@pytest.mark.parametrize("quota", [0.25, 0.5])
def test_early_layers_embeddings_and_head_return_to_the_base(
    tmp_path: Path, in_full: Tuned, quota: float
) -> None:
    found = in_full.after(Layers(quota), tmp_path / "out")
    for name, base in in_full.base.items():
        layer = re.search(r"layers\.(\d)", name)
        returns = int(layer[1]) < 4 * quota if layer is not None else name != "model.norm.weight"
        assert torch.equal(found[name], base if returns else in_full.tuned[name]), name


def test_of_an_adapter_the_updates_of_early_layers_are_zero(tmp_path: Path, by_adapter: Tuned) -> None:
    found = by_adapter.after(Layers(0.5), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "intruders.json").read_text())
    assert {row["name"].split(".")[2] for row in record["matrices"]} == {"0", "1"}
    for name in by_adapter.matrices:
        if ".0." in name or ".1." in name:
            assert torch.equal(found[name], by_adapter.base[name])
        else:
            torch.testing.assert_close(found[name], by_adapter.tuned[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "quota", "first"), [(10, 0.3, 3), (10, 0.35, 3), (12, 0.25, 3), (3, 0.1, 0)]
)
def test_parts_of_layers_are_rounded_down(layers: int, quota: float, first: int) -> None:
    shares = [Layers(quota).share(Position(layer, layers)) for layer in range(layers)]
    assert shares == [0.0] * first + [1.0] * (layers - first)


def test_positions_count_every_stack_by_itself() -> None:
    found = positions_of(
        ["encoder.block.0.q.weight", "encoder.block.1.q.weight", "decoder.block.0.q.weight", "shared.weight"]
    )
    assert found["encoder.block.0.q.weight"] == Position(0, 2)
    assert found["decoder.block.0.q.weight"] == Position(0, 1)
    assert found["shared.weight"] == Position(None, 0, is_embedding_or_head=True)
