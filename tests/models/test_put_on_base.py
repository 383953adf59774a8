"""Adapters that PEFT would put on a base as another model than the file's."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from intruders.errors import CheckpointError, PairingError
from intruders.mitigation.write_at_scale import write_at_scale
from intruders.models.given_model import GivenModel
from intruders.models.loading import load_model
from intruders.models.put_on_base import named_base_note
from intruders.models.tuned_model import open_language_model, put_on
from tests.checkpoints.models import change_config, moved, not_to_be_read
from tests.checkpoints.other_programs import peft_lora, save_as_gguf, save_as_mlx
from tests.hub_cache import hub_with_base
from tests.tiny import character_tokenizer, save_gpt2, save_llama
from tests.training.tiny_runs import logits_of


def without(tuned: str, part: str) -> None:
    """Take the weights with this part in their names from an adapter's file."""
    file = Path(tuned) / "adapter_model.safetensors"
    save_file({name: t for name, t in load_file(file).items() if part not in name}, file)


def as_peft_loads_it(base: str, tuned: str | Path, ids: list[int], rows: int | None = None) -> torch.Tensor:
    """The logits of an adapter on its base, which is resized first where a number of rows is given."""
    own: Any = load_model(base, "causal")
    if rows is not None:
        own.resize_token_embeddings(rows, mean_resizing=False)
    return logits_of(PeftModel.from_pretrained(own, tuned), ids)


def adapter(folder: Path, targets: list[str]) -> str:
    save_gpt2(folder / "base")
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(load_model(str(folder / "base"), "causal"), config).save_pretrained(folder / "tuned")
    return str(folder / "tuned")


@pytest.mark.parametrize("lost", ["lora_A", "lora_B"])
def test_half_a_pair_is_refused_and_not_drawn_at_random(lost: str, tmp_path: Path) -> None:
    tuned = adapter(tmp_path, ["c_attn"])
    without(tuned, f"h.0.attn.c_attn.{lost}")
    with pytest.raises(CheckpointError, match="has only lora_"):
        open_language_model(tuned, str(tmp_path / "base"))


def test_an_adapter_on_an_embedding_that_is_the_head_is_run_but_not_merged(tmp_path: Path) -> None:
    tuned = adapter(tmp_path, ["wte"])
    base = str(tmp_path / "base")
    wanted = as_peft_loads_it(base, tuned, [5, 6, 7, 8])
    torch.testing.assert_close(logits_of(open_language_model(tuned, base).model, [5, 6, 7, 8]), wanted)
    with pytest.raises(PairingError, match=r"changes 'transformer\.wte', whose weight is that of 'lm_head'"):
        open_language_model(tuned, base, merged=True)


def with_renamed(folder: Path, modules: str) -> str:
    """Save an adapter that has a few weights under names of modules that its base does not have."""
    tuned = adapter(folder, ["c_attn", "c_fc"])
    file = Path(tuned) / "adapter_model.safetensors"
    save_file({name.replace(modules, f"{modules}own_"): t for name, t in load_file(file).items()}, file)
    return tuned


def test_an_adapter_of_which_peft_loads_nothing_is_refused_and_a_part_told(tmp_path: Path) -> None:
    with pytest.raises(PairingError, match="has no weights of the modules that it changes in base"):
        open_language_model(with_renamed(tmp_path / "all", "c_"), str(tmp_path / "all" / "base"))
    tuned = with_renamed(tmp_path / "some", "h.0.attn.")
    notes = open_language_model(tuned, str(tmp_path / "some" / "base")).notes
    assert any("asks for and has no weights of" in note for note in notes)


def test_retrained_tokens_of_an_embedding_that_is_the_head_are_merged(tmp_path: Path) -> None:
    """PEFT changes the rows of both, so that the adapter and its merge are one model."""
    base = str(save_gpt2(tmp_path / "base"))
    config = LoraConfig(r=2, target_modules=["c_attn"], trainable_token_indices=[5, 7], task_type="CAUSAL_LM")
    model = get_peft_model(load_model(base, "causal"), config)
    moved(model, 0.2, 1, only=lambda name, parameter: parameter.requires_grad)
    model.save_pretrained(tmp_path / "tuned")
    wanted = as_peft_loads_it(base, tmp_path / "tuned", [5, 6, 7, 8])
    opened = open_language_model(str(tmp_path / "tuned"), base, merged=True)
    torch.testing.assert_close(logits_of(opened.model, [5, 6, 7, 8]), wanted)


