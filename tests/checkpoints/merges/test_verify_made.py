"""Merges of what PEFT's own code makes, and of heads, which verify has to tell apart."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import intruders
from intruders.checkpoints.merges.verdict import ANOTHER_SCALE, APPLIED, NOT_PROVED, TOO_SMALL
from tests.checkpoints.adapted import move
from tests.checkpoints.merged_models import (
    TARGETS,
    TYPES,
    WEIGHTS,
    Models,
    State,
    adapted,
    lora,
    verdicts,
    weights,
    wide_llama,
)
from tests.checkpoints.models import saved, tiny_llama
from tests.checkpoints.peft_types import MADE_BY_PEFT
from tests.checkpoints.renamed_families import FAMILIES


@pytest.mark.parametrize("method", ["oft", "hra", "miss", "vera", "randlora", "boft", "fourierft"])
@pytest.mark.parametrize("base", TYPES)
def test_a_merge_of_a_type_that_peft_makes_is_the_same_bit_for_bit(
    tmp_path: Path, base: str, method: str
) -> None:
    config = peft.VeraConfig(r=4, target_modules=TARGETS) if method == "vera" else MADE_BY_PEFT[method]()
    model = peft.get_peft_model(wide_llama().to(TYPES[base]), config)
    move(model, seed=1, size=0.1)
    saved(wide_llama().to(TYPES[base]), tmp_path / "base")
    saved(model, tmp_path / "adapter")
    merged = weights(copy.deepcopy(model).merge_and_unload())
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", merged)
    assert found.counts == {APPLIED: 4}, found.matrices
    assert all("bit for bit" in str(one.found.precision) for one in found.matrices)
    move(model, seed=2, size=0.1)  # another adapter, of which the file knows nothing
    other = intruders.verify(tmp_path / "base", tmp_path / "adapter", weights(model.merge_and_unload()))
    assert not verdicts(other) & {APPLIED, TOO_SMALL}
    unmerged = intruders.verify(tmp_path / "base", tmp_path / "adapter", tmp_path / "base")
    assert unmerged.exit_status() != 0


OTHER_METHODS: dict[str, Callable[[], peft.PeftConfig]] = {
    "dora": lambda: lora(use_dora=True),
    "rslora": lambda: lora(use_rslora=True),
    "loha": lambda: peft.LoHaConfig(r=4, alpha=6, target_modules=TARGETS),
    "lokr": lambda: peft.LoKrConfig(r=4, alpha=6, target_modules=TARGETS),
    "adalora": lambda: peft.AdaLoraConfig(init_r=4, target_modules=TARGETS, total_step=10),
    "vera": lambda: peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "ia3": lambda: peft.IA3Config(target_modules=["q_proj", "down_proj"], feedforward_modules=["down_proj"]),
}


@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("method", OTHER_METHODS)
def test_other_methods(tmp_path: Path, method: str, base: str) -> None:
    models = Models(tmp_path, OTHER_METHODS[method](), base)
    found = models.verify(models.merged)
    assert verdicts(found) == {APPLIED}
    assert found.exit_status() == 0
    assert models.verify(models.base).exit_status() == 1
    after = merged_in_single_precision(models)
    for scale in (1.01, 0.9, -1.0, 2.0):
        off = models.verify(scaled(models.base, after, scale))
        assert off.exit_status() == 1
        assert verdicts(off) <= {ANOTHER_SCALE, TOO_SMALL}


def merged_in_single_precision(models: Models) -> State:
    """W0 + D with the D that PEFT makes of W0 in single precision."""
    model = type(wide_llama()).from_pretrained(models.folder / "base", dtype=torch.float32)
    return weights(peft.PeftModel.from_pretrained(model, models.folder / "adapter").merge_and_unload())


def scaled(base: State, after: State, scale: float) -> State:
    """W0 + scale * D, rounded once to the type of W0."""
    return {
        name: (one.float() + scale * (after[name] - one.float())).to(one.dtype) if name in WEIGHTS else one
        for name, one in base.items()
    }


@pytest.mark.parametrize("adapter", ["bfloat16", "float16"])
@pytest.mark.parametrize("base", TYPES)
@pytest.mark.parametrize("method", ["dora", "loha", "lokr", "ia3"])
def test_steps_in_half_precision_are_never_called_wrong(
    tmp_path: Path, method: str, base: str, adapter: str
) -> None:
    model = adapted(OTHER_METHODS[method](), base, adapter)
    saved(wide_llama().to(TYPES[base]), tmp_path / "base")
    saved(model, tmp_path / "adapter")
    found = intruders.verify(tmp_path / "base", tmp_path / "adapter", model.merge_and_unload())
    assert verdicts(found) <= {APPLIED, NOT_PROVED, TOO_SMALL}, found.matrices
    assert found.exit_status() in (0, 3)


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
