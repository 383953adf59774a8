"""Shares of updates by position are arithmetic on the two state dicts."""

import re
from pathlib import Path

import pytest
import torch

from intruders.audits.audit_settings import AuditSettings
from intruders.mitigation.remedies.remedy import Position, positions_of
from intruders.mitigation.remedies.shares import Interpolate, Layers, Lines
from tests.mitigation.remedies.conftest import Tuned


@pytest.mark.parametrize(
    ("kind", "form", "alpha"),
    [
        ("by_adapter", "adapter", 0),
        ("by_adapter", "checkpoint", 0),
        ("in_full", "checkpoint", 0),
        ("in_full", "checkpoint", 1),
    ],
)
def test_at_either_end_every_weight_is_that_of_a_side_to_the_bit(
    tmp_path: Path, kind: str, form: str, alpha: int, request: pytest.FixtureRequest
) -> None:
    """Embeddings and norms among them."""
    sides: Tuned = request.getfixturevalue(kind)
    found = sides.after(Interpolate(alpha), tmp_path / "out", form=form)
    for name, tensor in (sides.tuned if alpha else sides.base).items():
        assert torch.equal(found[name], tensor)


def test_excluded_weights_stay_as_tuned(tmp_path: Path, in_full: Tuned) -> None:
    audit = AuditSettings(exclude=("*norm*", "*.0.*"))
    found = in_full.after(Interpolate(0), tmp_path / "out", audit=audit)
    for name, base in in_full.base.items():
        is_excluded = "norm" in name or ".0." in name
        assert torch.equal(found[name], in_full.tuned[name] if is_excluded else base), name


def test_updates_grow_with_depth(tmp_path: Path, of_each: Tuned) -> None:
    found = of_each.after(Lines(0.2), tmp_path / "out")
    shares = [0.2, 0.2 + 0.8 / 3, 0.2 + 1.6 / 3, 1.0]
    for name, base in of_each.base.items():
        layer = re.search(r"layers\.(\d)", name)
        share = 0.2 if layer is None else shares[int(layer[1])]
        wanted = base + share * of_each.update(name)
        torch.testing.assert_close(found[name], wanted, rtol=1e-5, atol=1e-6)


def test_a_single_layer_is_the_last_one() -> None:
    assert Lines(0.2).share(Position(0, 1)) == 1
    assert Lines(0.2).share(Position(None, 0)) == 0.2


@pytest.mark.parametrize("quota", [0.25, 0.5])
def test_early_layers_embeddings_and_head_return(tmp_path: Path, in_full: Tuned, quota: float) -> None:
    found = in_full.after(Layers(quota), tmp_path / "out")
    for name, base in in_full.base.items():
        layer = re.search(r"layers\.(\d)", name)
        returns = int(layer[1]) < 4 * quota if layer is not None else name != "model.norm.weight"
        assert torch.equal(found[name], base if returns else in_full.tuned[name]), name


@pytest.mark.parametrize(
    ("layers", "quota", "first"), [(10, 0.3, 3), (10, 0.35, 3), (12, 0.25, 3), (3, 0.1, 0)]
)
def test_parts_of_layers_are_rounded_down(layers: int, quota: float, first: int) -> None:
    shares = [Layers(quota).share(Position(layer, layers)) for layer in range(layers)]
    assert shares == [0.0] * first + [1.0] * (layers - first)


def test_positions_count_every_stack_by_itself() -> None:
    names = [f"{block}.q.weight" for block in ("encoder.block.0", "encoder.block.1", "decoder.block.0")]
    found = positions_of([*names, "shared.weight"])
    assert (found[names[0]], found[names[2]]) == (Position(0, 2), Position(0, 1))
    assert found["shared.weight"] == Position(None, 0, is_embedding_or_head=True)
