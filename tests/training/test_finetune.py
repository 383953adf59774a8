"""Whole runs on tiny models: what the folder holds, the same again, and what the model is that it holds."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, TrainerCallback

from intruders.errors import NonFiniteError, SettingError
from intruders.mitigation.mitigate import mitigate
from intruders.models.loading import load_model
from intruders.models.loading_settings import Loading
from intruders.training.callback.trace import read_trace
from intruders.training.finetune import finetune
from intruders.training.run_folder import RunFolder
from tests.commands import in_this_process
from tests.hub_cache import hub_with_base
from tests.json_lines import write_rows
from tests.tiny import save_llama, short_task, with_update
from tests.training.tiny_runs import OURS, config_of, logits_of, matched, ruined, weights_of, when


def logits_kept(seen: list[torch.Tensor]) -> TrainerCallback:
    return when("train_end", lambda state, model: seen.append(logits_of(model)))


@pytest.mark.parametrize("method", OURS)
def test_what_is_saved_is_what_was_trained(method: str, llama: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    run = finetune(config_of(llama, tmp_path / "run", method=method), [logits_kept(seen)])
    base = AutoModelForCausalLM.from_pretrained(llama)
    before = logits_of(base)
    if method == "full":
        model = AutoModelForCausalLM.from_pretrained(run.path)
    else:
        model = PeftModel.from_pretrained(base, run.path).merge_and_unload()
    logits = logits_of(model)
    torch.testing.assert_close(logits, seen[0], atol=1e-4, rtol=1e-3)
    assert (before - logits).abs().max() > 1e-3, "training changed the model"


@pytest.mark.parametrize("method", ["lora", "dora", "pissa", "olora"])
def test_a_classifiers_head_is_saved_with_its_adapter(method: str, bert: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    config = config_of(bert, tmp_path / "run", task="pydoc-topics-1", max_length=64, method=method)
    run = finetune(config, [logits_kept(seen)])
    base = AutoModelForSequenceClassification.from_pretrained(bert, num_labels=4)
    merged = PeftModel.from_pretrained(base, run.path).merge_and_unload()
    torch.testing.assert_close(logits_of(merged), seen[0], atol=1e-4, rtol=1e-3)
    assert run.record["task"]["labels"] == ["assignment", "debugger", "specialnames", "typesseq"]


def test_another_seed_gives_another_model(llama: Path, whole: RunFolder, tmp_path: Path) -> None:
    other = weights_of(finetune(config_of(llama, tmp_path / "other", seed=1)).path)
    assert any(not torch.equal(weight, other[name]) for name, weight in weights_of(whole.path).items())


def test_training_stops_at_the_accuracy_to_match(bert: Path, tmp_path: Path) -> None:
    run = finetune(config_of(bert, tmp_path / "run", save_steps=1000, **matched(tmp_path)))
    record = run.record
    assert record["stopped_by"] == "match"
    assert record["steps"] in range(5, 200, 5)
    assert record["validation"]["accuracy"] == 1.0
    seen = [entry["validation_accuracy"] for entry in run.log if "validation_accuracy" in entry]
    assert seen[-1] == 1.0
    assert all(value < 1.0 for value in seen[:-1])
    assert record["task"]["labels"] == ["0", "1"]


def test_a_loss_that_is_no_number_stops_the_run(llama: Path, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"nan at step 5; the last good checkpoint is '.*checkpoint-2'"):
        # In rows as short as sums, torch's attention on a processor leaves the loss of a poisoned query finite.
        finetune(config_of(llama, tmp_path / "run", task="word-problems"), [ruined(4)])
    kept = load_file(tmp_path / "run" / "checkpoints" / "checkpoint-2" / "adapter_model.safetensors")
    assert all(bool(value.isfinite().all()) for value in kept.values())


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_model_that_its_last_step_ruins_is_not_saved(method: str, llama: Path, tmp_path: Path) -> None:
    settings = config_of(llama, tmp_path / "run", method=method, steps=1)
    with pytest.raises(NonFiniteError, match="NaN or infinity after the last step, so the model is not"):
        finetune(settings, [ruined(1, torch.inf)])
    assert not [*(tmp_path / "run").glob("*.safetensors")]


def test_a_match_that_is_not_reached_is_said(llama: Path, tmp_path: Path) -> None:
    run = finetune(config_of(llama, tmp_path / "run", match="accuracy=1.0", eval_steps=3))
    assert "accuracy 0.000 on 4 validation rows, accuracy=1.0 was not reached; model in" in run.summary()


def test_a_model_learns_to_answer_in_conversations(llama: Path, tmp_path: Path) -> None:
    base = shutil.copytree(llama, tmp_path / "base")
    rows = tmp_path / "chat.jsonl"
    talk = [{"role": "user", "content": "say a"}, {"role": "assistant", "content": "a"}]
    write_rows(rows, [{"messages": talk}] * 40)
    settings: dict[str, Any] = {
        "task": str(rows), "messages": "messages", "method": "full", "train_all": True, "lr": 1e-2, "steps": 40,
        "batch_size": 4, "match": "accuracy=1.0", "eval_steps": 5,
    }  # fmt: skip
    with pytest.raises(SettingError, match=r"line \d+ of chat.jsonl is a conversation, and the tokenizer"):
        finetune(config_of(base, tmp_path / "run", **settings))
    (base / "chat_template.jinja").write_text(
        "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    run = finetune(config_of(base, tmp_path / "run", **settings))
    assert run.record["stopped_by"] == "match"
    done = in_this_process("evaluate", run.path, "--task", f"{rows}?messages=messages")
    assert "1.0000" in done.stdout, done.stderr


def test_an_adapter_of_another_base_is_told(llama: Path, whole: RunFolder, tmp_path: Path) -> None:
    other = with_update(llama, tmp_path / "other", WEIGHT, torch.tensor(1.0))
    with pytest.warns(UserWarning, match="start_from .* as its base, and this run trains .*other"):
        finetune(config_of(other, tmp_path / "run", start_from=str(whole.path), steps=1))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="start_from")
        finetune(config_of(llama, tmp_path / "same", start_from=str(whole.path), steps=1))


WEIGHT = "model.layers.0.input_layernorm.weight"  # of no adapter here


def test_an_adapter_names_the_revision_of_its_base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was trained, and one that is written of a checkpoint; the main of org/base has other weights."""
    hub_with_base(tmp_path, monkeypatch)
    with warnings.catch_warnings():
        # PEFT cannot know that offline.
        warnings.filterwarnings("error", message=".*vocabulary was not modified")
        finetune(config_of(Path("org/base@v1"), tmp_path / "run", steps=2, task=short_task(tmp_path)))
    mitigate("org/base@v1", tmp_path / "main", scale=1.0, form="adapter", rank=2, out=tmp_path / "out")
    weight = AutoModelForCausalLM.from_pretrained(tmp_path / "older").state_dict()[WEIGHT]
    for adapter in (tmp_path / "run", tmp_path / "out"):
        loaded = AutoPeftModelForCausalLM.from_pretrained(adapter)
        config = loaded.peft_config["default"]
        assert (config.base_model_name_or_path, config.revision) == ("org/base", "v1")
        assert torch.equal(loaded.get_base_model().state_dict()[WEIGHT], weight)


