"""Losses from parts of the logits, against the libraries' own logits of everything."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, get_peft_model
from torch.nn.functional import log_softmax
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BartConfig,
    BartForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from intruders.models import token_losses as under_test
from intruders.models.encoding import IGNORED
from intruders.models.token_losses import losses_and_hits, token_losses
from tests.tiny import save_bert, save_gpt2, save_llama, save_roberta


def _gemma(_: Path) -> Any:
    """Its logits are capped behind the head, and its head is tied to the embeddings."""
    return Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=90, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5, sliding_window=16,
        )
    )  # fmt: skip


def _opt(_: Path) -> Any:
    """It calls the decoder in its body, and never the body."""
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=90, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, init_std=0.5,
            max_position_embeddings=64, word_embed_proj_dim=32, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def _bart(_: Path) -> Any:
    return BartForCausalLM(
        BartConfig(
            vocab_size=90, d_model=32, decoder_layers=2, decoder_ffn_dim=48, decoder_attention_heads=4, init_std=0.5,
            max_position_embeddings=64, is_decoder=True, is_encoder_decoder=False,
        )
    )  # fmt: skip


_ADAPTER = LoraConfig(r=2, init_lora_weights=False, task_type="CAUSAL_LM")
_PREFIX = PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM")
MODELS: dict[str, Callable[[Path], Any]] = {
    "llama": lambda folder: AutoModelForCausalLM.from_pretrained(save_llama(folder)),
    "gpt2": lambda folder: AutoModelForCausalLM.from_pretrained(save_gpt2(folder)),
    "gemma2": _gemma,
    "opt": _opt,
    "bart": _bart,
    "bert": lambda folder: AutoModelForMaskedLM.from_pretrained(save_bert(folder)),
    "roberta": lambda folder: AutoModelForMaskedLM.from_pretrained(save_roberta(folder)),
    "llama under an adapter": lambda folder: get_peft_model(MODELS["llama"](folder), _ADAPTER),
    "llama behind a learned prefix": lambda folder: get_peft_model(MODELS["llama"](folder), _PREFIX),
}


@pytest.mark.parametrize("name", MODELS)
def test_against_all_logits(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_test, "_FEWEST_PLACES", 3)
    monkeypatch.setattr(under_test, "_LOGITS_AT_ONCE", 1)
    torch.manual_seed(0)
    model = MODELS[name](tmp_path).eval()
    torch.manual_seed(1)
    ids = torch.randint(5, 90, (3, 11))
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    labels = torch.where((torch.rand(3, 11) < 0.6) & (mask == 1), torch.randint(5, 90, (3, 11)), IGNORED)
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    labels[0, 2] = logits[0, 2].argmax()
    scored = labels != IGNORED
    by_hand = -log_softmax(logits[scored].double(), dim=-1).gather(1, labels[scored][:, None])[:, 0]
    before = {key: type(value) for key, value in model.__dict__.items()}
    inputs = {"input_ids": ids, "attention_mask": mask}
    losses, hits = losses_and_hits(model, inputs, labels)
    assert torch.equal(token_losses(model, inputs, labels), losses)
    assert losses.tolist() == pytest.approx(by_hand.tolist(), rel=1e-5)
    assert hits.tolist() == (logits[scored].argmax(-1) == labels[scored]).tolist()
    assert hits.any()
    assert {key: type(value) for key, value in model.__dict__.items()} == before
    with torch.no_grad():
        assert torch.equal(model(input_ids=ids, attention_mask=mask).logits, logits), "left as it was"
