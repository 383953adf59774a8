"""The type that models are loaded in, and what is kept of their measurements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import save_bert, save_llama

from intruders.errors import SettingError
from intruders.measures.evaluate import evaluate
from intruders.measures.kept_outcomes import KeptOutcomes
from intruders.measures.measure_settings import LossSettings
from intruders.models.loading import load_model
from intruders.models.loading_settings import Loading
from intruders.models.stored_dtype import dtype_to_load, recorded_dtypes
from intruders.models.tuned_model import open_language_model
from intruders.studies.work.base_losses import base_losses, corpora_of
from intruders.training.finetune_config import FinetuneConfig


def in_half(folder: Path) -> Path:
    """The same model in bfloat16."""
    from transformers import AutoModelForCausalLM

    base = save_llama(folder / "single")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    for file in base.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    model.save_pretrained(folder)
    return folder


def text(folder: Path) -> str:
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.txt").write_text(f"document {number}: " + "one two three four " * (3 + number))
    return str(folder)


@pytest.mark.parametrize("named", [True, False])
def test_auto_is_the_type_of_the_checkpoint(named: bool, tmp_path: Path) -> None:
    """The type is that of the configuration, or of the files where the configuration names none."""
    half = in_half(tmp_path)
    for folder in (half, half / "single"):
        config = json.loads((folder / "config.json").read_text())
        assert config.pop("dtype")
        if not named:
            (folder / "config.json").write_text(json.dumps(config))
    assert dtype_to_load(str(half), Loading()) == torch.bfloat16
    assert dtype_to_load(str(half / "single"), Loading()) == torch.float32
    model: Any = load_model(str(half), "causal")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    single: Any = load_model(str(half), "causal", loading=Loading(dtype="float32"))
    assert {parameter.dtype for parameter in single.parameters()} == {torch.float32}


def test_a_masked_model_and_its_classifier_have_the_type_asked_for(tmp_path: Path) -> None:
    bert = str(save_bert(tmp_path / "bert"))
    assert open_language_model(bert, loading=Loading(dtype="float16")).dtype == torch.float16
    classifier: Any = load_model(bert, "classification", ["a", "b"], Loading(dtype="bfloat16"))
    assert classifier.dtype == torch.bfloat16


def test_what_is_kept_in_one_type_is_not_found_in_another(tmp_path: Path) -> None:
    half = str(in_half(tmp_path))
    assert recorded_dtypes(Loading(), [half]) == {"dtype": ["bfloat16"]}
    # As earlier versions kept it, which measured every model in single precision.
    assert recorded_dtypes(Loading(dtype="float32"), [half]) == {}
    kept = KeptOutcomes(tmp_path / "kept", {"weights": 1, **recorded_dtypes(Loading(), [half])})
    kept.put_plain({"part": 1}, 3.0)
    other = KeptOutcomes(
        tmp_path / "kept", {"weights": 1, **recorded_dtypes(Loading(dtype="float32"), [half])}
    )
    assert kept.get_plain({"part": 1}) == 3.0
    assert other.get_plain({"part": 1}) is None


def test_losses_of_a_studys_base_are_measured_again_in_another_type(tmp_path: Path) -> None:
    half = in_half(tmp_path / "half")
    settings = LossSettings(loss_on=(text(tmp_path / "texts"),))
    corpora = corpora_of(settings)
    (name,) = corpora
    both = [
        base_losses(str(half), settings, corpora, tmp_path / "bases", loading)[name][0].mean
        for loading in (Loading(), Loading(dtype="float32"), Loading())
    ]
    assert both[0] == both[2] != both[1]
    assert both[0] == pytest.approx(both[1], abs=0.02)  # logits of 8 bits: up to 2^-8 of about 4 nats a token
    # Under one name, weights of another type are other weights.
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps(config | {"dtype": "float32"}))
    assert base_losses(str(half), settings, corpora, tmp_path / "bases", Loading())[name][0].mean == both[1]


def test_the_type_is_told(tmp_path: Path) -> None:
    half = in_half(tmp_path / "half")
    losses = LossSettings(loss_on=(text(tmp_path / "texts"),))
    told = evaluate(str(half), losses=losses)
    assert told.notes == ["measured in bfloat16; losses are summed in double precision"]
    differing = evaluate(str(half), base=str(half / "single"), losses=losses)
    assert "the model is measured in bfloat16 and its base in float32" in differing.notes[0]
    same = evaluate(str(half), base=str(half / "single"), losses=losses, loading=Loading(dtype="float32"))
    assert same.notes == []


def test_an_adapter_computes_in_single_precision_beside_its_base(tmp_path: Path) -> None:
    """An update below the rounding of the weights counts; in the weights it would be rounded away."""
    from peft import LoraConfig, get_peft_model

    half = in_half(tmp_path / "half")
    model: Any = get_peft_model(
        load_model(str(half), "causal", loading=Loading(dtype="float32")),
        LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["lm_head"], init_lora_weights=False),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # of 2^-10 of the weights: less than half a step of bfloat16
            parameter.data *= 2**-10 / float(parameter.data.abs().max())
    model.save_pretrained(tmp_path / "adapter")
    opened = open_language_model(str(tmp_path / "adapter"), str(half))
    layer: Any = opened.model.get_submodule("lm_head")
    inputs = torch.randn(3, 32).to(torch.bfloat16)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    own = torch.nn.functional.linear(inputs, layer.base_layer.weight)
    expected = own + layer.scaling["default"] * (inputs.float() @ a.mT) @ b.mT
    assert a.dtype == torch.float32
    assert layer(inputs).dtype == torch.bfloat16
    assert torch.equal(layer(inputs), expected.to(torch.bfloat16))


def test_weights_that_are_trained_have_single_precision(tmp_path: Path) -> None:
    def config(method: str, dtype: str) -> FinetuneConfig:
        return FinetuneConfig(base="b", task="t", out="o", steps=1, method=method, dtype=dtype)

    assert config("lora", "auto").loading("causal") == Loading()
    assert config("full", "auto").loading("causal").dtype == "float32"
    assert config("lora", "auto").loading("classification").dtype == "float32"
    with pytest.raises(SettingError, match="method 'pissa' changes the base's weights"):
        config("pissa", "bfloat16")
    with pytest.raises(SettingError, match="the head of a classification task"):
        config("lora", "bfloat16").loading("classification")
