"""Every PEFT method that is read, against PEFT's own merge_and_unload; and those that are refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn

from intruders.checkpoints.adapters.adapter import AdapterConfig
from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.selection import EVERY_MATRIX
from intruders.errors import CheckpointError, PairingError
from tests.checkpoints.models import (
    assert_tuned,
    change_config,
    differing,
    loaded,
    merged_weights,
    paired,
    randomize_adapter,
    reasons,
    refused,
    saved,
    tiny_llama,
    tuned_of,
    with_lora,
)

LINEAR = ["q_proj", "down_proj"]


def llama(config: peft.PeftConfig, seed: int = 1) -> nn.Module:
    model = peft.get_peft_model(tiny_llama(), config)
    randomize_adapter(model, seed)
    return model


def base_weights() -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in tiny_llama().state_dict().items()}


METHODS: dict[str, peft.PeftConfig] = {
    "dora": peft.LoraConfig(r=2, lora_alpha=3, target_modules=LINEAR, use_dora=True),
    "dora, rank-stabilized": peft.LoraConfig(r=2, target_modules=LINEAR, use_dora=True, use_rslora=True),
    "dora on embeddings": peft.LoraConfig(r=2, target_modules=["embed_tokens", "q_proj"], use_dora=True),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=LINEAR, rank_pattern={"q_proj": 3}),
    "lokr": peft.LoKrConfig(r=2, alpha=3, target_modules=LINEAR, alpha_pattern={"q_proj": 5}),
    "lokr, both factored": peft.LoKrConfig(r=1, alpha=3, target_modules=LINEAR, decompose_both=True),
    "lokr, both whole": peft.LoKrConfig(r=50, alpha=30, target_modules=LINEAR),
    "adalora": peft.AdaLoraConfig(init_r=3, lora_alpha=5, target_modules=LINEAR, total_step=10),
    "vera": peft.VeraConfig(r=4, target_modules=LINEAR),
    "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.mark.parametrize("config", METHODS.values(), ids=METHODS.keys())
@pytest.mark.parametrize("where", ["folder", "memory"])
def test_method_is_what_peft_merges(tmp_path: Path, config: Any, where: str) -> None:
    model = llama(config)
    if where == "folder":
        different = differing(tiny_llama(), saved(model, tmp_path), EVERY_MATRIX)
    else:
        different = differing(model, selection=EVERY_MATRIX)
    truth, base = merged_weights(model), base_weights()
    changed = {name for name in truth if name in base and not torch.equal(truth[name], base[name])}
    assert set(different) == changed
    assert changed
    assert_tuned(different, truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("make", [peft.LoHaConfig, peft.LoKrConfig])
def test_lycoris_methods_on_convolutions(make: Any, effective: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 8, 3), nn.Conv2d(8, 6, 1))
    model = peft.get_peft_model(
        net, make(r=2, alpha=3, target_modules=["0", "1"], use_effective_conv2d=effective)
    )
    randomize_adapter(model)
    different = differing(model)
    assert list(different) == ["0.weight", "1.weight"]
    assert_tuned(different, merged_weights(model))


def test_adalora_after_pruning(tmp_path: Path) -> None:
    steps = {"total_step": 6, "tinit": 1, "tfinal": 1, "deltaT": 1}
    config = peft.AdaLoraConfig(init_r=4, target_r=1, lora_alpha=5, target_modules=["q_proj"], **steps)
    model = llama(config)
    for step in range(1, 7):
        model(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
        model.base_model.update_and_allocate(step)
        model.zero_grad()
    folder = saved(model, tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_llama(), folder)
    different = differing(tiny_llama(), folder)
    assert different
    assert_tuned(different, merged_weights(again))


def test_layer_replication_is_refused(tmp_path: Path) -> None:
    model = llama(peft.LoraConfig(r=2, target_modules=LINEAR, layer_replication=[[0, 2], [1, 2]]))
    with refused("uses layer_replication, and it repeats layers"):
        open_sides(tiny_llama(), saved(model, tmp_path))


def test_a_model_whose_start_changed_its_base_needs_the_base() -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights="olora")
    with refused(r"the start 'olora' changed .* pass the base too .* name its base"):
        open_sides(peft.get_peft_model(tiny_llama(), config))


def test_lora_bias(tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], lora_bias=True)
    model = peft.get_peft_model(tiny_llama(attention_bias=True), config)
    randomize_adapter(model)
    pairing = paired(tiny_llama(attention_bias=True), saved(model, tmp_path))
    different = loaded(pairing)
    assert len(different) == 2
    assert_tuned(different, merged_weights(model))
    assert reasons(pairing)["model.layers.0.self_attn.q_proj.lora_B.bias"] == "a bias"


@pytest.mark.parametrize(
    "pattern", ["(a+)+b", "(a|a)*b", "(a?){50}b", "a?" * 50 + "a" * 50 + "b", ".*a.*a.*a.*a.*a.*b"]
)
def test_patterns_that_would_never_end(pattern: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The classical ways to keep Python's re busy forever, over module names made for them: none is begun with."""
    module = "a" * 200
    config = AdapterConfig({"rank_pattern": {pattern: 2}}, "x")
    begun: list[str] = []
    monkeypatch.setattr(re, "match", lambda pattern, name: begun.append(pattern))
    with pytest.raises(CheckpointError) as caught:
        config.pattern_value("rank_pattern", module, 1)
    assert "could keep the matching of module names busy forever" in str(caught.value)
    assert begun == []