def test_a_retrained_token_that_the_base_does_not_have_is_one_line(tmp_path: Path) -> None:
    tuned = adapter(tmp_path, ["c_attn"])
    change_config(Path(tuned), trainable_token_indices=[5000])
    with pytest.raises(CheckpointError, match="cannot be put on its base by PEFT: index 5000"):
        open_language_model(tuned, str(tmp_path / "base"))


@pytest.mark.parametrize(
    ("base", "is_other"),
    [("org/base@main", False), ("org/base@" + "a" * 40, False), ("org/base", False), ("org/base@v1", True)],
)
def test_a_revision_with_the_weights_that_the_adapter_names_is_no_other_base(
    base: str, is_other: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter names org/base, whose main is commit aa...; v1 has other weights."""
    hub_with_base(tmp_path, monkeypatch)
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 1, "base_model_name_or_path": "org/base"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    assert bool(named_base_note(GivenModel(str(adapter), base))) is is_other


@pytest.mark.parametrize("named", ["alice/llama", "~nobody-of-this-name/llama", "broken"])
def test_an_unreadable_base_is_another(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("base", "broken", "adapter"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "broken" / "model.safetensors.index.json").write_text("{")
    not_to_be_read(tmp_path / "alice", monkeypatch)
    given = named if named.startswith("~") else str(tmp_path / named)
    config = {"peft_type": "LORA", "r": 1, "base_model_name_or_path": given, "revision": "main"}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    [note] = named_base_note(GivenModel(str(tmp_path / "adapter"), str(tmp_path / "base")))
    assert f"names {given!r} as its base and is measured on" in note


@pytest.mark.parametrize("merged", [False, True])
def test_an_adapter_of_a_part_of_the_model_is_put_on_that_part(merged: bool, tmp_path: Path) -> None:
    """PEFT names its layers as the part does, here LlamaModel; the logits are those of the model that was trained."""
    base = str(save_llama(tmp_path / "base"))
    model: Any = AutoModelForCausalLM.from_pretrained(base)
    part = get_peft_model(model.model, LoraConfig(r=2, lora_alpha=8, target_modules=["q_proj", "down_proj"]))
    moved(part, 0.3, 1, only=lambda name, parameter: "lora_B" in name)
    part.save_pretrained(str(tmp_path / "adapter"))
    opened = open_language_model(str(tmp_path / "adapter"), base, merged=merged).model
    trained, before = logits_of(model), logits_of(AutoModelForCausalLM.from_pretrained(base))
    torch.testing.assert_close(logits_of(opened), trained)
    assert (before - trained).abs().max() > 0.1


_ON_HEAD = {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"]}
TRAINED: dict[str, dict[str, Any]] = {
    "linear layers": {},
    "embeddings": {"modules_to_save": ["embed_tokens", "lm_head"]},
    "embeddings that are the head": {"modules_to_save": ["wte"]},
    "low rank on the head": _ON_HEAD,
    # safetensors puts the factors, in 32 bits, before the head itself.
    "low rank on a head of 16 bits": {**_ON_HEAD, "dtype": torch.bfloat16},
    "new tokens": {"trainable_token_indices": [101, 102]},
}


def trained(base: Path, folder: Path, rows: int, dtype: torch.dtype = torch.float32, **settings: Any) -> str:
    """An adapter of a base that was resized first, with a tokenizer of that many tokens, as trainers save it."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(folder)
    own: Any = load_model(str(base), "causal")
    own.resize_token_embeddings(rows, mean_resizing=False)
    own = own.to(dtype)
    targets = ["q_proj"] if hasattr(own, "model") else ["c_attn"]
    given = {"target_modules": targets} | settings
    model = get_peft_model(own, LoraConfig(r=2, task_type="CAUSAL_LM", **given))
    moved(model, 0.2, 1, only=lambda name, parameter: parameter.requires_grad)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("what", TRAINED)
def test_an_adapter_with_new_tokens_is_as_on_a_resized_base(what: str, merged: bool, tmp_path: Path) -> None:
    base = (save_gpt2 if what == "embeddings that are the head" else save_llama)(tmp_path / "base")
    rows = len(AutoTokenizer.from_pretrained(base)) + 2
    tuned = trained(base, tmp_path / "tuned", rows, **TRAINED[what])
    ids = [5, rows - 1, 7, rows - 2]
    wanted = as_peft_loads_it(str(base), tuned, ids, rows)
    opened = open_language_model(tuned, str(base), merged=merged)
    torch.testing.assert_close(logits_of(opened.model, ids), wanted)
    assert opened.tokenizer.encode("<|im_end|>", add_special_tokens=False) == [rows - 1]
    assert opened.notes[0] == (
        f"adapter {tuned!r} was trained with {rows} tokens and base {str(base)!r} has {rows - 2}, so the "
        "embeddings are resized as they were for the training"
    )
    if not merged:
        beside = put_on(open_language_model(str(base)), tuned, str(base))
        torch.testing.assert_close(logits_of(beside.model, ids), wanted)


def test_an_adapter_with_fewer_tokens(llama: Path, tmp_path: Path) -> None:
    """A base can have rows beyond its tokens, which trainers cut."""
    tuned = trained(llama, tmp_path / "tuned", 64)
    wanted = as_peft_loads_it(str(llama), tuned, [5, 6, 7], 64)
    torch.testing.assert_close(logits_of(open_language_model(tuned, str(llama)).model, [5, 6, 7]), wanted)


def test_a_head_whose_new_rows_were_not_saved_is_refused(tmp_path: Path) -> None:
    """PEFT would compute with random ones."""
    tuned = trained(save_llama(tmp_path / "base"), tmp_path / "tuned", 103, modules_to_save=["embed_tokens"])
    without(tuned, "lm_head")
    with pytest.raises(CheckpointError, match="has no weights of the output head for the others"):
        open_language_model(tuned, str(tmp_path / "base"))


def test_files_of_other_programs_are_put_on_as_peft_merges_them(tmp_path: Path) -> None:
    given = load_model(str(save_llama(tmp_path / "given")), "causal")
    merged = peft_lora(tmp_path, given, target_modules=["q_proj"])
    character_tokenizer().save_pretrained(tmp_path / "base")
    base = str(tmp_path / "base")
    for source in (save_as_mlx(tmp_path), save_as_gguf(tmp_path)):
        opened: Any = open_language_model(str(source), base, merged=True).model
        for name, tensor in opened.state_dict().items():
            torch.testing.assert_close(tensor, merged[name], atol=1e-6, rtol=1e-6)
        # Written at half its scale it is an adapter of PEFT.
        written = str(write_at_scale(base, source, 0.5, tmp_path / f"half-{source.name}").out)
        half: Any = open_language_model(written, base, merged=True).model
        before = load_file(Path(base) / "model.safetensors")["model.layers.1.self_attn.q_proj.weight"]
        wanted = (before + merged["model.layers.1.self_attn.q_proj.weight"]) / 2
        own = half.model.layers[1].self_attn.q_proj.weight.data
        torch.testing.assert_close(own, wanted, atol=1e-6, rtol=1e-6)


def test_layers_of_mlx_in_full_are_written_first(tmp_path: Path) -> None:
    peft_lora(tmp_path, load_model(str(save_llama(tmp_path / "given")), "causal"), target_modules=["q_proj"])
    mlx, base = save_as_mlx(tmp_path, fine_tune_type="full"), str(tmp_path / "base")
    whole = {"model.layers.1.self_attn.q_proj.weight": torch.randn(32, 32)}
    save_file(whole, mlx / "adapters.safetensors")
    character_tokenizer().save_pretrained(base)
    with pytest.raises(CheckpointError, match=r"which PEFT does not load; write the model \(intruders scale"):
        open_language_model(str(mlx), base)
    write_at_scale(base, mlx, 1.0, tmp_path / "whole", form="checkpoint")
    opened: Any = open_language_model(str(tmp_path / "whole")).model
    assert torch.equal(opened.model.layers[1].self_attn.q_proj.weight.data, *whole.values())