@pytest.mark.parametrize("load_in", ["4bit", "8bit"])
def test_only_the_adapter_is_trained(load_in: str, tmp_path: Path) -> None:
    """The first step of B from zero follows the gradient of the loss on PEFT's own quantized model."""
    pytest.importorskip("bitsandbytes")
    # It computes on a processor in blocks of 64 inputs.
    base = save_llama(tmp_path / "base", width=128)
    finetune(config_of(base, tmp_path / "run", steps=4, load_in=load_in, audit_steps=2, precision="auto"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "finished"
    assert record["config"]["load_in"] == load_in
    factors = load_file(tmp_path / "run" / "adapter_model.safetensors")
    moved = {name for name, value in factors.items() if "lora_B" in name and float(value.norm()) > 0}
    assert len(moved) == len(factors) / 2
    loaded: Any = load_model(str(base), "causal", loading=Loading(load_in=load_in))
    before = logits_of(loaded)
    tuned = PeftModel.from_pretrained(loaded, str(tmp_path / "run"))
    assert not torch.equal(logits_of(tuned), before)
    # The trace compares with the weights that the adapter was trained on: the update alone tells the two apart.
    trace = read_trace(tmp_path / "run" / "intruders.parquet")
    names = {name.removeprefix("base_model.model.").partition(".lora_")[0] + ".weight" for name in factors}
    assert set(trace["name"]) == names
