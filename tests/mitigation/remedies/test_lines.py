"""LiNeS is arithmetic on the two state dicts, layer by layer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from intruders.mitigation.remedies.lines import Lines
from intruders.mitigation.remedies.remedy import Position
from tests.mitigation.remedies.conftest import Tuned


@pytest.mark.parametrize("kind", ["by_adapter", "in_full"])
def test_updates_grow_with_depth(tmp_path: Path, kind: str, request: pytest.FixtureRequest) -> None:
    tuned: Tuned = request.getfixturevalue(kind)
    found = tuned.after(Lines(0.2), tmp_path / "out")
    shares = [0.2, 0.2 + 0.8 / 3, 0.2 + 1.6 / 3, 1.0]
    for name, base in tuned.base.items():
        layer = re.search(r"layers\.(\d)", name)
        share = 0.2 if layer is None else shares[int(layer[1])]
        wanted = base + share * tuned.update(name)
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_a_single_layer_is_the_last_one() -> None:
    assert Lines(0.2).share(Position(0, 1)) == 1
    assert Lines(0.2).share(Position(None, 0)) == 0.2
