"""Shares of updates by position are arithmetic on the two state dicts."""

import re
from pathlib import Path

import pytest
import torch

from intruders.audits.audit_settings import AuditSettings
from intruders.mitigation.remedies.remedy import Position, positions_of
from intruders.mitigation.remedies.shares import Interpolate, Layers, Lines
from tests.mitigation.remedies.conftest import Tuned


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_every_weight_of_a_fine_tuning_is_interpolated(tmp_path: Path, in_full: Tuned, alpha: float) -> None:
    """Embeddings and norms among them."""
    found = in_full.after(Interpolate(alpha), tmp_path / "out")
    assert found.keys() == in_full.base.keys()
    for name, base in in_full.base.items():
        wanted = ((1 - alpha) * base + alpha * in_full.tuned[name]).float()
        torch.testing.assert_close(found[name].float(), wanted, rtol=1e-7, atol=1e-9)
        if alpha in (0, 1):
            assert torch.equal(found[name], base if alpha == 0 else in_full.tuned[name])  # bit for bit


def test_without_its_update_an_adapter_gives_the_base_to_the_bit(tmp_path: Path, by_adapter: Tuned) -> None:
    found = by_adapter.after(Interpolate(0), tmp_path / "out")
    merged = by_adapter.after(Interpolate(0), tmp_path / "merged", form="checkpoint")
    for name, base in by_adapter.base.items():
        assert torch.equal(found[name], base)
        assert torch.equal(merged[name], base)


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
