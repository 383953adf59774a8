"""The type that models are loaded in, and what is kept of their measurements."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from intruders.data.corpora import load_all
from intruders.errors import CheckpointError, MissingDependencyError, SettingError
from intruders.measures import text_loss
from intruders.measures.evaluate import evaluate
from intruders.measures.measure_settings import LossSettings
from intruders.models.loading import load_model, load_tokenizer
from intruders.models.loading_settings import Loading, require_whole_weights
from intruders.models.stored_dtype import dtype_to_load, recorded_dtypes
from intruders.models.tuned_model import open_language_model
from intruders.studies.measure_stages import base_losses
from intruders.system.out_of_memory import Halving, is_out_of_memory
from intruders.training.finetune_config import FinetuneConfig
from tests.checkpoints.models import set_factors
from tests.tiny import save_bert, save_llama, short_texts
from tests.training.tiny_runs import logits_of


def in_half(folder: Path) -> Path:
    """A model in bfloat16, and the same one in single precision in a folder of its own."""
    base = save_llama(folder / "single")
    shutil.copytree(base, folder, dirs_exist_ok=True)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(folder)
    return folder


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


def test_a_causal_model_has_no_weight_at_random(tmp_path: Path) -> None:
    """A tied head is in no file, and has its weights; a body alone and a classifier have no head."""
    llama = save_llama(tmp_path / "llama")
    AutoModelForCausalLM.from_pretrained(llama).model.save_pretrained(tmp_path / "body")
    config = LlamaConfig.from_pretrained(llama)
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "classifier")
    for name in ("body", "classifier"):
        with pytest.raises(CheckpointError, match=r"lacks weights of a causal .*: 'lm_head.weight'; "):
            load_model(str(tmp_path / name), "causal")
    config.tie_word_embeddings = True
    torch.manual_seed(3)
    tied = LlamaForCausalLM(config)
    tied.save_pretrained(tmp_path / "tied")
    with safe_open(tmp_path / "tied" / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118
    assert torch.equal(logits_of(load_model(str(tmp_path / "tied"), "causal")), logits_of(tied))


def test_errors_quote_what_was_given_and_no_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llama = AutoModelForCausalLM.from_pretrained(save_llama(tmp_path / "llama"))
    llama.model.save_pretrained(tmp_path / "body")
    save_bert(tmp_path / "encoder", with_head=False)
    shutil.copytree(tmp_path / "llama", tmp_path / "unknown")
    (tmp_path / "unknown" / "model.safetensors").unlink()
    monkeypatch.chdir(tmp_path)
    for name, said in (
        ("body", "lacks weights of a causal language model: "),
        ("unknown", "cannot be loaded as a causal model by transformers: "),
        ("encoder", "has no masked-language-model head .*; pass as base a masked language model with its"),
    ):
        with pytest.raises(CheckpointError, match=f"^'{name}' {said}"):
            open_language_model(name)


def test_a_classifier_is_no_base_for_another_number_of_classes(tmp_path: Path) -> None:
    llama = save_llama(tmp_path / "llama")
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    LlamaForSequenceClassification(LlamaConfig.from_pretrained(llama)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="number of classes is 2, and the task has 4; pass the base"):
        load_model(str(tmp_path), "classification", list("abcd"))
    same: Any = load_model(str(tmp_path), "classification", list("ab"))
    assert same.untrained == ()
    fresh: Any = load_model(str(llama), "classification", list("abcd"))
    assert fresh.untrained == ("score.weight",)


def test_a_masked_model_and_its_classifier_have_the_type_asked_for(tmp_path: Path) -> None:
    bert = str(save_bert(tmp_path / "bert"))
    assert open_language_model(bert, loading=Loading(dtype="float16")).dtype == torch.float16
    classifier: Any = load_model(bert, "classification", ["a", "b"], Loading(dtype="bfloat16"))
    assert classifier.dtype == torch.bfloat16


def test_single_precision_is_not_recorded(tmp_path: Path) -> None:
    half = str(in_half(tmp_path))
    assert recorded_dtypes(Loading(), [half]) == {"dtype": ["bfloat16"]}
    assert recorded_dtypes(Loading(dtype="float32"), [half]) == {}


def test_losses_of_a_studys_base_are_measured_again_in_another_type(tmp_path: Path) -> None:
    half = in_half(tmp_path / "half")
    settings = LossSettings(loss_on=(str(short_texts(tmp_path / "texts.jsonl", 4)),))
    corpora = load_all(settings.loss_on, max_documents=settings.max_documents, seed=0)
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
    losses = LossSettings(loss_on=(str(short_texts(tmp_path / "texts.jsonl", 4)),))
    told = evaluate(str(half), losses=losses)
    assert told.notes == ["measured in bfloat16; losses are summed in double precision"]
    differing = evaluate(str(half), base=str(half / "single"), losses=losses)
    assert "the model is measured in bfloat16 and its base in float32" in differing.notes[0]
    same = evaluate(str(half), base=str(half / "single"), losses=losses, loading=Loading(dtype="float32"))
    assert same.notes == []


def test_an_adapter_computes_in_single_precision_beside_its_base(tmp_path: Path) -> None:
    """An update below the rounding of the weights counts; in the weights it would be rounded away."""
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


def test_weights_that_are_trained_have_single_precision() -> None:
    def config(method: str, dtype: str, load_in: str | None = None) -> FinetuneConfig:
        given = {"method": method, "dtype": dtype, "load_in": load_in}
        return FinetuneConfig(base="b", task="t", out="o", steps=1, **given)  # type: ignore[arg-type]

    assert config("lora", "auto").loading("causal") == Loading()
    assert config("full", "auto").loading("causal").dtype == "float32"
    assert config("lora", "auto").loading("classification").dtype == "float32"
    with pytest.raises(SettingError, match="method 'pissa' changes the base's weights"):
        config("pissa", "bfloat16")
    for given in (("bfloat16", None), ("auto", "4bit")):
        with pytest.raises(SettingError, match="the head of a classification task is trained with the base"):
            config("lora", *given).loading("classification")


def test_a_batch_that_does_not_fit_is_halved_and_told_once() -> None:
    """A map that fails is memory that ran out too."""
    assert is_out_of_memory(RuntimeError("unable to mmap 9 bytes from file: Cannot allocate memory (12)"))
    sizes = []

    def measured(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        if len(items) > 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")
        return [10 * item for item in items]

    halving = Halving(is_on=True)
    with pytest.warns(UserWarning, match="a batch of 9 did not fit in memory") as told:
        results = halving.results(range(9), measured)
    assert results == [10 * item for item in range(9)]
    assert len(told) == 1
    assert halving.results(range(4), measured) == [0, 10, 20, 30]  # a second warning would be an error
    assert sizes == [9, 4, 2, 2, 2, 2, 1, 2, 2]
    with pytest.raises(RuntimeError, match="can't allocate"):
        Halving(is_on=False).results(range(9), measured)
    with pytest.raises(ValueError, match="another"):
        Halving(is_on=True).results(range(2), Mock(side_effect=ValueError("another")))
    with pytest.raises(MemoryError):  # a single item cannot be halved
        Halving(is_on=True).results(range(1), Mock(side_effect=MemoryError))


def test_losses_do_not_depend_on_halving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, texts = str(save_llama(tmp_path / "base")), str(short_texts(tmp_path / "texts.jsonl", 4))
    expected = evaluate(base, losses=LossSettings((texts,), window=16)).losses[0].losses[0]
    real = text_loss.token_losses

    def in_little_memory(model: Any, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        if len(labels) > 3:
            raise MemoryError
        return real(model, inputs, labels)

    monkeypatch.setattr(text_loss, "token_losses", in_little_memory)
    with pytest.warns(UserWarning, match="batches are halved"):
        halved = evaluate(base, losses=LossSettings((texts,), window=16, batch_size="auto"))
    # Products of batches of another size are summed in another order.
    assert halved.losses[0].losses[0].sums == pytest.approx(expected.sums, rel=1e-5)
    with pytest.raises(MemoryError):
        evaluate(base, losses=LossSettings((texts,), window=16))


def test_a_batch_size_is_a_number_or_auto() -> None:
    assert LossSettings(batch_size="4").windows == 4
    assert LossSettings(batch_size="auto").windows is None
    for wrong in ("some", "0", 0):
        with pytest.raises(SettingError, match="expected a whole number of windows, 1 or more, or auto"):
            LossSettings(batch_size=wrong)


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_an_adapter_on_a_quantized_base_that_was_measured_first(load_in: str, tmp_path: Path) -> None:
    """Its loss is that of PEFT on a model that computed nothing before."""
    pytest.importorskip("bitsandbytes")
    base = str(save_llama(tmp_path / "base", width=128))
    config = LoraConfig(r=2, target_modules=["q_proj", "up_proj"])
    adapted: Any = get_peft_model(load_model(base, "causal"), config)
    set_factors(adapted, 0.05, 1)
    adapted.save_pretrained(tmp_path / "adapter")
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "The base knows this text."}))
    loading = Loading(load_in=load_in)
    losses = LossSettings((str(tmp_path / "text.jsonl"),))
    measured = evaluate(str(tmp_path / "adapter"), base=base, losses=losses, loading=loading)
    own: Any = load_model(base, "causal", loading=loading)
    assert own.get_submodule("model.layers.0.mlp.up_proj").weight.element_size() == 1
    fresh: Any = PeftModel.from_pretrained(own, str(tmp_path / "adapter"))
    [documents] = measured.losses[0].losses
    ids = load_tokenizer(base)("The base knows this text.", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = float(fresh.eval()(input_ids=ids, labels=ids).loss)
    # Windows are padded, and 8-bit layers round activations by the largest of a batch.
    assert documents.mean == pytest.approx(expected, abs=1e-3)


def test_quantizing_needs_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = str(save_llama(tmp_path / "base"))
    monkeypatch.setattr("intruders.models.loading.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="--load-in 4bit needs the package 'bitsandbytes'"):
        load_model(base, "causal", loading=Loading(load_in="4bit"))
    with pytest.raises(SettingError, match="load_in is '4bit', but this measurement changes weights"):
        require_whole_weights(Loading(load_in="4bit"))
    with pytest.raises(SettingError, match="device 'cuda:7' cannot be used here"):
        load_model(base, "causal", loading=Loading(device="cuda:7"))


def test_the_adapter_of_a_classifier_computes_beside_an_encoder_of_16_bits(tmp_path: Path) -> None:
    """As a model of text: the base's head and weights to the bit, and the update in single precision beside them."""
    base = str(save_bert(tmp_path / "base"))
    AutoModelForMaskedLM.from_pretrained(base).to(torch.bfloat16).save_pretrained(base)
    classifier: Any = load_model(base, "classification", ["a", "b"], Loading(dtype="float32"))
    targets = ["query", "dense"]
    config = LoraConfig(task_type="SEQ_CLS", r=2, target_modules=targets, init_lora_weights=False)
    adapter = get_peft_model(classifier, config)
    adapter.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "run.json").write_text(json.dumps({"task": {"labels": ["a", "b"]}}))
    opened = open_language_model(str(tmp_path / "adapter"), base)
    plain = AutoModelForMaskedLM.from_pretrained(base, dtype=torch.bfloat16)
    now = {name.replace(".base_layer", ""): value for name, value in opened.model.state_dict().items()}
    assert all(torch.equal(now[name], value) for name, value in plain.state_dict().items())

    single = open_language_model(str(tmp_path / "adapter"), base, Loading(dtype="float32")).model
    merged = AutoModelForMaskedLM.from_pretrained(base, dtype=torch.float32)
    of_base = logits_of(merged)
    merged.base_model.load_state_dict(adapter.merge_and_unload().bert.state_dict(), strict=False)
    logits = [logits_of(model) for model in (single, merged)]
    torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-5)
    assert (of_base - logits[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["llama", "gemma", "qwen2_moe", "mamba", "ctrl"])
def test_a_missing_tokenizer_is_told(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some classes of transformers make a tokenizer of nothing, others raise errors of several lines or of Python."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^'model' has no tokenizer .*; expected .*; copy the") as told:
        load_tokenizer(str((tmp_path / "model").resolve()))
    assert "\n" not in str(told.value)
    assert not str(told.value).endswith(": ")
