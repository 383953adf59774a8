"""Pairing of checkpoints, modules, state dicts and LoRA adapters; PEFT's merged weights are the truth."""

import copy
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PromptTuningConfig, get_peft_model, inject_adapter_in_model
from safetensors.torch import load_file, save_file
from torch import nn

from intruders.checkpoints.opening.open import open_checkpoint
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.checkpoints.stored.selection import EVERY_MATRIX
from intruders.errors import PairingError
from tests.checkpoints.models import (
    change_config,
    differing,
    loaded,
    paired,
    randomize_adapter,
    reasons,
    refused,
    saved,
    set_factors,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tuned_of,
    with_lora,
)

INNER = 14  # matrices of the tiny Llama without embedding and head


def llama_adapter(**settings: Any) -> nn.Module:
    values = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "down_proj"]}
    return with_lora(**values | settings)


def test_two_checkpoints_on_disk(tmp_path: Path) -> None:
    base, tuned = tiny_llama(0), tiny_llama(0)
    with torch.no_grad():
        tuned.model.layers[1].mlp.up_proj.weight += 0.5
    pairing = paired(saved(base, tmp_path / "base"), str(saved(tuned, tmp_path / "tuned")))
    assert pairing.tuned.kind == "checkpoint"
    assert len(pairing.pairs) == INNER
    different = loaded(pairing)
    assert list(different) == ["model.layers.1.mlp.up_proj.weight"]
    torch.testing.assert_close(
        tuned_of(different["model.layers.1.mlp.up_proj.weight"]), tuned.model.layers[1].mlp.up_proj.weight
    )
    assert reasons(pairing)["model.embed_tokens.weight"] == "embedding (use --include-embeddings)"
    assert reasons(pairing)["lm_head.weight"] == "embedding (use --include-embeddings)"
    assert reasons(pairing)["model.norm.weight"] == "one-dimensional"


def test_tied_head_that_a_file_stores_all_the_same(tmp_path: Path) -> None:
    """transformers ties it where it equals the embedding, and loads it as it is where it differs."""
    from transformers import AutoModelForCausalLM

    folder = saved(tiny_llama(0, tie_word_embeddings=True), tmp_path)
    state = load_file(folder / "model.safetensors")
    for head, reason in (
        (state["model.embed_tokens.weight"].clone(), "the same tensor as 'model.embed_tokens.weight'"),
        (torch.randn(40, 16), None),
    ):
        save_file(state | {"lm_head.weight": head}, folder / "model.safetensors", metadata={"format": "pt"})
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
        assert torch.equal(loaded.lm_head.weight, head)
        opened = open_checkpoint(folder)
        assert opened.tied == ({} if reason is None else {"lm_head.weight": "model.embed_tokens.weight"})
        assert ("lm_head.weight" in opened.tensors) == (reason is None)
        if reason is not None:
            pairing = paired(folder, tiny_llama(1, tie_word_embeddings=True), EVERY_MATRIX)
            assert reasons(pairing)["lm_head.weight"] == reason
            assert len(pairing.pairs) == INNER + 1


def wide_llama() -> nn.Module:
    return tiny_llama(hidden_size=32, num_attention_heads=8, num_key_value_heads=4)


@pytest.mark.parametrize(
    ("base", "tuned", "said"),
    [
        (tiny_llama, tiny_gpt2, r"0 of 14 .* match; only in base: 'model.layers.0.self_attn.q_proj"),
        (tiny_llama, wide_llama, r"0 of 14 .* match; of other shape: .*\(16, 16\) and \(32, 32\)"),
        (tiny_gpt2, None, r"lacks 4 of the 4 weights it changes: 'model.layers.0.*\(and 1 more\)"),
        (wide_llama, None, r"4 of 4 weights .* another shape: .*\(32, 32\) and the adapter's is"),
    ],
)
def test_a_model_or_an_adapter_of_another_architecture_is_refused(
    base: Callable[[], nn.Module], tuned: Callable[[], nn.Module] | None, said: str, tmp_path: Path
) -> None:
    other = saved(llama_adapter(), tmp_path) if tuned is None else tuned()
    with refused(said, PairingError):
        paired(base(), other)


def test_head_and_prefix_added() -> None:
    base, tuned = tiny_bert(0), tiny_bert(1, classes=3)
    pairing = paired(base, tuned)
    different = loaded(pairing)
    assert len(different) == 13  # six in each of two layers, and the pooler
    name = "encoder.layer.1.attention.self.query.weight"
    assert torch.equal(tuned_of(different[name]), tuned.state_dict()["bert." + name])
    assert reasons(pairing)["classifier.weight"] == "missing in base"
    assert pairing.matched == ["'bert.' of tuned for '' of base: 39 tensors"]


