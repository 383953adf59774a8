"""LoRA on parameters: PEFT's merged weights are the truth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.helpers import rescale_adapter_scale
from torch import nn

from intruders.checkpoints.adapters.adapter import Adapter
from intruders.checkpoints.opening.open import open_source
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.selection import EVERY_MATRIX
from intruders.errors import PairingError
from intruders.linalg.pair import Pair
from tests.checkpoints.models import (
    change_config,
    differing,
    loaded,
    merged_weights,
    paired,
    refused,
    saved,
    tiny_gpt2,
    tiny_gpt_oss,
    tiny_llama4,
    tiny_mixtral,
    tuned_of,
    with_lora,
)

EXPERTS = "model.layers.0.mlp.experts"
OF_LLAMA4 = "model.layers.0.feed_forward.experts"


def adapted(base: nn.Module, modules: list[str], parameters: list[str], **settings: Any) -> nn.Module:
    targets = {"target_modules": modules, "target_parameters": parameters}
    return with_lora(base, lora_alpha=3, **targets, **settings)


def require_merged(different: dict[str, Pair], model: nn.Module, make: Callable[[], nn.Module]) -> None:
    """Every tensor that PEFT's merge changes differs, and is what the merge makes of it."""
    base, truth = make().state_dict(), merged_weights(model)
    changed = {name for name in base if not torch.equal(base[name], truth[name])}
    assert {name.partition("[")[0] for name in different} == changed
    input_first = make in (tiny_gpt_oss, tiny_llama4, tiny_gpt2)
    for name, both in different.items():
        tensor, _, expert = name.partition("[")
        before, after = (
            state[tensor][int(expert[:-1])] if expert else state[tensor] for state in (base, truth)
        )
        if input_first and (expert or make is tiny_gpt2):
            before, after = before.T, after.T
        assert torch.equal(both.base, before)
        torch.testing.assert_close(tuned_of(both), after)


@pytest.mark.parametrize(
    ("make", "modules", "parameters"),
    [
        (tiny_mixtral, ["q_proj"], ["down_proj"]),
        (tiny_mixtral, [], ["down_proj"]),
        (tiny_mixtral, ["q_proj"], ["down_proj", "gate_up_proj"]),
        (tiny_mixtral, ["q_proj", "embed_tokens"], ["experts.down_proj"]),
        (tiny_mixtral, ["q_proj", "v_proj"], [f"{EXPERTS}.gate_up_proj"]),
        (tiny_mixtral, ["q_proj"], ["o_proj.weight"]),
        (tiny_mixtral, ["q_proj"], ["mlp.gate.weight", "down_proj"]),
        (tiny_gpt_oss, ["q_proj"], ["down_proj"]),  # square, and PEFT knows them to be input first
        # PEFT takes two-dimensional parameters as they are stored; the square attn.c_proj among them.
        (tiny_gpt2, [], ["c_attn.weight", "c_proj.weight"]),
    ],
)
def test_every_way_to_name_a_parameter(
    tmp_path: Path, make: Callable[[], nn.Module], modules: list[str], parameters: list[str]
) -> None:
    model = adapted(make(), modules, parameters)
    sides = open_sides(make(), saved(model, tmp_path))
    require_merged(loaded(pair_sides(*sides, EVERY_MATRIX)), model, make)


@pytest.mark.parametrize("make", [tiny_mixtral, tiny_gpt_oss])
def test_a_parameter_with_a_rank_of_its_own(tmp_path: Path, make: Callable[[], nn.Module]) -> None:
    parameters = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    model = adapted(make(), ["q_proj"], parameters, rank_pattern={"experts.down_proj": 1})
    for found in (differing(make(), saved(model, tmp_path)), differing(model)):
        require_merged(found, copy.deepcopy(model), make)


def test_a_bare_name_on_a_base_with_another_prefix(tmp_path: Path) -> None:
    model = adapted(tiny_mixtral(), ["q_proj"], ["down_proj", "gate_up_proj"])
    base = {
        name.replace("model.", "model.language_model.", 1): tensor.clone()
        for name, tensor in tiny_mixtral().state_dict().items()
    }
    different = differing(base, saved(model, tmp_path))
    renamed = {name.replace("language_model.", ""): both for name, both in different.items()}
    require_merged(renamed, model, tiny_mixtral)


def test_a_bare_name_on_experts_that_are_stored_one_by_one(tmp_path: Path) -> None:
    model = adapted(tiny_mixtral(), ["q_proj"], ["down_proj"])
    base = saved(tiny_mixtral(), tmp_path / "base")
    different = differing(base, saved(model, tmp_path / "adapter"))
    require_merged(different, model, tiny_mixtral)


def test_what_is_shown_before_a_base_is_known(tmp_path: Path) -> None:
    adapter = open_source(saved(adapted(tiny_mixtral(), ["q_proj"], ["down_proj"]), tmp_path))
    assert isinstance(adapter, Adapter)
    assert {(update.name, update.full_shape) for update in adapter.updates} == {
        ("model.layers.0.self_attn.q_proj.weight", (16, 16)),
        (f"{EXPERTS}.down_proj", (3, 16, 24)),
    }


def test_a_rank_that_no_parameter_of_the_base_may_have(tmp_path: Path) -> None:
    folder = saved(adapted(tiny_mixtral(), [], ["down_proj"]), tmp_path)
    change_config(folder, rank_pattern={"down_proj": 5}, r=6)
    with refused(rf"of the rank of none of {EXPERTS}\.down_proj"):
        paired(tiny_mixtral(), folder)


@pytest.mark.parametrize("inner", [24, 16])
def test_experts_stored_input_first_that_peft_takes_as_output_first(tmp_path: Path, inner: int) -> None:
    """Llama 4's; PEFT's own example for ``target_parameters``. With 16, down_proj is square."""
    model = adapted(tiny_llama4(inner), [], ["experts.gate_up_proj", "experts.down_proj"])
    saved(model, tmp_path)
    both_ways = [differing(tiny_llama4(inner), tmp_path), differing(model)]
    truth = merged_weights(model)
    for different in both_ways:
        assert len(different) == 6
        for expert in range(3):
            for part in ("gate_up_proj", "down_proj"):
                both = different[f"{OF_LLAMA4}.{part}[{expert}]"]
                torch.testing.assert_close(tuned_of(both), truth[f"{OF_LLAMA4}.{part}"][expert].T)


def test_square_experts_stored_input_first_of_an_unknown_model(tmp_path: Path) -> None:
    folder = saved(adapted(tiny_llama4(16), [], ["experts.down_proj"]), tmp_path)
    base = {name: tensor.clone() for name, tensor in tiny_llama4(16).state_dict().items()}
    with refused(r"no config says of which model; pass the base with its config\.json", PairingError):
        paired(base, folder)


def test_a_scale_that_was_changed_in_memory() -> None:
    model = adapted(tiny_mixtral(), ["q_proj"], ["experts.down_proj", "experts.gate_up_proj"])
    with rescale_adapter_scale(model, 0.5):
        different = differing(model)
        require_merged(different, model, tiny_mixtral)
