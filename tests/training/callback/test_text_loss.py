"""The loss on text at each audit: by hand, over the right base, and without a trace in the training."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from intruders.data.corpora import load_corpora
from intruders.errors import SettingError
from intruders.measures.measure_settings import LossSettings
from intruders.measures.text_loss import text_losses
from intruders.models.loading import load_model
from intruders.models.tuned_model import OpenedModel
from intruders.training.callback.callback import IntruderCallback
from intruders.training.callback.text_loss import TextLoss
from tests.tiny import save_bert
from tests.training.callback.trainers import TOKENS, logged, loss_by_hand, prepared, tiny_trainer


def _callback(texts: Path, **given: Any) -> IntruderCallback:
    return IntruderCallback(every=2, loss_on=str(texts), loss_tokens=TOKENS, **given)


@pytest.mark.parametrize("method", ["full", "lora", "dora", "pissa"])
@pytest.mark.parametrize("way", ["with a trainer", "without one"])
def test_the_rise_is_over_the_base(way: str, method: str, llama: Path, texts: Path, tmp_path: Path) -> None:
    model = prepared(llama, method)
    trainer = tiny_trainer(model, tmp_path)
    callback = _callback(texts, trainer=trainer if way == "with a trainer" else None)
    trainer.add_callback(callback)
    trainer.train()
    base = loss_by_hand(load_model(str(llama), "causal"), llama, texts)
    after = loss_by_hand(model, llama, texts)
    entries = logged(trainer, "forgetting/known")
    assert [entry["step"] for entry in entries] == [2, 4]
    # Single precision; PiSSA's start gives the base's weights up to rounding.
    assert callback.base_loss == pytest.approx(base, rel=1e-5)
    assert entries[-1]["forgetting/known/loss"] == pytest.approx(after, rel=1e-5)
    assert entries[-1]["forgetting/known"] == pytest.approx(after - base, abs=2e-5)
    assert abs(after - base) > 0.01, "the case shows something"
    assert 0 < entries[-1]["forgetting/share_of_time"] <= 1
    assert 0 < callback.share_of_time <= 1


def test_a_trained_adapter_is_turned_off_for_the_base(llama: Path, texts: Path, tmp_path: Path) -> None:
    """After it, what is trained and the mode of every module are as before."""
    model = prepared(llama, "lora").train()
    next(module for name, module in model.named_modules() if name.endswith("q_proj")).eval()
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    frozen = next(parameter for name, parameter in model.named_parameters() if "lora_A" in name)
    frozen.requires_grad_(False)  # PEFT's own switch would make it trainable
    before = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    modes = {name: module.training for name, module in model.named_modules()}
    callback = IntruderCallback(tiny_trainer(model, tmp_path), loss_on=str(texts), loss_tokens=TOKENS)
    assert {name: module.training for name, module in model.named_modules()} == modes
    base = load_model(str(llama), "causal")
    assert callback.base_loss == pytest.approx(loss_by_hand(base, llama, texts), rel=1e-5)
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == before
    assert callback.base_loss != pytest.approx(loss_by_hand(model, llama, texts), rel=1e-3), "it is on again"


@pytest.mark.parametrize("kind", ["a folder", "a model"])
def test_a_base_that_is_given_is_measured(kind: str, llama: Path, texts: Path, tmp_path: Path) -> None:
    model = prepared(llama, "full")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    base = str(llama) if kind == "a folder" else load_model(str(llama), "causal")
    trainer = tiny_trainer(model, tmp_path)
    callback = IntruderCallback(trainer, loss_on=str(texts), loss_tokens=TOKENS, base=base)
    expected = loss_by_hand(load_model(str(llama), "causal"), llama, texts)
    assert callback.base_loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("precision", [{}, {"bf16": True}])
def test_measuring_changes_no_weight(
    precision: dict[str, Any], llama: Path, texts: Path, tmp_path: Path
) -> None:
    """With dropout, which draws random numbers at every step; bit for bit."""

    def trained(callbacks: list[Any]) -> tuple[dict[str, Any], Any, Any]:
        torch.manual_seed(0)
        lora = LoraConfig(r=2, lora_alpha=8, lora_dropout=0.3, target_modules="all-linear")
        model = get_peft_model(load_model(str(llama), "causal"), lora)
        out = tmp_path / str(len(callbacks))
        tiny_trainer(model, out, callbacks=callbacks, max_steps=6, **precision).train()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        return state, torch.get_rng_state(), (random.random(), np.random.random())

    plain, plain_rng, plain_draws = trained([])
    seen, seen_rng, seen_draws = trained([_callback(texts, keep_forgetting_below=100.0)])
    assert plain.keys() == seen.keys()
    assert all(torch.equal(plain[name], seen[name]) for name in plain)
    assert torch.equal(plain_rng, seen_rng)
    assert plain_draws == seen_draws


def test_autocast_does_not_round_what_is_measured(llama: Path, texts: Path, tmp_path: Path) -> None:
    """accelerate wraps the forward pass of a full model; the loss is that of the weights themselves."""
    callback = _callback(texts)
    model = prepared(llama, "full")
    tiny_trainer(model, tmp_path, callbacks=[callback], bf16=True).train()
    fresh = load_model(str(llama), "causal")
    fresh.load_state_dict(model.state_dict())
    assert callback.forgetting is not None
    assert callback.base_loss is not None
    # bf16 has three digits: the difference would be in the third.
    after = loss_by_hand(fresh, llama, texts)
    assert callback.forgetting + callback.base_loss == pytest.approx(after, rel=1e-6)


def test_a_masked_model_is_measured_by_the_estimate(texts: Path, tmp_path: Path) -> None:
    location = save_bert(tmp_path / "bert")
    model = AutoModelForMaskedLM.from_pretrained(location)
    trainer = tiny_trainer(model, tmp_path / "out", callbacks=[_callback(texts)])
    trainer.train()
    documents = load_corpora(str(texts))[0].documents
    opened = OpenedModel(model, AutoTokenizer.from_pretrained(location), context=128, is_masked=True)
    after = text_losses(opened, documents, LossSettings(max_tokens=TOKENS, estimate=True)).mean
    assert trainer.state.log_history[-2]["forgetting/known/loss"] == pytest.approx(after, rel=1e-6)


def test_its_share_of_time_is_said_at_the_end(llama: Path, texts: Path, tmp_path: Path, capsys: Any) -> None:
    tiny_trainer(prepared(llama, "lora"), tmp_path, callbacks=[_callback(texts)], disable_tqdm=False).train()
    said = capsys.readouterr().err
    assert f"forgetting on {texts}: " in said
    assert "nats per token at step 4; measuring it took " in said
    tiny_trainer(prepared(llama, "lora"), tmp_path / "quiet", callbacks=[_callback(texts)]).train()
    assert "measuring it took" not in capsys.readouterr().err


def test_what_has_no_loss_on_text_is_refused(llama: Path, texts: Path, tmp_path: Path) -> None:
    location = save_bert(tmp_path / "bert")
    classifier = AutoModelForSequenceClassification.from_pretrained(location, num_labels=2)
    with pytest.raises(SettingError, match="BertForSequenceClassification is neither a causal nor a masked"):
        tiny_trainer(classifier, tmp_path, callbacks=[_callback(texts)])
    nameless = prepared(llama, "lora")
    nameless.get_base_model().config._name_or_path = ""
    with pytest.raises(SettingError, match=r"needs the model's tokenizer.*pass tokenizer="):
        tiny_trainer(nameless, tmp_path, callbacks=[_callback(texts)])


def test_a_base_of_16_bits_is_measured_in_the_trained_type(llama: Path, texts: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    shutil.copytree(llama, half)
    AutoModelForCausalLM.from_pretrained(llama).to(torch.bfloat16).save_pretrained(half)
    trained = AutoModelForCausalLM.from_pretrained(half, dtype=torch.float32)
    text = TextLoss(str(texts), 3, TOKENS)
    text.measure(trained)
    text.measure_base(trained, half)
    assert text.base == pytest.approx(loss_by_hand(trained, half, texts), rel=1e-6)
    assert text.rise == 0  # nothing was trained
