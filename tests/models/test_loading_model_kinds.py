"""Families of models that the auto classes load, each trained a few steps in full and by LoRA, and read back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, XLNetConfig, XLNetLMHeadModel

from intruders.audits.audit import audit
from intruders.errors import CheckpointError
from intruders.models.encoding import PadRight, pad_token_id
from intruders.models.loading import load_model, load_tokenizer
from intruders.training.finetune import finetune
from tests.tiny import character_tokenizer
from tests.training.tiny_runs import config_of, logits_of

_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
_DECODER = {**_SMALL, "num_key_value_heads": 2, "max_position_embeddings": 512}
_SIZES: dict[str, dict[str, Any]] = {
    "qwen2": _DECODER,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 512},
    "llama": _DECODER,
    "roberta": {**_SMALL, "max_position_embeddings": 66},
    "bert": {**_SMALL, "max_position_embeddings": 64},
}
# Linear modules of two layers: what both methods change.
_MATRICES = {"qwen2": 14, "llama": 14, "gpt2": 8, "roberta": 12, "bert": 13}


def _save(folder: Path, kind: str, task: str) -> Path:
    tokenizer = character_tokenizer(around=kind in ("roberta", "bert"))
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=1, eos_token_id=2, **_SIZES[kind]
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config) if task == "causal" else AutoModel.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize(
    ("kind", "task"),
    [
        ("qwen2", "causal"), ("gpt2", "causal"),
        ("roberta", "classification"), ("bert", "classification"), ("gpt2", "classification"),
        ("llama", "classification"),
    ],
)  # fmt: skip
def test_trained_and_audited(kind: str, task: str, method: str, tmp_path: Path) -> None:
    base = _save(tmp_path / "base", kind, task)
    given = {} if task == "causal" else {"task": "pydoc-topics-2", "max_length": 40}
    settings = {"method": method, "steps": 3, "max_eval_samples": 2} | given
    run = finetune(config_of(base, tmp_path / "run", **settings))
    found = audit(str(base), str(run.path))
    assert len(found.matrices) == _MATRICES[kind]
    assert {matrix.rank for matrix in found.matrices} == ({None} if method == "full" else {2})
    assert run.record["validation"]["accuracy"] is not None


@pytest.mark.parametrize("named", [None, 0])
def test_a_decoders_classifier_reads_the_last_token_of_each_row(named: int | None, tmp_path: Path) -> None:
    """transformers looks for padding by the config's token, which may be none, or another than the tokenizer's."""
    base = _save(tmp_path / "base", "llama", "classification")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"pad_token_id": named}))
    settings = json.loads((base / "tokenizer_config.json").read_text())
    settings.pop("pad_token", None)
    (base / "tokenizer_config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    model: Any = load_model(str(base), "classification", ["no", "yes"]).eval()
    padding = pad_token_id(load_tokenizer(str(base)))
    rows = [[5, 20, 31, 7], [44, 12]]
    batch = PadRight(padding)([{"input_ids": row, "labels": 0} for row in rows])
    batch.pop("labels")
    with torch.no_grad():
        together = model(**batch).logits
    for index, row in enumerate(rows):
        torch.testing.assert_close(together[index], logits_of(model, row)[0])


@pytest.mark.parametrize("kind", ["causal", "classification"])
def test_an_xlnet_is_refused(kind: Any, tmp_path: Path) -> None:
    tokenizer = character_tokenizer()
    sizes = {"d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 16}
    XLNetLMHeadModel(XLNetConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="is an XLNet, which sees the tokens that it would predict"):
        load_model(str(tmp_path), kind, ["a", "b"])
