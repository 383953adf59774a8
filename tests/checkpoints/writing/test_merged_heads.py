"""A head that an adapter brings, and its base has none for, is written with the merged model and asked for in it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaModel,
)

import intruders
from intruders.errors import CheckpointError
from tests.checkpoints.models import randomize_adapter, saved

TOKENS = torch.tensor([[0, 5, 9, 12, 2]])
SMALL = {
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}


@pytest.fixture(
    params=[RobertaForMaskedLM, RobertaModel], ids=["base with its own head", "base without a head"]
)
def folders(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Path]:
    """A base, and the adapter of a classifier on it, as the recipes of PEFT train one."""
    torch.manual_seed(0)
    base = saved(request.param(RobertaConfig(**SMALL)), tmp_path / "base")
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    tuned = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"]))
    randomize_adapter(tuned)
    return base, saved(tuned, tmp_path / "adapter")


def peft_model(base: Path, adapter: Path) -> PeftModel:
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    return PeftModel.from_pretrained(model, adapter).eval()


def test_the_written_checkpoint_classifies_as_peft_does(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    intruders.write_at_scale(base, adapter, 1.0, tmp_path / "written", form="checkpoint")
    written = AutoModelForSequenceClassification.from_pretrained(tmp_path / "written", num_labels=3).eval()
    with torch.no_grad():
        torch.testing.assert_close(written(TOKENS).logits, peft_model(base, adapter)(TOKENS).logits)


def test_a_new_head_stays_as_tuned_at_another_scale(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    intruders.write_at_scale(base, adapter, 0.5, tmp_path / "written", form="checkpoint")
    written = load_file(tmp_path / "written" / "model.safetensors")
    truth = peft_model(base, adapter).merge_and_unload().state_dict()
    head = {name for name in truth if name.startswith("classifier")}
    assert len(head) == 4
    assert all(torch.equal(written[name], truth[name]) for name in head)


def test_a_sum_of_two_heads_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    with pytest.raises(CheckpointError, match=r"sum of adapters that store 'classifier.*merge it first"):
        intruders.write_at_scale(
            base, f"{adapter}@0.5+{adapter}@0.5", 0.5, tmp_path / "written", form="checkpoint"
        )
    assert not os.path.lexists(tmp_path / "written")


def test_a_merge_needs_the_new_head_and_not_the_old(folders: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = folders
    merged = saved(peft_model(base, adapter).merge_and_unload(), tmp_path / "merged")
    right = intruders.verify(base, adapter, merged)
    assert right.exit_status() == 0
    old = {name for name in load_file(base / "model.safetensors") if name.startswith("lm_head")}
    assert {other.name for other in right.unchecked} >= old

    tensors = load_file(merged / "model.safetensors")
    name = "classifier.out_proj.weight"
    for changed, reason in [
        ({name: tensors[name] * 2}, "other numbers than the adapter saved"),
        ({name: tensors[name][:2].clone()}, "other shape: (3, 16) and (2, 16)"),
        (None, "missing in the merged model"),
    ]:
        kept = {other: tensor for other, tensor in tensors.items() if changed is not None or other != name}
        save_file(kept | (changed or {}), merged / "model.safetensors", metadata={"format": "pt"})
        wrong = intruders.verify(base, adapter, merged)
        assert [(other.name, other.reason) for other in wrong.others] == [(name, reason)]
        assert wrong.exit_status() == 1


def test_a_head_that_is_the_embedding_is_not_one_that_the_adapter_brings(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = saved(BertForMaskedLM(BertConfig(**SMALL)), tmp_path / "base")
    model = AutoModelForMaskedLM.from_pretrained(base)
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["query", "value"]))
    randomize_adapter(tuned)
    tuned.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    assert any("cls.predictions.decoder" in name for name in stored)
    merged = saved(tuned.merge_and_unload(), tmp_path / "merged")
    assert intruders.verify(base, tmp_path / "adapter", merged).exit_status() == 0
    intruders.write_at_scale(base, tmp_path / "adapter", 1.0, tmp_path / "written", form="checkpoint")
    assert load_file(tmp_path / "written" / "model.safetensors").keys() == (
        load_file(base / "model.safetensors").keys()
    )
