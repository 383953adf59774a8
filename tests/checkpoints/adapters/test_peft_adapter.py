"""Every PEFT method that is read, on modules and parameters, against PEFT's own merge; and those that are refused."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.helpers import rescale_adapter_scale
from torch import Tensor, nn

from intruders.checkpoints.adapters.adapter import Adapter, AdapterConfig
from intruders.checkpoints.opening.open import open_source
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.pairing.pair_sides import pair_sides
from intruders.checkpoints.stored.selection import EVERY_MATRIX
from intruders.errors import CheckpointError, PairingError
from intruders.linalg.low_rank import LowRank
from intruders.linalg.pair import Pair
from tests.checkpoints.models import (
    assert_tuned,
    change_config,
    differing,
    loaded,
    merged_weights,
    paired,
    randomize_adapter,
    refused,
    saved,
    tiny_gpt2,
    tiny_gpt_oss,
    tiny_llama,
    tiny_llama4,
    tiny_mixtral,
    tuned_of,
    with_adapter,
    with_lora,
)

LINEAR = ["q_proj", "down_proj"]


def lora(**settings: Any) -> peft.LoraConfig:
    return peft.LoraConfig(**{"r": 3, "lora_alpha": 5, "target_modules": LINEAR} | settings)


METHODS: dict[str, peft.PeftConfig] = {
    "patterns": lora(
        rank_pattern={"down_proj": 2, r"layers\.1\.self_attn\.q_proj": 4},
        alpha_pattern={"model.layers.0.self_attn.q_proj": 11, "down_proj": 7},
    ),
    "rank-stabilized patterns": lora(
        use_rslora=True, rank_pattern={"q_proj": 1}, alpha_pattern={"q_proj": 9}
    ),
    "all linear": lora(target_modules="all-linear"),
    "embeddings": lora(target_modules=["embed_tokens", "q_proj"]),
    "modules to save": lora(modules_to_save=["lm_head"]),
    "dora on embeddings": lora(target_modules=["embed_tokens", "q_proj"], use_dora=True),
    "loha": peft.LoHaConfig(r=2, alpha=3, target_modules=LINEAR, rank_pattern={"q_proj": 3}),
    "lokr": peft.LoKrConfig(r=2, alpha=3, target_modules=LINEAR, alpha_pattern={"q_proj": 5}),
    "lokr, both factored": peft.LoKrConfig(r=1, alpha=3, target_modules=LINEAR, decompose_both=True),
    "lokr, both whole": peft.LoKrConfig(r=50, alpha=30, target_modules=LINEAR),
    "adalora": peft.AdaLoraConfig(init_r=3, lora_alpha=5, target_modules=LINEAR, total_step=10),
}
DENSE = ("dora", "loha", "lokr")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("where", ["folder", "memory"])
def test_method_is_what_peft_merges(tmp_path: Path, method: str, where: str) -> None:
    model = with_adapter(METHODS[method])
    sides = (tiny_llama(), saved(model, tmp_path)) if where == "folder" else (model,)
    different = differing(*sides, selection=EVERY_MATRIX)
    truth, base = merged_weights(model), tiny_llama().state_dict()
    changed = {name for name in truth if name in base and not torch.equal(truth[name], base[name])}
    assert set(different) == changed
    assert_tuned(different, truth, rtol=1e-5, atol=1e-5)
    for name, both in different.items():
        assert torch.equal(both.base, base[name])
        is_dense = method.startswith(DENSE) or (name, method) == ("lm_head.weight", "modules to save")
        assert isinstance(both.tuned, LowRank) == (not is_dense)


@pytest.mark.parametrize("effective", [False, True])
@pytest.mark.parametrize("make", [peft.LoHaConfig, peft.LoKrConfig])
def test_lycoris_methods_on_convolutions(make: Any, effective: bool) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(6, 36, 3), nn.Conv2d(36, 6, 1))  # LoKr of 8 outputs has no core
    config = make(r=2, alpha=3, target_modules=["0", "1"], use_effective_conv2d=effective)
    model = with_adapter(config, net)
    different = differing(model)
    assert list(different) == ["0.weight", "1.weight"]
    assert_tuned(different, merged_weights(model))


def test_adalora_after_pruning(tmp_path: Path) -> None:
    steps = {"total_step": 6, "tinit": 1, "tfinal": 1, "deltaT": 1}
    config = peft.AdaLoraConfig(init_r=4, target_r=1, lora_alpha=5, target_modules=["q_proj"], **steps)
    model = with_adapter(config)
    for step in range(1, 7):
        model(torch.arange(8)[None], labels=torch.arange(8)[None]).loss.backward()
        model.base_model.update_and_allocate(step)
        model.zero_grad()
    folder = saved(model, tmp_path)
    again = peft.PeftModel.from_pretrained(tiny_llama(), folder)
    assert_tuned(differing(tiny_llama(), folder), merged_weights(again))


def test_a_model_whose_start_changed_its_base_needs_the_base() -> None:
    with refused(r"the start 'olora' changed .* pass the base too .* name its base"):
        open_sides(with_lora(init_lora_weights="olora"))


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


def test_several_adapters_in_one_folder(tmp_path: Path) -> None:
    """PEFT writes the adapter named default to the folder, and each other one to a folder inside it."""
    model = with_lora()
    model.add_adapter("second", peft.LoraConfig(r=3, target_modules=["k_proj"]))
    model.set_adapter("second")
    randomize_adapter(model, 5)
    saved(model, tmp_path)
    first = differing(tiny_llama(), tmp_path)
    second = differing(tiny_llama(), tmp_path / "second")
    assert all("q_proj" in name for name in first)
    assert all("k_proj" in name for name in second)


def test_a_pickle_is_read_and_a_weights_file_with_the_config_beside_it(tmp_path: Path) -> None:
    model = with_lora(lora_alpha=6)
    file = saved(model, tmp_path / "safetensors") / "adapter_model.safetensors"
    model.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    truth = merged_weights(model)
    for given in (file, tmp_path / "pickle"):
        assert_tuned(differing(tiny_llama(), given), truth, count=2)


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
