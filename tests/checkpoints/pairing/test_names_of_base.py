"""Experts one by one and stacked: what a stack contains, and which part of it each expert's tensor is."""

from __future__ import annotations

import pytest
import torch

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.names_of_base import (
    positions_in_stacks,
    with_experts_as,
    with_stacked_experts,
)

MIXTRAL = {"block": "h.0.block_sparse_moe", "gate": "w1", "up": "w3", "down": "w2"}
QWEN = {"block": "h.0.mlp", "gate": "gate_proj", "up": "up_proj", "down": "down_proj"}


def one_by_one(names: dict[str, str]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"gate": (6, 4), "up": (6, 4), "down": (4, 6)}
    experts = {
        f"{names['block']}.experts.{number}.{names[role]}.weight": torch.randn(shape, generator=generator)
        for number in range(3)
        for role, shape in shapes.items()
    }
    return experts | {f"{names['block']}.gate.weight": torch.randn(3, 4, generator=generator)}


@pytest.mark.parametrize("names", [MIXTRAL, QWEN], ids=["mixtral", "qwen"])
def test_every_tensor_is_found_in_the_stacks(names: dict[str, str]) -> None:
    tensors = one_by_one(names)
    checkpoint = open_checkpoint(tensors)
    stacked = with_stacked_experts(checkpoint)
    assert set(stacked.names()) == {
        "h.0.mlp.experts.gate_up_proj", "h.0.mlp.experts.down_proj", "h.0.mlp.gate.weight"
    }  # fmt: skip
    first = f"{names['block']}.experts.1"
    wanted = torch.cat([tensors[f"{first}.{names[role]}.weight"] for role in ("gate", "up")])
    assert torch.equal(stacked.read("h.0.mlp.experts.gate_up_proj")[1], wanted)
    positions = positions_in_stacks(checkpoint)
    assert positions.keys() == tensors.keys()
    for name, position in positions.items():
        part = position.cut(stacked.tensors[position.tensor])
        assert part.shape == tuple(tensors[name].shape)
        assert torch.equal(part.read(), tensors[name])


def test_experts_without_a_gate_are_stacked_too() -> None:
    tensors = {name: tensor for name, tensor in one_by_one(QWEN).items() if "gate_proj" not in name}
    checkpoint = open_checkpoint(tensors)
    stacked = with_stacked_experts(checkpoint)
    assert set(stacked.names()) == {
        "h.0.mlp.experts.up_proj", "h.0.mlp.experts.down_proj", "h.0.mlp.gate.weight"
    }  # fmt: skip
    for name, position in positions_in_stacks(checkpoint).items():
        assert torch.equal(position.cut(stacked.tensors[position.tensor]).read(), tensors[name])


def test_an_incomplete_set_of_experts_stays_as_it_is() -> None:
    tensors = one_by_one(MIXTRAL)
    del tensors["h.0.block_sparse_moe.experts.1.w2.weight"]
    checkpoint = open_checkpoint(tensors)
    assert with_stacked_experts(checkpoint) is checkpoint
    assert {name: position.tensor for name, position in positions_in_stacks(checkpoint).items()} == {
        name: name for name in tensors
    }


def test_experts_are_stacked_only_beside_stacks() -> None:
    checkpoint = open_checkpoint(one_by_one(QWEN))
    assert with_experts_as(["h.0.mlp.gate.weight"], checkpoint) is checkpoint
    stacked = with_experts_as(["model.h.0.mlp.experts.down_proj"], checkpoint)
    assert "h.0.mlp.experts.down_proj" in stacked.names()
    assert with_experts_as(["model.h.0.mlp.experts.down_proj"], stacked) is stacked