@pytest.mark.parametrize(
    "pattern",
    ["q_proj", r".*\.(q|k)_proj", r"model\.layers\.[0-9]+\.self_attn\.q_proj", "^model.layers.1.*q_proj"],
)
def test_patterns_that_people_write(pattern: str) -> None:
    config = AdapterConfig({"rank_pattern": {pattern: 2}}, "x")
    for layer in range(10, 100):
        name = f"model.layers.{layer}.self_attn.q_proj"
        assert config.pattern_value("rank_pattern", name, 1) == (1 if pattern[0] == "^" and layer > 19 else 2)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan"), True])
def test_a_number_that_no_float_can_be_is_refused(value: float) -> None:
    """JSON may have an integer of any length."""
    config = AdapterConfig({"r": value, "rank_pattern": {"q_proj": value}}, "x")
    with refused(r"'x' has r = '.*'; expected a number"):
        config.number("r")
    with refused(r"has rank_pattern = .*; expected an object of module names"):
        config.pattern_value("rank_pattern", "q_proj", 1)


def test_several_adapters_in_one_folder(tmp_path: Path) -> None:
    """PEFT writes the adapter named default to the folder, and each other one to a folder inside it."""
    model = llama(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("second", peft.LoraConfig(r=3, target_modules=["k_proj"]))
    model.set_adapter("second")
    randomize_adapter(model, 5)
    saved(model, tmp_path)
    first = differing(tiny_llama(), tmp_path)
    second = differing(tiny_llama(), tmp_path / "second")
    assert all("q_proj" in name for name in first)
    assert all("k_proj" in name for name in second)
    only = tmp_path / "only"
    only.mkdir()
    (tmp_path / "second").rename(only / "second")
    with refused("contains adapters in folders of their own: 'second'; pass one"):
        open_sides(tiny_llama(), only)


def test_adapter_saved_as_a_pickle(tmp_path: Path) -> None:
    model = llama(peft.LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(tmp_path, safe_serialization=False)
    different = differing(tiny_llama(), tmp_path)
    assert len(different) == 2
    assert_tuned(different, merged_weights(model))


def test_state_dict_of_a_peft_model_as_a_checkpoint(tmp_path: Path) -> None:
    """An adapter's weights file given by its own path is read with the config beside it."""
    folder = saved(llama(peft.LoraConfig(r=2, lora_alpha=6, target_modules=["q_proj"])), tmp_path)
    by_file = differing(tiny_llama(), folder / "adapter_model.safetensors")
    by_folder = differing(tiny_llama(), folder)
    assert list(by_file) == list(by_folder)
    for name, both in by_file.items():
        assert torch.equal(tuned_of(both), tuned_of(by_folder[name]))


def test_resized_embeddings_saved_with_the_adapter(tmp_path: Path) -> None:
    base = tiny_llama()
    base.resize_token_embeddings(44)
    model = with_lora(base)
    with torch.no_grad():
        base.model.embed_tokens.weight += 0.1
    model.save_pretrained(tmp_path, save_embedding_layers=True)
    pairing = paired(tiny_llama(), tmp_path, EVERY_MATRIX)
    both = loaded(pairing)["model.embed_tokens.weight"]
    assert torch.equal(tuned_of(both), base.model.embed_tokens.weight[:40])
    assert "'model.embed_tokens.weight' on the first 40 tokens; base has 40, tuned 44" in pairing.matched


def test_dora_without_its_magnitude(tmp_path: Path) -> None:
    folder = change_config(
        saved(llama(peft.LoraConfig(r=2, target_modules=["q_proj"])), tmp_path), use_dora=True
    )
    with refused("use_dora = True and no lora_magnitude_vector"):
        open_sides(tiny_llama(), folder)


def test_an_adapter_is_no_checkpoint(tmp_path: Path) -> None:
    folder = saved(llama(peft.LoraConfig(r=2, target_modules=["q_proj"])), tmp_path)
    with refused("is an adapter; expected a full checkpoint"):
        open_checkpoint(folder)
    (folder / "adapter_model.safetensors").unlink()
    with refused(r"no weights; expected adapter_model\.safetensors"):
        open_sides(tiny_llama(), folder)


def on_an_embedding(folder: Path, dtype: torch.dtype, shift: float) -> dict[str, Tensor]:
    """Save factors of an embedding that was moved before they were trained; return what PEFT's merge makes of it."""
    model: Any = tiny_llama().to(dtype)
    model.model.embed_tokens.weight.data[10:14] += shift
    adapted = with_lora(model, target_modules=["embed_tokens", "q_proj"])
    saved(adapted, folder)
    return merged_weights(peft.PeftModel.from_pretrained(tiny_llama().to(dtype), str(folder)))


def test_factors_of_an_embedding_with_other_values_than_the_base_are_refused(tmp_path: Path) -> None:
    merged = on_an_embedding(tmp_path, torch.float32, 0.5)
    base, tuned = open_sides(tiny_llama(), tmp_path)
    found = loaded(pair_sides(base, tuned))
    name = "model.layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(tuned_of(found[name]), merged[name])
    with refused(r"stores 'model\.embed_tokens\.weight' of its base with other values", PairingError):
        loaded(pair_sides(base, tuned, EVERY_MATRIX))


def test_an_embedding_beneath_factors_may_be_the_base_as_it_was_rounded(tmp_path: Path) -> None:
    merged = on_an_embedding(tmp_path, torch.bfloat16, 0.0)
    found = differing(tiny_llama(), tmp_path, EVERY_MATRIX)
    name = "model.embed_tokens.weight"
    torch.testing.assert_close(tuned_of(found[name]), merged[name].float(), atol=2e-2, rtol=2e-2)