def test_weights_that_were_kept_without_copies_are_refused() -> None:
    """``state_dict`` has the tensors of the model, which training changes in place."""
    model = tiny_llama()
    kept, copied = model.state_dict(), copy.deepcopy(model.state_dict())
    weight = model.model.layers[1].mlp.up_proj.weight
    before = weight.detach().clone()
    with torch.no_grad():
        weight += 0.5
    with refused(r"are the same tensors in memory, .*; copy the base before training", PairingError):
        open_sides(kept, model)
    different = differing(copied, model)
    assert list(different) == ["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(different["model.layers.1.mlp.up_proj.weight"].base, before)
    assert differing(model, model) == {}  # a model beside itself, by intention


class Wrapper(nn.Module):
    """A model of someone's own around another, with the attribute and the names of DistributedDataParallel."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module


@pytest.mark.parametrize("wrapper", [nn.DataParallel, Wrapper])
def test_a_wrapper_around_a_model_with_adapters_is_refused(wrapper: Callable[[nn.Module], nn.Module]) -> None:
    """Each of its weights would look unchanged, and the audit would count no intruders."""
    model = llama_adapter()
    with refused("around a model with PEFT adapters; pass that model, its 'module'"):
        open_sides(tiny_llama(), wrapper(model))
    assert differing(tiny_llama(), wrapper(model).module)
    # Without adapters a wrapper is only a prefix of names.
    assert len(paired(tiny_llama(), wrapper(tiny_llama())).pairs) > 0


def merged_inside() -> nn.Module:
    model = llama_adapter()
    model.merge_adapter()
    return model


PROMPTS = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: llama_adapter().get_base_model().model.layers,
            "is a part of a model with PEFT adapters; pass the complete model",
        ),
        (
            lambda: get_peft_model(tiny_llama(), PROMPTS),
            "of type PROMPT_TUNING, which adds activations and changes no weight",
        ),
        (merged_inside, "unmerge_adapter"),
    ],
    ids=["a part of a model with adapters", "prompts", "merged"],
)
def test_what_is_no_adapter_in_memory_is_refused(make: Callable[[], nn.Module], words: str) -> None:
    with refused(words):
        open_sides(None, make())


def test_adapters_that_are_turned_off_are_refused() -> None:
    """The model computes what its base does then, and its audit would count the adapter."""
    model = llama_adapter()
    tokens = torch.arange(8).unsqueeze(0)
    with model.disable_adapter():
        assert torch.equal(model(tokens).logits, tiny_llama()(tokens).logits)
        with refused(r"of LlamaForCausalLM are turned off, .*leave the block of disable_adapter"):
            open_sides(tiny_llama(), model)
    assert differing(tiny_llama(), model)


def two_adapters() -> Any:
    model = get_peft_model(tiny_llama(), LoraConfig(r=2, target_modules=["q_proj"]))
    model.add_adapter("second", LoraConfig(r=2, target_modules=["q_proj"]))
    set_factors(model, 0.3, seed=1)
    return model


def test_merged_adapters_that_are_not_the_active_ones_are_refused() -> None:
    """A layer with a merged adapter computes with that one, whichever is active."""
    model = two_adapters()
    tokens = torch.arange(8).unsqueeze(0)
    as_active = model(tokens).logits
    model.merge_adapter(["second"])
    assert not torch.allclose(model(tokens).logits, as_active)
    with refused("has 'second' merged into its weights, and 'default' active"):
        open_sides(tiny_llama(), model)
    model.unmerge_adapter()
    model.merge_adapter()
    torch.testing.assert_close(model(tokens).logits, as_active)
    different = differing(tiny_llama(), model)
    for name, both in different.items():
        layer = model.get_submodule(f"base_model.model.{name.removesuffix('.weight')}")
        torch.testing.assert_close(tuned_of(both), layer.base_layer.weight)


@pytest.mark.filterwarnings("ignore:Adapter default was active")
def test_the_adapter_that_acts_after_the_active_one_is_deleted() -> None:
    """PEFT makes another one active in the layers, and goes on to name the deleted one."""
    model = two_adapters()
    model.delete_adapter("default")
    different = differing(tiny_llama(), model)
    assert len(different) == 2
    for name, both in different.items():
        layer = model.get_submodule(f"base_model.model.{name.removesuffix('.weight')}")
        torch.testing.assert_close(tuned_of(both), layer.base_layer.weight + layer.get_delta_weight("second"))
    model.delete_adapter("second")
    with refused("LlamaForCausalLM has no active adapter; set_adapter makes one active"):
        open_sides(tiny_llama(), model)


def test_adapter_inside_a_transformers_model() -> None:
    """transformers' own add_adapter injects PEFT's layers so, and keeps the configs in the same attribute."""
    config = LoraConfig(r=2, lora_alpha=3, target_modules=["q_proj"])
    model = inject_adapter_in_model(config, tiny_llama(), "mine")
    model.peft_config = {"mine": config}
    randomize_adapter(model)
    different = differing(model)
    assert len(different) == 2
    layer = model.model.layers[1].self_attn.q_proj
    both = different["model.layers.1.self_attn.q_proj.weight"]
    torch.testing.assert_close(tuned_of(both), layer.base_layer.weight + layer.get_delta_weight("mine"))
    assert torch.equal(both.base, tiny_llama().model.layers[1].self_attn.q_proj.weight)


def test_base_named_by_the_adapter(tmp_path: Path) -> None:
    base = saved(tiny_llama(), tmp_path / "base")
    model = llama_adapter()
    model.peft_config["default"].base_model_name_or_path = str(base)
    folder = saved(model, tmp_path / "adapter")
    checkpoint, _ = open_sides(None, folder)
    assert checkpoint.source == str(base)
    for name, text in (
        (None, "does not name its base"),
        (str(tmp_path / "gone"), "which the adapter .* names"),
    ):
        change_config(folder, base_model_name_or_path=name)
        with refused(text):
            open_sides(None, folder)
    with refused("does not name its base"):
        open_sides(None, base)


WRONG_CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "no PEFT type": ({"peft_type": None}, "peft_type = 'None'"),
    "a name that no terminal shows": (
        {"target_parameters": ["\x00"]},
        "target_parameters = .* a list of names",
    ),
    "another rank": ({"r": 4}, "rank 3 in .* says 4"),
    "a rank that is text": ({"r": "three"}, "r = 'three'; expected a number"),
    "an alpha that is no number": ({"lora_alpha": float("nan")}, "lora_alpha = 'nan'; expected a number"),
    "a rank larger than any float": ({"r": 10**400}, "r = '1000.*'; expected a number"),
    "a rank that is a flag": ({"r": True}, "r = 'True'; expected a number"),
    "a pattern of NaN": (
        {"rank_pattern": {"q_proj": float("nan")}},
        "expected an object of module names and numbers",
    ),
    "DoRA without its magnitude": ({"use_dora": True}, "use_dora = True and no lora_magnitude_vector"),
    "a pattern that is a list": ({"rank_pattern": [1]}, "expected an object of module names and numbers"),
    "a pattern that does not compile": ({"alpha_pattern": {"(": 1}}, "patterns that re compiles"),
    "a flag that is text": ({"use_rslora": "yes"}, "expected true or false"),
}


@pytest.mark.parametrize(("values", "text"), WRONG_CONFIGS.values(), ids=WRONG_CONFIGS.keys())
def test_configs_that_cannot_be(tmp_path: Path, values: dict[str, Any], text: str) -> None:
    folder = change_config(saved(llama_adapter(), tmp_path), **values)
    with refused(text):
        open_sides(tiny_llama(), folder)


def test_things_that_are_no_model(tmp_path: Path) -> None:
    for step in (50, 200, 1000):
        (tmp_path / "states" / f"checkpoint-{step}").mkdir(parents=True)
    saved(llama_adapter(), tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    (tmp_path / "x.txt").write_text("hello")
    os.mkfifo(tmp_path / "pipe.safetensors")
    for source, text in (
        (tmp_path / "gone", "does not exist"),
        ("./gone", "'./gone' does not exist"),
        (tmp_path / "states", "pass one of its states: 'checkpoint-50', 'checkpoint-200', 'checkpoint-1000'"),
        (tmp_path / "adapter", r"no weights; expected adapter_model\.safetensors"),
        (tmp_path / "x.txt", "is of no format that is read here"),
        (tmp_path / "pipe.safetensors", "is not a regular file"),
        (3, "int is not a model"),
        ({"a": 1}, "is not a state dict"),
        ({}, "is not a state dict"),
    ):
        with refused(text):
            open_checkpoint(source)
    with torch.device("meta"):
        empty = nn.Linear(2, 2)
    with refused("meta device"):
        open_checkpoint(empty)
