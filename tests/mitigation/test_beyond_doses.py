"""Adapters that change more than matrices: measured in doses they would be other models."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

import intruders
from intruders.checkpoints.pairing.open_sides import open_sides
from intruders.errors import SettingError
from intruders.mitigation.beyond_doses import require_only_matrices
from intruders.mitigation.remedies.shares import Interpolate
from intruders.models.loading import load_model, load_tokenizer
from tests.checkpoints.models import with_lora
from tests.checkpoints.renamed_families import FAMILIES
from tests.experiments.healed_models import QUICK
from tests.tiny import save_gpt2, save_llama

TEXT = "The cat sat on the mat and looked at the birds. "
COLUMNS = intruders.Columns(prompt="prompt", completion="completion", max_new_tokens=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, one text many times, and one example many times, so that every share has the same loss."""
    made = tmp_path_factory.mktemp("beyond")
    save_gpt2(made / "base")
    (made / "text.jsonl").write_text(f'{{"text": "{TEXT}"}}\n' * 6)
    (made / "task.jsonl").write_text('{"prompt": "what is 2+2? ", "completion": "it is 4"}\n' * 30)
    return made


def healed(folder: Path, model: str, seed: int = 0) -> intruders.Healing:
    data = {"task": folder / "task.jsonl", "loss_on": folder / "text.jsonl", "columns": COLUMNS}
    sides, out = (str(folder / "base"), str(folder / model)), folder / f"{model}-healed"
    return intruders.heal(*sides, **data, settings=QUICK, out=out, seed=seed)


def adapted(model: Any, folder: Path, **settings: Any) -> None:
    """Save an adapter of rank 2 whose trained tensors are random."""
    with_lora(model, **settings).save_pretrained(folder)


MORE = [
    ("bias", ["c_attn"], {"bias": "all"}, "bias"),
    ("lora-bias", ["c_attn"], {"lora_bias": True}, r"lora_B\.bias"),
    ("tokens", ["c_attn"], {"trainable_token_indices": [5, 6]}, "trainable_tokens"),
    ("tied-head", ["c_attn"], {"modules_to_save": ["lm_head"]}, "lm_head"),
]


@pytest.mark.parametrize(("name", "targets", "settings", "said"), MORE, ids=[more[0] for more in MORE])
def test_they_are_refused_before_anything_is_measured(
    name: str, targets: list[str], settings: dict[str, Any], said: str, folder: Path
) -> None:
    of_gpt2 = {"target_modules": targets, "fan_in_fan_out": True, "task_type": "CAUSAL_LM"}
    adapted(load_model(str(folder / "base"), "causal"), folder / name, **of_gpt2, **settings)
    with pytest.raises(SettingError, match=said):
        healed(folder, name)
    with pytest.raises(SettingError, match=said):
        intruders.attribute(str(folder / "base"), str(folder / name), loss_on=folder / "text.jsonl")
    assert not (folder / f"{name}-healed").exists()


def test_a_head_of_its_own_on_a_base_whose_embedding_is_the_head_is_refused(folder: Path) -> None:
    model: Any = load_model(str(folder / "base"), "causal")
    head = torch.nn.Parameter(model.lm_head.weight.detach() + 0.1)
    model.config.tie_word_embeddings = False
    model.lm_head.weight = head
    model.transformer.h[0].mlp.c_fc.weight.data += 0.1
    model.save_pretrained(folder / "untied")
    load_tokenizer(str(folder / "base")).save_pretrained(folder / "untied")
    with pytest.raises(SettingError, match=r"has an output head of its own, 'lm_head\.weight'"):
        healed(folder, "untied")
    with pytest.raises(SettingError, match="has an output head of its own"):
        intruders.write_at_scale(str(folder / "base"), str(folder / "untied"), 0.5, folder / "half")
    sides = folder / "base", folder / "untied"
    with pytest.raises(SettingError, match="has an output head of its own"):
        intruders.mitigate(*sides, remedy=Interpolate(alpha=0.5), out=folder / "half")
    assert not (folder / "half").exists()
    # Scaled intruders change matrices that the audit examines, and the head is none of them.
    intruders.mitigate(*sides, scale=0.5, out=folder / "scaled", check=False)


@pytest.mark.parametrize("is_tuned", [True, False])
def test_a_resized_embedding_is_refused_where_its_old_rows_were_tuned(folder: Path, is_tuned: bool) -> None:
    model: Any = load_model(str(folder / "base"), "causal")
    model.resize_token_embeddings(model.config.vocab_size + 3, mean_resizing=False)
    model.transformer.h[0].mlp.c_fc.weight.data += 0.1
    if is_tuned:
        model.transformer.wte.weight.data += 0.1
    name = f"resized-{is_tuned}"
    model.save_pretrained(folder / name)
    load_tokenizer(str(folder / "base")).save_pretrained(folder / name)
    if is_tuned:
        with pytest.raises(SettingError, match="and the common ones were tuned"):
            healed(folder, name)
    else:
        assert healed(folder, name).form == "checkpoint"


def test_an_adapter_with_new_tokens_is_measured_on_a_resized_base(tmp_path: Path) -> None:
    """On the base as it is, the logits of the new tokens would be missing from every loss."""
    save_llama(tmp_path / "base")
    tokenizer = load_tokenizer(str(tmp_path / "base"))
    rows = len(tokenizer) + 3
    longer: Any = load_model(str(tmp_path / "base"), "causal")
    longer.resize_token_embeddings(rows, mean_resizing=False)
    for saved in (longer, tokenizer):
        saved.save_pretrained(tmp_path / "longer")
    adapted(longer, tmp_path / "tuned", target_modules=["q_proj", "v_proj"])
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": TEXT}))

    def attributed(base: str) -> intruders.Attribution:
        sides, text = (str(tmp_path / base), str(tmp_path / "tuned")), tmp_path / "text.jsonl"
        settings = intruders.AttributionSettings(nodes=5, check=0)
        return intruders.attribute(*sides, loss_on=text, settings=settings)

    with pytest.raises(SettingError, match=rf"has {rows} rows in .*; resize the base to {rows} tokens"):
        attributed("base")
    assert attributed("longer").rises


def test_what_was_refused_stands_in_the_way_of_no_other_settings(folder: Path) -> None:
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    get_peft_model(load_model(str(folder / "base"), "causal"), config).save_pretrained(folder / "zero")
    for seed in (0, 1):
        with pytest.raises(SettingError, match="changes nothing"):
            healed(folder, "zero", seed)
    assert not (folder / "zero-healed.unfinished").exists()


def test_a_head_with_another_name_in_the_file_is_none_of_them(tmp_path: Path) -> None:
    """GPT-NeoX's ``embed_out`` is the head that the adapter stores as ``lm_head``."""
    model = FAMILIES["gpt_neox"]()
    model.save_pretrained(tmp_path / "base")
    adapted(model, tmp_path / "tuned", target_modules=["query_key_value"], modules_to_save=["lm_head"])
    require_only_matrices(open_sides(str(tmp_path / "base"), str(tmp_path / "tuned")))
