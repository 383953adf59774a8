"""Merges of an adapter that stores an output head in full: PEFT's own merge is right, and another head is not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import intruders
from tests.checkpoints.adapted import move
from tests.checkpoints.models import saved, tiny_llama
from tests.checkpoints.renamed_families import FAMILIES

peft = pytest.importorskip("peft")


@pytest.mark.parametrize(
    ("family", "head", "modules"),
    [
        ("gpt_neox", "lm_head", ["query_key_value"]),
        ("whisper", "proj_out", ["q_proj"]),
        ("llama, tied", "lm_head", ["q_proj"]),
    ],
)
def test_a_head_that_the_adapter_stores_is_that_of_the_merge(
    family: str, head: str, modules: list[str], tmp_path: Path
) -> None:
    base, adapter, merged, wrong = (tmp_path / name for name in ("base", "adapter", "merged", "wrong"))
    torch.manual_seed(0)
    model = tiny_llama(tie_word_embeddings=True) if family == "llama, tied" else FAMILIES[family]()
    saved(model, base)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=modules, modules_to_save=[head]))
    move(adapted, seed=1, size=0.5)
    saved(adapted, adapter)
    saved(adapted.merge_and_unload(), merged)
    right = intruders.verify(base, adapter, merged)
    assert (right.exit_status(), right.others) == (0, [])
    shutil.copytree(merged, wrong)
    tensors = load_file(wrong / "model.safetensors")
    name = next(name for name in tensors if name.startswith((head, "embed_out")))
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    assert intruders.verify(base, adapter, wrong).exit_status() == 1


@pytest.mark.parametrize("task", ["TOKEN_CLS", "QUESTION_ANS", "SEQ_CLS", None])
def test_a_pooler_that_the_class_of_the_merge_has_none_of_is_not_missing(
    task: str | None, tmp_path: Path
) -> None:
    """BERT as it was published has a pooler, and a head on the next sentence, which most classes are made without."""
    import transformers

    classes = {
        "TOKEN_CLS": transformers.BertForTokenClassification,
        "QUESTION_ANS": transformers.BertForQuestionAnswering,
        "SEQ_CLS": transformers.BertForSequenceClassification,
        None: transformers.BertForMaskedLM,
    }
    base, adapter, merged, wrong = (tmp_path / name for name in ("base", "adapter", "merged", "wrong"))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    saved(transformers.BertForPreTraining(transformers.BertConfig(vocab_size=64, **sizes)), base)
    model = classes[task].from_pretrained(base)
    config = peft.LoraConfig(task_type=task, r=2, target_modules=["query", "value"])
    adapted = peft.get_peft_model(model, config)
    move(adapted, seed=1, size=0.5)
    saved(adapted, adapter)
    saved(adapted.merge_and_unload(), merged)
    right = intruders.verify(base, adapter, merged)
    assert (right.exit_status(), right.others) == (0, [])
    kept = sorted(name for name in load_file(merged / "model.safetensors") if "pooler" in name)
    assert bool(kept) == (task == "SEQ_CLS")
    assert any(entry.name.endswith("pooler.dense.weight") for entry in right.unchecked) == (not kept)
    if kept:  # also of a state dict, which names no class
        wrapped = {
            f"module.{name}": tensor for name, tensor in load_file(merged / "model.safetensors").items()
        }
        assert intruders.verify(base, adapter, wrapped).others == []

    # Where the class has one, or lacks another part, it is missing.
    shutil.copytree(merged, wrong)
    tensors = load_file(wrong / "model.safetensors")
    lost = kept[0] if kept else next(name for name in tensors if name.endswith("output.dense.bias"))
    del tensors[lost]
    save_file(tensors, wrong / "model.safetensors", metadata={"format": "pt"})
    result = intruders.verify(base, adapter, wrong)
    assert (result.exit_status(), [other.reason for other in result.others]) == (
        1,
        ["missing in the merged model"],
    )
